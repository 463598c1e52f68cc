// Models from one form to another and back: the same bits, whatever lies between.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { floatToHalf, halfToFloat } from '../../lib/checkpoint/dtypes'
import { readSafetensors, writeSafetensors } from '../../lib/checkpoint/safetensors'
import { readStateDictFile } from '../../lib/checkpoint/state-dict-file'
import { writeTorchCheckpoint } from '../../lib/checkpoint/torch/write'
import { readYaml, writeYaml } from '../../lib/checkpoint/yaml'
import { readSource, type SourceOptions } from '../../lib/convert/source'
import { type TargetOptions, writeTarget } from '../../lib/convert/target'
import { compVisConfig } from '../../lib/diffusion/formats/compvis-write'
import { DDPM, type DDPMOptions, loadModel, saveModel, Tensor, Trainer, type UNet } from '../../lib/index'
import { camelCase, Fixture, randomize } from '../diffusion/fixture'
import { assertCloseToScale, assertSameBits } from '../support/compare'
import { smallUNet } from '../support/small-unet'
import { runCli, temporaryFolder, tinyTraining, writeImages } from '../train/support'

const fixtures = path.join(__dirname, '..', '..', '..', 'test', 'fixtures')

/** With averages other than the weights. */
async function trained(options: Partial<DDPMOptions> = {}): Promise<DDPM> {
  const ddpm = new DDPM({ unetConfig: smallUNet, timesteps: 30, linearEnd: 0.3, device: 'cpu', seed: 3, ...options })
  await randomize(ddpm)
  ddpm.configureOptimizers({ lr: 0.01 })
  await ddpm.trainBatch(Tensor.randn([2, 3, 8, 8]))
  return ddpm
}

async function assertSameState(actual: DDPM, expected: DDPM): Promise<void> {
  const [left, right] = await Promise.all([actual.stateDict(), expected.stateDict()])
  assert.deepEqual(Object.keys(left).sort(), Object.keys(right).sort())
  for (const [name, tensor] of Object.entries(right)) {
    assert.deepEqual(left[name].shape, tensor.shape, name)
    if (tensor.dtype === 'float32') assertSameBits(await left[name].data(), await tensor.data(), name)
    else assert.deepEqual(await left[name].data(), await tensor.data(), name)
  }
}

