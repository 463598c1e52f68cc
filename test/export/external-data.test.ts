// Weights in a file beside the model's: where they lie, when they do, and what is left where writing fails.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { DDPM, saveModel, Tensor, UNet } from '../../lib'
import { exportOnnx, type OnnxOptions, type OnnxWeights } from '../../lib/export/onnx'
import { assertSameBits } from '../support/compare'
import { Random } from '../support/random'
import { runCli, temporaryFolder } from '../train/support'
import { floatsOf, type OnnxFile, readOnnx } from './onnx-file'
import { withRuntime } from './runtime'
import { weightsOf } from './support'

const tiny = {
  ...{ imageSize: 8, inChannels: 1, outChannels: 1, modelChannels: 32, numResBlocks: 1, numHeads: 2 },
  ...{ attentionResolutions: [2], channelMult: [1, 1] },
}
/** With weights of more than a MiB. */
const wide = { ...tiny, channelMult: [1, 6] }

describe('exportOnnx with external data', () => {
  const folder = temporaryFolder()
  const at = (name: string) => path.join(folder, name)
  const unet = new UNet(wide)
  const weights = weightsOf({
    flat: new Random(1).normals(unet.parameters.count, 0.1),
    frozen: new Float32Array(),
  })
  const write = (file: string, options: OnnxOptions, from: OnnxWeights = weights, maxBytes?: number) =>
    exportOnnx(file, unet, from, { output: 'eps' }, options, maxBytes)

  beforeEach(() => {
    for (const name of readdirSync(folder)) rmSync(at(name), { recursive: true })
  })

  /** What differs between one file and two is where the weights are. */
  const graphOf = ({ initializers, ...rest }: OnnxFile) => ({
    ...rest,
    initializers: [...initializers].map(([name, { type, dims }]) => [name, type, dims]),
  })

  it('all weights, and nothing else, at multiples of a page, in the order of the graph', async () => {
    assert.deepEqual(await write(at('whole.onnx'), {}), [at('whole.onnx')])
    const files = await write(at('two.onnx'), { externalData: true })
    assert.deepEqual(files, [at('two.onnx'), at('two.onnx_data')])
    assert.deepEqual(readdirSync(folder), ['two.onnx', 'two.onnx_data', 'whole.onnx'])
    const [whole, two] = ['whole.onnx', 'two.onnx'].map((name) => readOnnx(at(name)))
    assert.deepEqual(graphOf(two), graphOf(whole))
    let end = 0
    let large = 0
    for (const [name, { data, external }] of two.initializers) {
      assert.equal(external !== undefined, unet.parameters.get(name) !== undefined, name)
      assert.ok(data.equals(whole.initializers.get(name)!.data), name)
      if (!external) continue
      assert.deepEqual(Object.keys(external), ['location', 'offset', 'length'])
      assert.equal(external.location, 'two.onnx_data')
      const offset = Number(external.offset)
      const page = data.length < 2 ** 20 ? 4096 : 65536
      if (page > 4096) large++
      assert.ok(offset % page === 0 && offset >= end && offset - end < page, `${name}: ${offset} after ${end}`)
      end = offset + data.length
    }
    assert.ok(large > 0)
    assert.equal(statSync(at('two.onnx_data')).size, end)
  })

  it('where one file would be too large, unless that is refused', async () => {
    await write(at('whole.onnx'), {})
    const { size } = statSync(at('whole.onnx'))
    assert.deepEqual(await write(at('fits.onnx'), {}, weights, size), [at('fits.onnx')])
    const files = await write(at('beyond.onnx'), {}, weights, size - 1)
    assert.deepEqual(files, [at('beyond.onnx'), at('beyond.onnx_data')])
    await write(at('asked.onnx'), { externalData: true })
    assert.ok(readFileSync(at('beyond.onnx_data')).equals(readFileSync(at('asked.onnx_data'))))
    const refused = { code: 'unsupported', argument: 'externalData', received: String(size) }
    await assert.rejects(write(at('no.onnx'), { externalData: false }, weights, size - 1), refused)
    await assert.rejects(write(at('no.onnx'), {}, weights, 1000), { code: 'unsupported', argument: 'externalData' })
    assert.deepEqual(
      readdirSync(folder).filter((name) => name.startsWith('no') || name.startsWith('.')),
      [],
    )
  })

  /** Weights whose n-th read does something first. */
  const interrupted = (n: number, what: () => void): OnnxWeights => {
    let reads = 0
    return {
      read(slot) {
        if (++reads === n) what()
        return weights.read(slot)
      },
    }
  }
  const full = () => {
    throw Object.assign(new Error('no space left'), { code: 'ENOSPC' })
  }

  it('a full disk and an abort leave nothing, and what was there', async () => {
    const disk = { code: 'io', message: /x\.onnx_data: the disk is full/ }
    await assert.rejects(write(at('x.onnx'), { externalData: true }, interrupted(20, full)), disk)
    const aborting = (n: number, options: OnnxOptions) => {
      const controller = new AbortController()
      const { signal } = controller
      return write(
        at('x.onnx'),
        { ...options, signal },
        interrupted(n, () => controller.abort('enough')),
      )
    }
    const aborted = { code: 'aborted', cause: 'enough' }
    await assert.rejects(aborting(20, { externalData: true }), aborted)
    await assert.rejects(aborting(20, {}), aborted)
    assert.deepEqual(readdirSync(folder), [])

    await write(at('x.onnx'), { externalData: true })
    const old = ['x.onnx', 'x.onnx_data'].map((name) => readFileSync(at(name)))
    await assert.rejects(write(at('x.onnx'), { externalData: true, height: 16 }, interrupted(20, full)), disk)
    await assert.rejects(aborting(20, { externalData: true }), aborted)
    const late = { ...weights, check: async () => full() }
    await assert.rejects(write(at('x.onnx'), { externalData: true, height: 16 }, late), disk)
    assert.deepEqual(readdirSync(folder), ['x.onnx', 'x.onnx_data'])
    assert.deepEqual(
      ['x.onnx', 'x.onnx_data'].map((name, i) => readFileSync(at(name)).equals(old[i])),
      [true, true],
    )
  })

  it('a model whose own name is refused leaves no data', async () => {
    mkdirSync(at('x.onnx'))
    await assert.rejects(write(at('x.onnx'), { externalData: true }), { code: 'io', message: /it is a folder/ })
    mkdirSync(at('y.onnx_data'))
    await assert.rejects(write(at('y.onnx'), { externalData: true }), { code: 'io', message: /it is a folder/ })
    await assert.rejects(write(`${at('z.onnx')}/`, { externalData: true }), { code: 'io' })
    await assert.rejects(write(at(`${'n'.repeat(248)}.onnx`), { externalData: true }), { code: 'io' })
    const invalid = { code: 'invalid-argument', argument: 'path' }
    await assert.rejects(write(at('a\\b.onnx'), { externalData: true }), invalid)
    execFileSync('mkfifo', [at('pipe')])
    await assert.rejects(write(at('pipe'), { externalData: true }), invalid)
    assert.deepEqual(readdirSync(folder), ['pipe', 'x.onnx', 'y.onnx_data'])
  })

  it('replaces both, and what links point to', async () => {
    mkdirSync(at('real'))
    writeFileSync(at('real/model.onnx'), 'old')
    writeFileSync(at('x.onnx_data'), 'old')
    symlinkSync('real/model.onnx', at('x.onnx'))
    await write(at('x.onnx'), { externalData: true })
    assert.deepEqual(readOnnx(at('x.onnx')).outputs, { eps: { type: 1, dims: ['n', 1, 8, 8] } })
    assert.deepEqual(
      [readdirSync(folder), readdirSync(at('real'))],
      [['real', 'x.onnx', 'x.onnx_data'], ['model.onnx']],
    )
    assert.ok(statSync(at('real/model.onnx')).size > 3)
  })

  it('DDPM: weights of one moment, or none', async () => {
    using ddpm = new DDPM({ unetConfig: tiny, timesteps: 10, device: 'cpu', useEma: false, seed: 3 })
    ddpm.configureOptimizers({ lr: 0.01 })
    const batch = Tensor.randn([1, 1, 8, 8], { seed: 1 })
    await ddpm.trainBatch(batch)
    for (const externalData of [false, true]) {
      const exported = ddpm.exportOnnx(at('busy.onnx'), { externalData })
      const [result] = await Promise.allSettled([exported, ddpm.trainBatch(batch)])
      assert.equal(result.status === 'rejected' && result.reason.code, 'busy')
      assert.deepEqual(readdirSync(folder), [])
    }
    await ddpm.exportOnnx(at('still.onnx'), { externalData: true })
    const { weights: dict } = await ddpm.trainingState()
    const { data } = readOnnx(at('still.onnx')).initializers.get('time_embed.0.weight')!
    assertSameBits(floatsOf(data), await dict['time_embed.0.weight'].data(), 'time_embed.0.weight')
  })

  it('ddpm export --external-data', async () => {
    const config = { unetConfig: tiny, timesteps: 10 }
    using ddpm = new DDPM({ ...config, device: 'cpu' })
    await saveModel(at('model.safetensors'), ddpm, { config, training: {} })
    writeFileSync(at('m.onnx_data'), 'of another')
    const args = ['export', at('model.safetensors'), '--output', at('m.onnx'), '--external-data', '--json']
    const { code, stdout } = await runCli(args)
    assert.equal(code, 0)
    const files = [at('m-1.onnx'), at('m-1.onnx_data')]
    const bytes = files.reduce((sum, file) => sum + statSync(file).size, 0)
    const done = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
      .at(-1)
    assert.deepEqual([done.file, done.files, done.bytes], [files[0], files, bytes])
    assert.equal(readFileSync(at('m.onnx_data'), 'utf8'), 'of another')
  })

  describe('ONNX Runtime', () => {
    const runtime = withRuntime()

    it('computes the same bits of one file and of two', async () => {
      await write(at('whole.onnx'), { externalData: false })
      await write(at('two.onnx'), { externalData: true })
      const inputs = { x: new Random(2).normals(3 * 64), t: Int32Array.of(0, 500, 999) }
      const [whole, two] = [
        await runtime().run(at('whole.onnx'), inputs, [1, 8, 8]),
        await runtime().run(at('two.onnx'), inputs, [1, 8, 8]),
      ]
      assertSameBits(two, whole, 'eps')
      assert.ok(whole.some((v) => v !== 0))
    })
  })
})
