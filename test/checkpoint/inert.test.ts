// Objects that lie beside the weights: those that say nothing of them are read over, what would act is refused, in Python's own pickles.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { Inert, type TorchValue, withTorchFile } from '../../lib/checkpoint/torch/checkpoint'
import { isInert } from '../../lib/checkpoint/torch/inert'
import { checkpointOf, string, zipOf } from '../support/torch-file'

const script = `
import argparse, array, collections, dataclasses, datetime, decimal, enum, fractions, json, pathlib, pickle, sys, types, uuid
def library(module, *names, base=object):
    made = types.ModuleType(module)
    for name in names:
        kind = type(name, (base,), {'__module__': module})
        setattr(made, name, kind)
    sys.modules[module] = made
    sys.modules.setdefault(module.split('.')[0], types.ModuleType(module.split('.')[0]))
    return made
class Color(enum.Enum):
    red = 1
@dataclasses.dataclass
class Config:
    lr: float = 1e-4
    path: object = None
omega = library('omegaconf.dictconfig', 'DictConfig')
base = library('omegaconf.base', 'ContainerMetadata')
easy = library('easydict', 'EasyDict', base=dict)
mine = library('my_project.config', 'TrainConfig')
container = omega.DictConfig()
container.__dict__.update(_metadata=base.ContainerMetadata(), _content={'lr': 1})
easydict = easy.EasyDict(lr=1, betas=[1, 2])
easydict.extra = easydict
train = mine.TrainConfig()
train.lr = 3
good = {
    'namespace': argparse.Namespace(lr=1, data=pathlib.PurePosixPath('/data/x')),
    'path': pathlib.PosixPath('/data'), 'windows path': pathlib.PureWindowsPath('c:/data'),
    'counter': collections.Counter({10: 1, 20: 2}), 'deque': collections.deque([1, 2], 5),
    'bytearray': bytearray(b'abc'), 'bytes': b'\\xff\\x00', 'complex': 1 + 2j, 'range': range(3), 'slice': slice(1, 2),
    'date': datetime.date(2020, 1, 2), 'datetime': datetime.datetime.now(datetime.timezone.utc), 'delta': datetime.timedelta(3),
    'decimal': decimal.Decimal('1.5'), 'fraction': fractions.Fraction(1, 3), 'uuid': uuid.UUID(int=5),
    'array': array.array('f', [1, 2]), 'simple': types.SimpleNamespace(a=1), 'enum': Color.red, 'dataclass': Config(path=Config()),
    'default': collections.defaultdict(list, a=[1]), 'class': Config, 'omegaconf': container, 'easydict': easydict, 'own': train,
}
try:
    import numpy
    good.update({'numpy float': numpy.float64(1.5), 'numpy array': numpy.arange(6).reshape(2, 3), 'numpy string': numpy.str_('x')})
    good.update({'numpy random': numpy.random.RandomState(1), 'numpy half': numpy.float16(0.5)})
except ImportError:
    pass
class Evil:
    def __init__(self, *reduced): self.reduced = reduced
    def __reduce__(self): return self.reduced
import builtins, codecs, functools, importlib, operator, os, runpy, shutil, subprocess, tempfile, ctypes, logging.config
evil = {
    'os.system': (os.system, ('true',)), 'popen': (os.popen, ('true',)), 'subprocess': (subprocess.Popen, (['true'],)),
    'run': (subprocess.run, (['true'],)), 'eval': (eval, ('1',)), 'exec': (exec, ('1',)), 'compile': (compile, ('1', '', 'eval')),
    'getattr': (getattr, ('x', 'upper')), 'import': (__import__, ('os',)), 'open': (open, ('/dev/null',)),
    'import_module': (importlib.import_module, ('os',)), 'attrgetter': (operator.attrgetter, ('system',)),
    'partial': (functools.partial, (os.system, 'true')),
    'runpy': (runpy.run_path, ('x.py',)), 'rmtree': (shutil.rmtree, ('x',)), 'loads': (pickle.loads, (b'N.',)),
    'cdll': (ctypes.CDLL, ('x',)), 'temporary': (tempfile.mkdtemp, ()), 'unlink': (pathlib.Path.unlink, (pathlib.PurePosixPath('x'),)),
    'logging': (logging.config.dictConfig, ({},)), 'decode': (codecs.decode, ('x', 'rot13')), 'map': (map, (print, [1])),
}
result = {}
for kind, cases in (('good', good), ('evil', {name: Evil(*r) for name, r in evil.items()})):
    for name, value in cases.items():
        for protocol in (2, 3, 4, 5):
            data = pickle.dumps({'weights': {'x': 1}, 'beside': value, 'after': [value, 7]}, protocol)
            result['%s %s %d' % (kind, name, protocol)] = data.hex()
print(json.dumps(result))
`

