// One way to name a model, for loadModel and for every command.
import assert from 'node:assert/strict'
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { readSource } from '../../lib/convert/source'
import { writeTarget } from '../../lib/convert/target'
import { type DDPM, loadModel } from '../../lib/index'
import { runCli, temporaryFolder, tinyFlags, writeImages } from '../train/support'

describe('naming a model', function () {
  this.timeout(120_000)
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const run = at('run')
  const checkpoint = path.join(run, 'checkpoints', 'step-00000002')
  /** All of them hold the run's averaged weights. */
  const names: Record<string, string> = {
    'a run': run,
    "a run's checkpoints": path.join(run, 'checkpoints'),
    'a checkpoint': checkpoint,
    'a file of a checkpoint': path.join(checkpoint, 'model.safetensors'),
    'a model file': path.join(run, 'model.safetensors'),
    'a diffusers folder': at('diffusers'),
    'its index': at('diffusers', 'model_index.json'),
    'its weights': at('diffusers', 'unet', 'diffusion_pytorch_model.safetensors'),
    "ddpm.py's checkpoint": at('last.ckpt'),
    'the same by another name': at('weights.bin'),
  }
  let expected: Float32Array

  async function drawn(ddpm: DDPM): Promise<Float32Array> {
    using model = ddpm
    return (await model.sample({ batchSize: 1, steps: 3, seed: 4 })).data()
  }

  before(async () => {
    await writeImages(at('images'), 4)
    const flags = [...tinyFlags, '--steps', '2', '--ema-decay', '0.5', '--lr', '0.01']
    const { code, stderr } = await runCli(['train', at('images'), '--out', run, ...flags])
    assert.equal(code, 0, stderr)
    const source = await readSource(run)
    await writeTarget(source, at('diffusers'), { to: 'diffusers' })
    await writeTarget(source, at('last.ckpt'), { to: 'ckpt' })
    source.ddpm.dispose()
    for (const [from, to] of [
      ['last.ckpt', 'weights.bin'],
      ['last.yaml', 'weights.yaml'],
    ])
      cpSync(at(from), at(to))
    expected = await drawn(await loadModel(run, { device: 'cpu' }))
  })

  for (const [what, name] of Object.entries(names)) {
    it(`${what} opens everywhere, as the same model`, async () => {
      assert.deepEqual(await drawn(await loadModel(name, { device: 'cpu' })), expected)
      const url = pathToFileURL(name)
      for (const same of [url, url.href])
        assert.deepEqual(await drawn(await loadModel(same, { device: 'cpu' })), expected)
      const commands = [
        ['info', name],
        ['export', name, '--output', at('a.onnx')],
        ['sample', '--model', name, '--device', 'cpu', '-n', '1', '--steps', '1', '-o', at('a.png')],
        ['convert', name, at('b.safetensors')],
      ]
      for (const args of commands) {
        const { code, stderr } = await runCli(args)
        assert.equal(code, 0, `${args}: ${stderr}`)
      }
      assert.deepEqual(await drawn(await loadModel(at('b.safetensors'), { device: 'cpu' })), expected)
    })
  }

  it('evaluate takes them, too', async () => {
    const bits = new Set<number>()
    for (const name of ['a run', 'a diffusers folder', "ddpm.py's checkpoint"]) {
      const args = ['evaluate', at('images'), '--model', names[name], '--device', 'cpu', '--limit', '1', '--json']
      const { code, stdout, stderr } = await runCli(args)
      assert.equal(code, 0, stderr)
      bits.add(JSON.parse(stdout.trimEnd().split('\n').at(-1)!).bitsPerDim)
    }
    assert.equal(bits.size, 1, [...bits].join(' '))
  })

  it('without a name it is the model of the package', async () => {
    using model = await loadModel(undefined, { device: 'cpu' })
    assert.ok(model.classNames.length > 0)
    const { stdout } = await runCli(['info', '--json'])
    assert.equal(JSON.parse(stdout).parameters, model.parameterCount)
  })

  it('takes the trained weights where those are asked for, and refuses options that a kind has not got', async () => {
    const trained = await drawn(await loadModel(run, { device: 'cpu', weights: 'model' }))
    assert.notDeepEqual(trained, expected)
    assert.deepEqual(await drawn(await loadModel(at('last.ckpt'), { device: 'cpu', weights: 'model' })), trained)
    const config = at('last.yaml')
    cpSync(at('last.ckpt'), at('alone', 'last.ckpt'))
    await assert.rejects(loadModel(at('alone', 'last.ckpt')), { code: 'not-found', argument: 'config' })
    assert.deepEqual(await drawn(await loadModel(at('alone', 'last.ckpt'), { device: 'cpu', config })), expected)
    const wrong = { code: 'invalid-argument' }
    await assert.rejects(loadModel(run, { config }), { ...wrong, argument: 'config' })
    await assert.rejects(loadModel(run, { variant: 'fp16' }), { ...wrong, argument: 'variant' })
    await assert.rejects(loadModel(names['a model file'], { weights: 'model' }), { ...wrong, argument: 'weights' })
    await assert.rejects(loadModel(run, { wieghts: 'model' } as object), {
      code: 'unknown-option',
      expected: 'weights',
    })
  })

  it('says what a name is where it is no model', async () => {
    mkdirSync(at('empty'))
    writeFileSync(at('text.ckpt'), 'no model, but long enough to begin like something else')
    await assert.rejects(loadModel(at('nothing')), { code: 'not-found', message: /nothing does not exist/ })
    await assert.rejects(loadModel(at('empty')), {
      code: 'not-found',
      message: /neither a run, .*nor a diffusers folder/,
    })
    await assert.rejects(loadModel(at('text.ckpt')), { code: 'bad-file' })
    await assert.rejects(loadModel('https://'), { code: 'invalid-argument' })
    await assert.rejects(loadModel(new URL('ftp://example.org/a.ckpt')), { code: 'invalid-argument' })
    const tensors = JSON.parse((await runCli(['info', at('alone', 'last.ckpt'), '--json'])).stdout)
    assert.ok(tensors.kind === 'ckpt' && tensors.tensors > 10 && tensors.config === 'none beside it')
  })

  it('of a model that predicts v is refused by a checkpoint, by name', async () => {
    const file = path.join(__dirname, '..', '..', '..', 'models', 'emoji-32.safetensors')
    const { code, stderr } = await runCli(['convert', file, at('v.ckpt')])
    assert.equal(code, 1)
    assert.match(stderr, /parameterization/)
    assert.throws(() => readFileSync(at('v.ckpt')))
  })
})