describe('conversion', () => {
  const folder = temporaryFolder()
  const at = (name: string) => path.join(folder, name)
  const convert = async (source: string, target: string, o: TargetOptions & SourceOptions) => {
    const { config, ...options } = o
    const model = await readSource(source, { config })
    try {
      return await writeTarget(model, target, options)
    } finally {
      model.ddpm.dispose()
    }
  }
  /** What a model without averages computes. */
  const networkOf = async (ddpm: DDPM) => Object.values((await ddpm.trainingState()).weights)

  it('a checkpoint of ddpm.py through every form and back', async () => {
    using original = await trained()
    const options = original.config as DDPMOptions
    writeFileSync(at('first.yaml'), writeYaml(compVisConfig(options, (original.network as UNet).options)))
    const stateDict = Object.fromEntries(
      await Promise.all(
        Object.entries(await original.stateDict()).map(async ([name, tensor]) => {
          const data = await tensor.values()
          const dtype = data instanceof Float32Array ? ('F32' as const) : ('I32' as const)
          return [name, { dtype, shape: tensor.shape, data }] as const
        }),
      ),
    )
    await writeTorchCheckpoint(at('first.ckpt'), { stateDict, counters: { epoch: 2, global_step: 2 ** 33 } })

    assert.deepEqual(await convert(at('first.ckpt'), at('second.pt'), { to: 'ckpt' }), [
      at('second.pt'),
      at('second.yaml'),
    ])
    const { ddpm: second, kind, counters } = await readSource(at('second.pt'))
    assert.deepEqual([kind, counters], ['ckpt', { epoch: 2, global_step: 2 ** 33 }])
    await assertSameState(second, original)
    assert.deepEqual(second.config, { ...original.config })
    second.dispose()

    // A checkpoint keeps both; the others have one of them.
    for (const weights of ['ema', 'model'] as const) {
      await convert(at('second.pt'), at(`${weights}-folder`), { to: 'diffusers', weights })
      await convert(at(`${weights}-folder`), at(`${weights}.safetensors`), { to: 'model' })
      await convert(at(`${weights}.safetensors`), at(`${weights}.ckpt`), { to: 'ckpt' })
      await convert(at('second.pt'), at(`${weights}-direct.ckpt`), { to: 'ckpt', weights })
      const [round, direct] = await Promise.all(
        [`${weights}.ckpt`, `${weights}-direct.ckpt`].map((n) => readSource(at(n))),
      )
      const expected = (await original.trainingState())[weights === 'ema' ? 'ema' : 'weights']!
      for (const { ddpm } of [round, direct]) {
        assert.equal(ddpm.config.useEma, false)
        const { weights: actual } = await ddpm.trainingState()
        for (const [name, tensor] of Object.entries(expected)) {
          assertSameBits(await actual[name].data(), await tensor.data(), name)
        }
        ddpm.dispose()
      }
    }
  })

  it('a run of this project, and a model file', async () => {
    await writeImages(at('images'), 4, 8)
    const trainer = new Trainer(
      tinyTraining(at('images'), at('run'), { steps: 2, model: { timesteps: 20, unetConfig: smallUNet } }),
    )
    await trainer.run()
    await convert(at('run'), at('run.ckpt'), { to: 'ckpt' })
    await convert(at('run'), at('run.safetensors'), { to: 'model' })
    const [{ ddpm: whole }, { ddpm: run }] = [await readSource(at('run.ckpt')), await readSource(at('run'))]
    await assertSameState(whole, run)
    using model = await loadModel(at('run.safetensors'), { device: 'cpu' })
    const averages = (await run.trainingState()).ema!
    for (const [name, tensor] of Object.entries((await model.trainingState()).weights)) {
      assertSameBits(await tensor.data(), await averages[name].data(), name)
    }
    whole.dispose()
    run.dispose()
  })

  it("a model with a vector, as openaimodel's num_classes 'sequential'", async () => {
    using original = new DDPM({
      unetConfig: { ...smallUNet, vectorDim: 6 },
      timesteps: 30,
      device: 'cpu',
      useEma: false,
    })
    await randomize(original)
    await saveModel(at('vector.safetensors'), original, { config: original.config, training: {} })
    await convert(at('vector.safetensors'), at('vector.ckpt'), { to: 'ckpt' })
    const { model } = (await readYaml(at('vector.yaml'))) as never as {
      model: { params: { unet_config: { params: object } } }
    }
    const { num_classes, adm_in_channels } = model.params.unet_config.params as Record<string, unknown>
    assert.deepEqual([num_classes, adm_in_channels], ['sequential', 6])
    const { ddpm: read } = await readSource(at('vector.ckpt'))
    await assertSameState(read, original)
    assert.deepEqual(read.config, original.config)
    read.dispose()
    const refused = convert(at('vector.safetensors'), at('vector-folder'), { to: 'diffusers' })
    await assert.rejects(refused, { code: 'unsupported', argument: 'vectorEmbedding' })
  })

  for (const layout of ['openai', 'diffusers'] as const) {
    it(`a model that was told of augmentation samples the same without its layer (${layout})`, async () => {
      const unetConfig = { ...smallUNet, numClasses: 3, vectorEmbedding: 'augment', layout } as const
      using original = new DDPM({ unetConfig, timesteps: 30, linearEnd: 0.3, device: 'cpu' })
      await randomize(original)
      const draw = async (ddpm: DDPM) =>
        (await ddpm.sample({ batchSize: 1, seed: 1, steps: 3, classLabels: 2, timestepSpacing: 'linspace' })).data()
      const expected = await original.emaScope(() => draw(original))
      for (const [target, to] of [
        [at(`augment-${layout}`), 'diffusers'],
        [at(`augment-${layout}.ckpt`), 'ckpt'],
      ] as const) {
        assert.deepEqual(original.warnings(), [])
        using source = new DDPM(original.config as DDPMOptions)
        await source.loadStateDict(await original.stateDict())
        await writeTarget({ ddpm: source, kind: 'model' } as never, target, { to })
        assert.match(source.warnings().join(), /map_augment was left out/)
        const { ddpm } = await readSource(target)
        assert.equal(ddpm.network?.vectorDim, undefined)
        assertCloseToScale(await ddpm.emaScope(() => draw(ddpm)), expected, 1e-5, to)
        ddpm.dispose()
      }
    })
  }

  it('an unchanged diffusers folder, to a model file and back', async () => {
    const source = path.join(fixtures, 'diffusers_ddpm')
    await convert(source, at('golden.safetensors'), { to: 'model' })
    await convert(at('golden.safetensors'), at('golden'), { to: 'diffusers' })
    const weights = path.join('unet', 'diffusion_pytorch_model.safetensors')
    const [before, after] = await Promise.all([source, at('golden')].map((f) => readSafetensors(path.join(f, weights))))
    assert.deepEqual(after.tensors, before.tensors)
    // Norms of 8 groups and the like are nothing that openaimodel has an argument for.
    await assert.rejects(convert(source, at('golden.ckpt'), { to: 'ckpt' }), { code: 'unsupported' })
  })

  it('a model file in half precision, with how it was trained', async () => {
    using ddpm = await trained({ useEma: false })
    await saveModel(at('full.safetensors'), ddpm, { config: ddpm.config, training: { step: 7 } })
    await convert(at('full.safetensors'), at('half.safetensors'), { to: 'model', variant: 'fp16' })
    const [full, half] = await Promise.all(['full', 'half'].map((name) => readSafetensors(at(`${name}.safetensors`))))
    assert.deepEqual(half.metadata, full.metadata)
    for (const [name, { dtype, data }] of Object.entries(half.tensors)) {
      assert.equal(dtype, 'F16', name)
      const expected = Float32Array.from(full.tensors[name].data as Float32Array, (v) => halfToFloat(floatToHalf(v)))
      assertSameBits(data as Float32Array, expected, name)
    }
    using loaded = await loadModel(at('half.safetensors'), { device: 'cpu' })
    const image = await loaded.sample({ batchSize: 1, steps: 2, seed: 1 })
    assert.ok((await image.data()).every(Number.isFinite))
  })

  it('what does not go together is refused', async () => {
    using ddpm = await trained({ useEma: false })
    await saveModel(at('plain.safetensors'), ddpm, { config: ddpm.config, training: {} })
    const refused = (promise: Promise<unknown>, expected: object) =>
      assert.rejects(promise, { name: 'DiffusionError', ...expected })
    const plain = at('plain.safetensors')
    await refused(convert(at('none'), at('x'), { to: 'ckpt' }), { code: 'not-found' })
    await refused(convert(plain, at('x'), { to: 'model', weights: 'ema' }), { code: 'not-configured' })
    await refused(convert(plain, at('x'), { to: 'diffusers', weights: 'both' }), { argument: 'weights' })
    await refused(convert(plain, at('x.ckpt'), { to: 'ckpt', variant: 'fp16' }), { argument: 'variant' })
    await refused(convert(plain, at('x'), { to: 'diffusers', config: at('first.yaml') }), { argument: 'config' })
    copyFileSync(at('first.ckpt'), at('alone.ckpt'))
    await refused(convert(at('alone.ckpt'), at('x'), { to: 'diffusers' }), { code: 'not-found', argument: 'config' })
    writeFileSync(at('damaged.ckpt'), 'this is none')
    await refused(convert(at('damaged.ckpt'), at('x'), { to: 'diffusers', config: at('first.yaml') }), {
      code: 'bad-file',
    })
    const malicious = path.join(fixtures, 'checkpoints', 'malicious_system.ckpt')
    await refused(convert(malicious, at('x'), { to: 'diffusers', config: at('first.yaml') }), { code: 'bad-file' })
    assert.ok(!existsSync(at('x')) && !existsSync('PWNED'))
  })

  it('ddpm convert', async () => {
    const run = await runCli(['convert', at('second.pt'), at('cli.safetensors'), '--json'])
    assert.deepEqual([run.code, run.stderr], [0, ''])
    const { from, to, files } = JSON.parse(run.stdout)
    assert.deepEqual([from, to, files], ['ckpt', 'model', [at('cli.safetensors')]])
    using model = await loadModel(at('cli.safetensors'), { device: 'cpu' })
    assert.ok((await networkOf(model)).length > 0)
    assert.equal((await runCli(['convert', at('cli.safetensors'), at('cli-folder')])).code, 0)
    assert.ok(existsSync(at('cli-folder/model_index.json')))
    assert.equal((await runCli(['convert', at('cli.safetensors')])).code, 2)
    const wrong = await runCli(['convert', at('alone.ckpt'), at('y.safetensors')])
    assert.equal(wrong.code, 1)
    assert.match(wrong.stderr, /needs its configuration/)
  })
})