describe('objects beside the weights', () => {
  it("of Python's own pickles: what says nothing of them is read over, what would act is refused", function () {
    const python = spawnSync('python3', ['-c', script], { encoding: 'utf8', maxBuffer: 2 ** 26 })
    if (python.error) {
      console.log('      (skipped: there is no python3)')
      this.skip()
    }
    assert.equal(python.status, 0, python.stderr)
    return Promise.all(
      Object.entries<string>(JSON.parse(python.stdout)).map(async ([name, hex]) => {
        const read = () => rootOf(zipOf({ 'a/data.pkl': Buffer.from(hex, 'hex') }))
        if (name.startsWith('evil')) {
          await assert.rejects(read(), { name: 'DiffusionError', code: 'bad-file', message: /not allowed/ }, name)
          return
        }
        const root = (await read().catch((cause) => {
          throw new Error(`${name}: ${cause.message}`)
        })) as ReadonlyMap<string, TorchValue>
        assert.deepEqual(root.get('weights'), new Map([['x', 1]]), name)
        assert.equal((root.get('after') as readonly TorchValue[])[1], 7, name)
      }),
    )
  })

  it('a member of an enumeration is written as getattr by Python 3.11, which gets nothing else', async () => {
    const member = (owner: string) => `c__builtin__\ngetattr\n(${owner}${string('red')}tR`
    const beside = (opcodes: string) => rootOf(checkpointOf(`}(${string('a')}${opcodes}u.`))
    const root = (await beside(member('c__main__\nColor\n'))) as ReadonlyMap<string, TorchValue>
    assert.equal(String(root.get('a')), 'an object (__main__.Color)')
    const called = `${member('c__main__\nColor\n')}(tR`
    for (const evil of [member('cos\nsystem\n'), member('cos\nPathLike\n'), member(string('x')), called]) {
      await assert.rejects(beside(evil), { code: 'bad-file', message: /not allowed; torch.save\(model.state_dict/ })
    }
  })

  it('are known by their names, in full', () => {
    assert.ok(
      isInert('argparse', 'Namespace', true) && isInert('pytorch_lightning.utilities.parsing', 'AttributeDict', false),
    )
    for (const [module, name] of [
      ['argparse', 'FileType'],
      ['pathlib', 'PosixPath.unlink'],
      ['omegaconf', 'os.system'],
      ['omegaconf.os', 'system'],
      ['omegaconf', 'OmegaConf.load'],
      ['subprocess', 'Popen'],
      ['_posixsubprocess', 'Popen'],
      ['torch.hub', 'Load'],
      ['my_project', 'load'],
      ['my_project', '__class__'],
      ['constructor', 'constructor'],
      ['builtins', '__proto__'],
    ]) {
      for (const construct of [true, false]) assert.ok(!isInert(module, name, construct), `${module} ${name}`)
    }
    // A function's call of a class that nobody knows may be anything.
    assert.ok(isInert('my_project.config', 'Config', true) && !isInert('my_project.config', 'Config', false))
    assert.equal(String(new Inert('a.B')), 'an object (a.B)')
  })
})

const rootOf = (bytes: Uint8Array) => withTorchFile(bytes, async ({ value }) => value)
