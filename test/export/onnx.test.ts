// The files that exportOnnx writes, read by a decoder of the tests' own, and run by ONNX Runtime where it is installed.
import assert from 'node:assert/strict'
import { existsSync, readdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { DDPM, saveModel, Tensor, UNet } from '../../lib'
import { exportOnnx } from '../../lib/export/onnx'
import { Message } from '../../lib/export/protobuf'
import { assertCloseToScale, assertSameBits } from '../support/compare'
import { Random } from '../support/random'
import { type Feeds, runGraph } from '../support/run-graph'
import { runCli, temporaryFolder } from '../train/support'
import { floatsOf, type OnnxFile, readOnnx } from './onnx-file'
import { withRuntime } from './runtime'
import { type GoldenNetwork, goldenNames, openGolden, weightsOf } from './support'

const tolerance = 1e-4
const [float, int64] = [1, 7]

describe('protobuf', () => {
  it("encodes the documentation's examples", () => {
    const encode = (message: Message) => Buffer.from(message.encode()).toString('hex')
    assert.equal(encode(new Message().int(1, 150)), '089601')
    assert.equal(encode(new Message().string(2, 'testing')), '120774657374696e67')
    assert.equal(encode(new Message().message(3, new Message().int(1, 150))), '1a03089601')
    assert.equal(encode(new Message().int(1, -2)), '08feffffffffffffffff01')
    assert.equal(encode(new Message().float(1, 1).int(20, 0)), '0d0000803fa00100')
    const lazy = { length: 2, make: () => Uint8Array.of(7, 8) }
    const message = new Message().message(1, new Message().bytes(9, lazy))
    assert.deepEqual([...message.chunks()], [Buffer.from('0a044a02', 'hex'), lazy, Buffer.alloc(0)])
    assert.equal(message.length, 6)
  })
})

describe('exportOnnx', () => {
  const folder = temporaryFolder()
  const at = (name: string) => path.join(folder, name)

  async function write({ network, weights, shape, context }: GoldenNetwork, name: string): Promise<OnnxFile> {
    const [, , height, width] = shape
    await exportOnnx(
      at(name),
      network,
      weightsOf(weights),
      { output: 'eps' },
      { height, width, contextLength: context?.shape[1] },
    )
    return readOnnx(at(name))
  }

  for (const name of goldenNames) {
    it(`${name}: a model with all weights, every value defined before it is used`, async () => {
      const opened = await openGolden(name)
      const { network, weights, shape, context } = opened
      const file = await write(opened, `${name}.onnx`)
      assert.deepEqual([file.irVersion, file.opset], [8, [{ domain: '', version: 17 }]])
      const images = { type: float, dims: ['n', ...shape.slice(1)] }
      const labels = network.numClasses ? { y: { type: int64, dims: ['n'] } } : {}
      const tokens = context ? { context: { type: float, dims: ['n', ...context.shape.slice(1)] } } : {}
      const vector = network.vectorDim ? { vector: { type: float, dims: ['n', network.vectorDim] } } : {}
      assert.deepEqual(file.inputs, { x: images, t: { type: int64, dims: ['n'] }, ...labels, ...tokens, ...vector })
      assert.deepEqual(file.outputs, { eps: images })

      const ones = (dims: readonly number[]) => dims.filter((extent) => extent !== 1)
      for (const slot of network.parameters.slots) {
        const { name: parameter, shape: own, graphShape = own } = slot
        const initializer = file.initializers.get(parameter)
        assert.ok(initializer, parameter)
        assert.equal(initializer.type, float)
        assert.deepEqual(ones(initializer.dims), ones(graphShape), parameter)
        assertSameBits(floatsOf(initializer.data), weightsOf(weights).read(slot), parameter)
      }

      const known = new Set(['', ...Object.keys(file.inputs), ...file.initializers.keys()])
      const used = new Set<string>()
      for (const { op, inputs, outputs } of file.nodes) {
        for (const input of inputs) {
          assert.ok(known.has(input), `${op} uses ${input}`)
          used.add(input)
        }
        for (const output of outputs) {
          assert.ok(!known.has(output), `${op} defines ${output} again`)
          known.add(output)
        }
      }
      for (const initializer of file.initializers.keys()) assert.ok(used.has(initializer), `${initializer} is not used`)
      assert.ok(known.has('eps'))
      assert.equal(new Set(file.nodes.map((node) => node.name)).size, file.nodes.length)
    })
  }

  it('keeps the attributes', async () => {
    const file = await write(await openGolden('unet_basic'), 'attributes.onnx')
    const [downsample] = file.nodes.filter(({ inputs }) => inputs[1] === 'input_blocks.2.0.op.weight')
    assert.deepEqual([downsample.op, downsample.inputs.length], ['Conv', 3])
    assert.deepEqual(downsample.attributes, { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] })
    const softmax = file.nodes.find(({ op }) => op === 'Softmax')
    assert.deepEqual(softmax?.attributes, { axis: -1 })
    const norm = file.nodes.find(({ op }) => op === 'InstanceNormalization')
    assert.deepEqual(norm?.attributes, { epsilon: Math.fround(1e-5) })
  })

  const tiny = {
    imageSize: 8,
    inChannels: 1,
    outChannels: 1,
    modelChannels: 32,
    numResBlocks: 1,
    attentionResolutions: [],
    channelMult: [1, 2],
  }

  it('DDPM: the trained weights, within emaScope the averaged ones; the output by its parameterization', async () => {
    using ddpm = new DDPM({ unetConfig: tiny, timesteps: 10, device: 'cpu', parameterization: 'x0', seed: 3 })
    ddpm.configureOptimizers({ lr: 0.01 })
    await ddpm.trainBatch(Tensor.randn([2, 1, 8, 8]))
    await ddpm.exportOnnx(at('trained.onnx'))
    await ddpm.emaScope(() => ddpm.exportOnnx(at('averaged.onnx'), { height: 16 }))
    const [trained, averaged] = ['trained.onnx', 'averaged.onnx'].map((name) => readOnnx(at(name)))
    assert.deepEqual(trained.outputs, { x0: { type: float, dims: ['n', 1, 8, 8] } })
    assert.deepEqual(averaged.outputs, { x0: { type: float, dims: ['n', 1, 16, 8] } })
    const state = await ddpm.trainingState()
    const weight = (file: OnnxFile) => floatsOf(file.initializers.get('time_embed.0.weight')!.data)
    assertSameBits(weight(trained), await state.weights['time_embed.0.weight'].data(), 'trained')
    assertSameBits(weight(averaged), await state.ema!['time_embed.0.weight'].data(), 'averaged')
    assert.notDeepEqual(weight(trained), weight(averaged))
  })

  it('says what is wrong, and then leaves no file', async () => {
    const unet = new UNet(tiny)
    const weights = weightsOf(unet.parameters.initialBanks(0))
    const refused = (promise: Promise<unknown>, code: string, argument: string) =>
      assert.rejects(promise, { name: 'DiffusionError', code, argument })
    const target = at('refused.onnx')
    await refused(exportOnnx(target, unet, weights, { output: 'eps' }, { height: 9 }), 'invalid-argument', 'height')
    await refused(
      exportOnnx(target, unet, weights, { output: 'eps' }, { heigth: 8 } as object),
      'unknown-option',
      'heigth',
    )
    await refused(
      exportOnnx(target, unet, weights, { output: 'eps' }, { contextLength: 8 }),
      'invalid-argument',
      'contextLength',
    )
    await refused(exportOnnx('', unet, weights, { output: 'eps' }), 'invalid-argument', 'path')
    await refused(exportOnnx(at('nowhere/x.onnx'), unet, weights, { output: 'eps' }), 'io', 'path')
    // Nothing of its weights is touched before the size is known.
    const huge = new UNet({ ...tiny, modelChannels: 1024 })
    const none = { read: () => assert.fail('read') }
    const options = { externalData: false }
    await refused(exportOnnx(target, huge, none, { output: 'eps' }, options), 'unsupported', 'externalData')
    const ddpm = new DDPM({ model: (x) => x, timesteps: 4, device: 'cpu' })
    await refused(ddpm.exportOnnx(target), 'unsupported', 'model')
    ddpm.dispose()
    await refused(ddpm.exportOnnx(target), 'disposed', undefined as unknown as string)
    assert.deepEqual(
      readdirSync(folder).filter((name) => name.includes('refused')),
      [],
    )
  })

  it('ddpm export writes a model file', async () => {
    const config = { unetConfig: tiny, timesteps: 10 }
    using ddpm = new DDPM({ ...config, device: 'cpu' })
    const model = at('model.safetensors')
    await saveModel(model, ddpm, { config, training: {} })
    const { code, stdout, stderr } = await runCli(['export', '--model', model, '--output', at('cli.onnx'), '--json'])
    assert.deepEqual([code, stderr], [0, ''])
    assert.equal(JSON.parse(stdout).file, at('cli.onnx'))
    assert.deepEqual(readOnnx(at('cli.onnx')).inputs.x.dims, ['n', 1, 8, 8])
    // Without a name it is the model of the package, which draws 32x32 pixels.
    const without = await runCli(['export', '--output', at('shipped.onnx')])
    assert.deepEqual([without.code, readOnnx(at('shipped.onnx')).inputs.x.dims[3]], [0, 32])
    const twice = await runCli(['export', model, '--model', model, '--output', at('twice.onnx')])
    assert.deepEqual([twice.code, existsSync(at('twice.onnx'))], [2, false])
    writeFileSync(at('text.safetensors'), 'this is no model')
    const wrong = await runCli(['export', '--model', at('text.safetensors'), '--output', at('wrong.onnx')])
    assert.equal(wrong.code, 1)
    assert.ok(!existsSync(at('wrong.onnx')))
  })

  describe('ONNX Runtime computes the same', () => {
    const runtime = withRuntime()

    for (const name of goldenNames) {
      it(name, async () => {
        const opened = await openGolden(name)
        const { golden, network, shape } = opened
        await write(opened, `${name}.onnx`)
        const t = golden.integers('in/t')
        const y = network.numClasses ? golden.integers('in/y') : undefined
        const tokens = opened.context && { data: golden.floats('in/context'), shape: opened.context.shape }
        const vector = network.vectorDim ? golden.floats('in/vector') : undefined
        const given = { x: golden.floats('in/x'), t, y, context: tokens, vector }
        const out = await runtime().run(at(`${name}.onnx`), given, shape.slice(1))
        assertCloseToScale(out, golden.floats('out/out'), tolerance, "PyTorch's output")

        const random = new Random(1)
        const [n, d] = [5, shape[1] * shape[2] * shape[3]]
        const inputs = {
          x: random.normals(n * d),
          // A learned table may have fewer rows, and the logarithm of 0 is no number.
          t: random.integers(n, 799).map((step) => step + 1),
          y: network.numClasses ? random.integers(n, network.numClasses) : undefined,
          context: tokens && contextOf(random, [n, ...tokens.shape.slice(1)]),
          vector: network.vectorDim ? random.normals(n * network.vectorDim) : undefined,
        }
        const other = await runtime().run(at(`${name}.onnx`), inputs, shape.slice(1))
        assertCloseToScale(other, await ours(opened, inputs), tolerance, 'our output at batch 5')
      })
    }

    it('an odd number of channels, and norms of one group', async () => {
      const unet = new UNet({ ...tiny, modelChannels: 9, normGroups: 3, attentionResolutions: [2], numHeads: 3 })
      const weights = { flat: new Random(2).normals(unet.parameters.count, 0.2), frozen: new Float32Array() }
      const opened = { network: unet, weights, shape: [1, 1, 8, 8] } as unknown as GoldenNetwork
      await write(opened, 'odd.onnx')
      const inputs = { x: new Random(3).normals(3 * 64), t: Int32Array.of(0, 500, 999) }
      const out = await runtime().run(at('odd.onnx'), inputs, [1, 8, 8])
      assertCloseToScale(out, await ours(opened, inputs), tolerance, 'out')
    })
  })
})

