/**
 * Objects that lie beside the weights and say nothing of them: options, paths, dates, containers of configuration libraries. What
 * a file says of one is read and dropped; its class is never looked up.
 */

/** What stands for such an object. */
export class Inert {
  /** @param name its class */
  constructor(readonly name: string) {}

  toString(): string {
    return `an object (${this.name})`
  }
}

const names = (text: string): readonly string[] => text.trim().split(/\s+/)

const builtins = names('bytearray bytes complex dict int list object range slice str tuple')
const paths = names('Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath')

/** Classes and functions of Python's own, by module: with any arguments they make plain data. */
const plain: Readonly<Record<string, readonly string[]>> = {
  argparse: ['Namespace'],
  array: ['array', '_array_reconstructor'],
  builtins,
  __builtin__: [...builtins, 'long', 'xrange'],
  collections: ['ChainMap', 'Counter', 'UserDict', 'UserList', 'UserString', 'deque'],
  datetime: ['date', 'datetime', 'time', 'timedelta', 'timezone'],
  decimal: ['Decimal'],
  enum: ['Enum', 'Flag', 'IntEnum', 'IntFlag', 'StrEnum'],
  fractions: ['Fraction'],
  ipaddress: ['IPv4Address', 'IPv6Address'],
  pathlib: paths,
  'pathlib._local': paths,
  types: ['MappingProxyType', 'SimpleNamespace'],
  uuid: ['SafeUUID', 'UUID'],
  zoneinfo: ['ZoneInfo'],
  copyreg: ['_reconstructor'],
  copy_reg: ['_reconstructor'],
  numpy: ['ndarray', 'dtype'],
  'numpy.core.multiarray': ['_reconstruct'],
  'numpy._core.multiarray': ['_reconstruct'],
  'numpy.core.numeric': ['_frombuffer'],
  'numpy._core.numeric': ['_frombuffer'],
  'numpy.random._pickle': ['__bit_generator_ctor', '__generator_ctor', '__randomstate_ctor'],
  torch: ['Generator'],
}

/** Libraries whose classes hold configurations, and those that a training leaves among its own. */
const libraries = names(`
  omegaconf hydra easydict addict munch box ml_collections yacs attr attrdict pydantic absl confuse dotmap
  simple_parsing jsonargparse mmcv mmengine detectron2 fvcore pytorch_lightning lightning lightning_fabric
  lightning_utilities lightning_lite torchmetrics accelerate diffusers transformers ema_pytorch torch_ema timm
  ldm guided_diffusion`)

/** Modules through which a program acts, or finds others: their classes are refused unless they are listed above. */
const guarded = names(`
  __builtin__ builtins os posix nt posixpath ntpath pathlib shutil tempfile glob io fileinput sys sysconfig site
  platform signal resource fcntl mmap ctypes gc atexit faulthandler subprocess multiprocessing threading
  concurrent asyncio sched pty commands popen2 runpy importlib imp pkgutil pkg_resources setuptools distutils
  pip ensurepip venv zipimport zipapp code codeop codecs compileall py_compile ast dis inspect types typing
  weakref contextlib functools itertools operator collections copy copyreg copy_reg string re logging warnings
  pickle cPickle pickletools dill cloudpickle joblib marshal shelve dbm sqlite3 zipfile tarfile pdb bdb cgitb
  trace traceback profile cProfile timeit doctest unittest test pydoc idlelib socket socketserver ssl select
  selectors http httplib urllib urllib2 requests aiohttp ftplib smtplib poplib imaplib telnetlib nntplib xmlrpc
  webbrowser tornado antigravity paramiko torch torchvision numpy scipy sklearn pandas tensorflow keras IPython
  nltk lib2to3`)

const isName = (name: string) => /^[A-Za-z_]\w*$/.test(name)
/** A class by its name; functions have none like that. */
const isClass = (name: string) => /^_?[A-Z]\w*$/.test(name) || name === 'edict'

/**
 * Whether what a call of this name makes is such an object. Nothing is called: what is refused is what would have done something,
 * had it been. `construct`: by the class's own __new__, which a pickle asks for with other words than a function's call.
 */
export function isInert(module: string, name: string, construct: boolean): boolean {
  if (Object.hasOwn(plain, module) && plain[module].includes(name)) return true
  const parts = module.split('.')
  const [root] = parts
  if (![...parts, name].every(isName)) return false
  if (libraries.includes(root)) return isClass(name) || /^(_?create|_?rebuild|_?reconstruct|_?unpickle)/.test(name)
  if (root === '__main__') return isClass(name)
  return construct && isClass(name) && !(Object.hasOwn(plain, root) || guarded.includes(root) || root.startsWith('_'))
}