describe('written checkpoints', () => {
  const folder = temporaryFolder()

  it('of every type are read back, by Python as well', async function () {
    const file = path.join(folder, 'types.ckpt')
    const stateDict = {
      'a.weight': { dtype: 'F32', shape: [2, 3], data: Float32Array.of(1, -2, 0.5, Number.NaN, Infinity, -0) },
      scalar: { dtype: 'I32', shape: [], data: Int32Array.of(-7) },
      'a.long': { dtype: 'I64', shape: [2], data: BigInt64Array.of(2n ** 62n, -1n) },
      empty: { dtype: 'F32', shape: [0, 4], data: new Float32Array() },
      bytes: { dtype: 'U8', shape: [3], data: Uint8Array.of(0, 127, 255) },
      'ä.small': { dtype: 'I16', shape: [1], data: Int16Array.of(-300) },
    } as const
    await writeTorchCheckpoint(file, { stateDict, counters: { epoch: -1, global_step: 2 ** 40 } })
    const { tensors, counters } = await readStateDictFile(file)
    assert.deepEqual(counters, { epoch: -1, global_step: 2 ** 40 })
    assert.deepEqual(Object.keys(tensors), Object.keys(stateDict))
    for (const [name, tensor] of Object.entries(stateDict)) assert.deepEqual(tensors[name], tensor, name)

    const script = `
import array, collections, io, json, pickle, sys, zipfile
archive = zipfile.ZipFile(sys.argv[1])
assert archive.testzip() is None
codes = {'FloatStorage': 'f', 'IntStorage': 'i', 'LongStorage': 'q', 'ByteStorage': 'B', 'ShortStorage': 'h'}
class Reader(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) == ('collections', 'OrderedDict'): return collections.OrderedDict
        if (module, name) == ('torch._utils', '_rebuild_tensor_v2'): return lambda *given: given
        if module == 'torch' and name in codes: return codes[name]
        raise Exception(module + '.' + name)
    def persistent_load(self, pid):
        kind, code, key, device, size = pid
        data = array.array(code, archive.read('archive/data/' + key))
        assert kind == 'storage' and device == 'cpu' and len(data) == size
        return list(data)
root = Reader(io.BytesIO(archive.read('archive/data.pkl'))).load()
for name in archive.namelist():
    info = archive.getinfo(name)
    with open(sys.argv[1], 'rb') as f:
        f.seek(info.header_offset + 26)
        lengths = f.read(4)
    begin = info.header_offset + 30 + int.from_bytes(lengths[:2], 'little') + int.from_bytes(lengths[2:], 'little')
    assert begin % 64 == 0, name
print(json.dumps([root['epoch'], root['global_step'], archive.read('archive/version').decode(), [
    [name, [str(v) for v in data], offset, list(shape), list(stride), grad]
    for name, (data, offset, shape, stride, grad, hooks) in root['state_dict'].items()]]))
`
    const python = spawnSync('python3', ['-c', script, file], { encoding: 'utf8' })
    if (python.error) {
      console.log('      (skipped: there is no python3)')
      this.skip()
    }
    assert.equal(python.status, 0, python.stderr)
    const [epoch, step, version, read] = JSON.parse(python.stdout)
    assert.deepEqual([epoch, step, version], [-1, 2 ** 40, '3\n'])
    assert.deepEqual(read, [
      ['a.weight', ['1.0', '-2.0', '0.5', 'nan', 'inf', '-0.0'], 0, [2, 3], [3, 1], false],
      ['scalar', ['-7'], 0, [], [], false],
      ['a.long', [String(2n ** 62n), '-1'], 0, [2], [1], false],
      ['empty', [], 0, [0, 4], [4, 1], false],
      ['bytes', ['0', '127', '255'], 0, [3], [1], false],
      ['ä.small', ['-300'], 0, [1], [1], false],
    ])
  })

  it('of ddpm.py: what torch.save wrote is written with the same values', async () => {
    const original = path.join(fixtures, 'checkpoints', 'ddpm_unet.ckpt')
    const { tensors, counters } = await readStateDictFile(original)
    const file = path.join(folder, 'again.ckpt')
    await writeTorchCheckpoint(file, { stateDict: tensors, counters })
    const { budget: _, ...again } = await readStateDictFile(file)
    assert.deepEqual(again, { tensors, others: [], counters })
    const fixture = await Fixture.load('checkpoints/ddpm_unet.expected')
    const yaml = path.join(folder, 'again.yaml')
    const options = { ...camelCase(fixture.config.ddpm), unetConfig: camelCase(fixture.config.unet) } as DDPMOptions
    using ddpm = new DDPM({ ...options, device: 'cpu' })
    writeFileSync(yaml, writeYaml(compVisConfig(ddpm.config as DDPMOptions, (ddpm.network as UNet).options)))
    assert.ok((await readYaml(yaml)).model)
    const source = await readSource(file)
    const dict = await source.ddpm.stateDict()
    for (const [name, { data }] of Object.entries(tensors)) {
      assert.deepEqual(Array.from(await dict[name].data()), Array.from(data, Number), name)
    }
    source.ddpm.dispose()
  })

  it('halves are rounded to the nearest, to even where two are as near', async () => {
    const file = path.join(folder, 'halves.safetensors')
    const roundtrip = async (values: readonly number[]) => {
      await writeSafetensors(file, { x: { dtype: 'F16', shape: [values.length], data: Float32Array.from(values) } })
      return [...((await readSafetensors(file)).tensors.x.data as Float32Array)]
    }
    const finite: number[] = []
    for (let bits = 0; bits < 0x7c00; bits++) {
      const [exponent, fraction] = [bits >> 10, bits & 0x3ff]
      finite.push(exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15))
    }
    assert.deepEqual(await roundtrip(finite), finite)
    assert.deepEqual(
      await roundtrip(finite.map((v) => -v)),
      finite.map((v) => -v),
    )
    const between = finite.slice(1).map((v, i) => (v + finite[i]) / 2)
    assert.deepEqual(
      await roundtrip(between),
      between.map((_, i) => finite[i % 2 ? i + 1 : i]),
    )
    assert.deepEqual(await roundtrip(between.map((v) => Math.fround(v * (1 + 2 ** -20)))), finite.slice(1))
    const special = [65519, 65520, 1e9, Infinity, -Infinity, Number.NaN, 2 ** -26]
    assert.deepEqual(await roundtrip(special), [65504, Infinity, Infinity, Infinity, -Infinity, Number.NaN, 0])
  })
})