function contextOf(random: Random, shape: readonly number[]): Inputs['context'] {
  return { data: random.normals(shape.reduce((a, b) => a * b, 1)), shape }
}

interface Inputs {
  readonly x: Float32Array
  readonly t: Int32Array
  readonly y?: Int32Array
  readonly context?: { readonly data: Float32Array; readonly shape: readonly number[] }
  readonly vector?: Float32Array
}

async function ours({ network, weights, shape }: GoldenNetwork, given: Inputs): Promise<Float32Array> {
  const { x, t, y, context, vector } = given
  const [n, channels, height, width] = [t.length, ...shape.slice(1)]
  const index = (data: Int32Array) => ({ dims: [n, 1, 1, 1] as const, data })
  const feeds: Feeds = {
    x: { dims: [n, 1, 1, x.length / n], data: x },
    t: index(t),
    ...(y && { y: index(y) }),
    ...(context && { context: { dims: [n, 1, context.shape[1], context.shape[2]], data: context.data } }),
    ...(vector && { vector: { dims: [n, 1, 1, vector.length / n], data: vector } }),
  }
  const { out } = await runGraph(
    'cpu',
    feeds,
    (graph, inputs) => {
      const images = graph.toNhwc(inputs.x, { channels, height, width })
      const conditioning = { y: inputs.y, context: inputs.context, vector: inputs.vector }
      return { out: graph.toNchw(network.build({ graph, train: false }, images, inputs.t, conditioning)) }
    },
    { banks: { weights: weights.flat, ...(weights.frozen.length > 0 && { frozen: weights.frozen }) } },
  )
  return out
}
