import assert from 'node:assert/strict'
import type { Core } from '../../lib/diffusion/process/core'
import { withDropout } from '../../lib/diffusion/process/given-condition'
import { DDPM, type DDPMOptions, type SampleOptions, Tensor } from '../../lib/index'
import { assertClose, assertCloseToScale, assertSameBits } from '../support/compare'
import { testDevice } from '../support/devices'
import { randomize } from './fixture'

type Options = Omit<SampleOptions, 'returnIntermediates'>

const unetConfig = {
  ...{ imageSize: 4, inChannels: 1, outChannels: 1, modelChannels: 8, normGroups: 4, channelMult: [1] },
  ...{ numResBlocks: 1, attentionResolutions: [] },
}
const withContext = { ...unetConfig, attentionResolutions: [1], useSpatialTransformer: true, contextDim: 6 }
const settings: DDPMOptions = {
  ...{ timesteps: 20, useEma: false, device: testDevice, clipDenoised: false, deterministic: true },
}
/** One step of DDIM is affine in the prediction. */
const one: Options = { sampler: 'ddim', steps: 1, timestepSpacing: 'trailing', seed: 3, batchSize: 3 }
const [n, d] = [3, 16]

async function classes(o: DDPMOptions = {}): Promise<DDPM> {
  return randomize(new DDPM({ unetConfig: { ...unetConfig, numClasses: 4 }, nullClass: 3, ...settings, ...o }))
}
async function contextual(o: DDPMOptions = {}): Promise<DDPM> {
  return randomize(new DDPM({ unetConfig: withContext, ...settings, ...o }))
}
/** The same weights, a little different. */
async function changed(ddpm: DDPM, make: () => Promise<DDPM>): Promise<DDPM> {
  const other = await make()
  const dict = await ddpm.stateDict()
  for (const [name, tensor] of Object.entries(dict)) {
    if (!name.startsWith('model.')) continue
    dict[name] = Tensor.from(
      (await tensor.data()).map((v, i) => v + 0.05 * Math.sin(i)),
      tensor.shape,
    )
  }
  await other.loadStateDict(dict)
  return other
}
const draw = async (ddpm: DDPM, o: Options) => (await ddpm.sample({ ...one, ...o })).data()

const deviation = (values: Float32Array) => {
  const mean = values.reduce((sum, v) => sum + v, 0) / values.length
  return Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length)
}

describe('guidance', () => {
  it('context: away from the negative one, of one sample or of each, of any length', async () => {
    using ddpm = await contextual()
    const context = Tensor.randn([n, 5, 6])
    const negative = Tensor.randn([1, 2, 6], { seed: 9 })
    const values = await negative.data()
    const all = Tensor.from([...values, ...values, ...values], [n, 2, 6])
    const [c, u] = [await draw(ddpm, { context }), await draw(ddpm, { context: all })]
    assert.notDeepEqual(c, u)
    for (const guidanceScale of [0, 3]) {
      const expected = u.map((v, i) => v + guidanceScale * (c[i] - v))
      for (const negativeContext of [negative, all]) {
        const found = await draw(ddpm, { context, negativeContext, guidanceScale })
        assertCloseToScale(found, expected, 1e-5, `scale ${guidanceScale}`)
      }
    }
    assertSameBits(await draw(ddpm, { context, negativeContext: negative, guidanceScale: 1 }), c, 'scale 1')
  })

  it('a model that dropped its context goes away from zeros', async () => {
    using ddpm = await contextual({ contextDropout: 0.1 })
    const context = Tensor.randn([n, 5, 6])
    const zeros = Tensor.from(new Float32Array(n * 30), [n, 5, 6])
    const [c, u] = [await draw(ddpm, { context }), await draw(ddpm, { context: zeros })]
    const found = await draw(ddpm, { context, guidanceScale: 2 })
    assertCloseToScale(
      found,
      u.map((v, i) => v + 2 * (c[i] - v)),
      1e-5,
      'guided',
    )
  })

  it('contextDropout 1 trains no context alone, 0 the given one', async () => {
    const [x, noise] = [Tensor.randn([4, 1, 4, 4]), Tensor.randn([4, 1, 4, 4], { seed: 1 })]
    const [context, zeros] = [Tensor.randn([4, 3, 6]), Tensor.from(new Float32Array(72), [4, 3, 6])]
    const lossOf = async (contextDropout: number, given: Tensor) => {
      using ddpm = await contextual({ contextDropout })
      ddpm.configureOptimizers({ lr: 0 })
      return (await ddpm.trainBatch(x, { t: [1, 3, 5, 7], noise, context: given })).loss
    }
    assert.equal(await lossOf(1, context), await lossOf(0, zeros))
    assert.notEqual(await lossOf(0, context), await lossOf(0, zeros))
  })

  it('context and vector are dropped of as many samples as they should be, with their labels, however the batch is divided', async () => {
    const count = 2000
    const dropout = { contextDropout: 0.25, vectorDropout: 0.25, classDropout: 0.25, nullClass: 7 }
    const core = { settings: dropout } as unknown as Core
    const ones = (shape: number[]) => Tensor.from(new Float32Array(2 * shape[0]).fill(1), shape)
    const droppedOf = async (n: number, sampleOffset: number) => {
      const given = { y: new Int32Array(n), context: ones([n, 1, 2]), vector: ones([n, 2]) }
      const { y, context, vector } = await withDropout(core, given, { seed: 5, step: 2, sampleOffset })
      assertSameBits(await vector!.data(), await context!.data(), 'the vector')
      return { y: y!, values: await context!.data() }
    }
    const { y: labels, values } = await droppedOf(count, 0)
    const dropped = values.filter((_, i) => i % 2 === 0).map((v) => 1 - v)
    assertSameBits(
      values.filter((_, i) => i % 2 === 1).map((v) => 1 - v),
      dropped,
      'all of a sample',
    )
    const fraction = dropped.reduce((sum, v) => sum + v, 0) / count
    assertClose([fraction], [0.25], { abs: 4 * Math.sqrt((0.25 * 0.75) / count), rel: 0 }, 'dropped')
    assert.deepEqual(
      Array.from(labels, (y) => (y === 7 ? 1 : 0)),
      [...dropped],
    )
    assertSameBits((await droppedOf(100, 300)).values, values.slice(600, 800), 'a part')
  })

  it('interval: guidance at its noise levels alone, of which the lower bound is none', async () => {
    using ddpm = await classes()
    const sigma = (t: number) => Math.sqrt((1 - ddpm.alphasCumprod[t]) / ddpm.alphasCumprod[t])
    const path: Options = { ...one, steps: 4, classLabels: [0, 1, 2] }
    const guided = await draw(ddpm, { ...path, guidanceScale: 3 })
    const plain = await draw(ddpm, path)
    const within = (low: number, high: number) =>
      draw(ddpm, { ...path, guidanceScale: 3, guidanceInterval: [low, high] })
    assertSameBits(await within(0, Number.POSITIVE_INFINITY), guided, 'all')
    assertSameBits(await within(sigma(19), 1e9), plain, 'above all')
    const timesteps: number[] = []
    await ddpm.sample({ ...path, onStep: ({ t }) => timesteps.push(t) })
    // Only the first step: from the state after it, the rest is without guidance.
    const [first, second] = timesteps
    const partly = await within(sigma(second), sigma(first))
    assert.notDeepEqual(partly, plain)
    assert.notDeepEqual(partly, guided)
    const states: Float32Array[] = []
    await ddpm.sample({
      ...{ ...path, guidanceScale: 3, guidanceInterval: [sigma(second), sigma(first)] as const },
      onStep: async ({ x }) => states.push(await x.data()),
    })
    const whole: Float32Array[] = []
    await ddpm.sample({ ...path, guidanceScale: 3, onStep: async ({ x }) => whole.push(await x.data()) })
    assertSameBits(states[0], whole[0], 'after the first step')
    assert.notDeepEqual(states[1], whole[1])
  })

  it('rescale: the deviation of the given prediction, of each sample by itself', async () => {
    // With x_0 as the prediction a single step to the end is the prediction.
    using ddpm = await classes({ parameterization: 'x0' })
    const path = { classLabels: [0, 1, 2] }
    const c = await draw(ddpm, path)
    const guided = await draw(ddpm, { ...path, guidanceScale: 4 })
    for (const guidanceRescale of [0.7, 1]) {
      const found = await draw(ddpm, { ...path, guidanceScale: 4, guidanceRescale })
      for (let i = 0; i < n; i++) {
        const part = (values: Float32Array) => values.subarray(i * d, (i + 1) * d)
        const ratio = deviation(part(c)) / deviation(part(guided))
        const factor = 1 - guidanceRescale + guidanceRescale * ratio
        assertClose(
          part(found),
          part(guided).map((v) => v * factor),
          { abs: 1e-5, rel: 1e-4 },
          `sample ${i}`,
        )
      }
    }
    assertSameBits(await draw(ddpm, { ...path, guidanceScale: 4, guidanceRescale: 0 }), guided, 'rescale 0')
  })

  it('autoguidance: away from a worse model, network or function', async () => {
    using ddpm = await classes()
    using worse = await changed(ddpm, () => classes())
    const path = { classLabels: [0, 1, 2] }
    const [good, bad] = [await draw(ddpm, path), await draw(worse, path)]
    assert.notDeepEqual(good, bad)
    for (const guidanceScale of [0, 2]) {
      const found = await draw(ddpm, { ...path, guidingModel: worse, guidanceScale })
      const expected = bad.map((v, i) => v + guidanceScale * (good[i] - v))
      assertCloseToScale(found, expected, 1e-5, `scale ${guidanceScale}`)
    }
    const model = (x: Tensor) => Tensor.from(new Float32Array(x.size), x.shape)
    using zero = new DDPM({ model, ...settings, imageSize: 4, channels: 1 })
    const nothing = await draw(zero, {})
    const found = await draw(ddpm, { ...path, guidingModel: zero, guidanceScale: 2 })
    assertCloseToScale(
      found,
      nothing.map((v, i) => v + 2 * (good[i] - v)),
      1e-5,
      'away from a function',
    )
  })

  it('image i of a seed is the same in any batch, whatever guides, on several samplers', async () => {
    using ddpm = await classes()
    using worse = await changed(ddpm, () => classes())
    const kinds: Options[] = [
      { guidanceScale: 2, guidanceRescale: 0.7, guidanceInterval: [0.1, 5] },
      { guidanceScale: 2, guidingModel: worse, guidanceRescale: 0.5 },
    ]
    for (const sampler of ['ddpm', 'dpmsolver++', 'heun', 'euler-ancestral'] as const) {
      for (const kind of kinds) {
        const path: Options = { sampler, steps: 4, seed: 5, ...kind }
        const both = await (await ddpm.sample({ ...path, batchSize: 2, classLabels: [0, 2] })).data()
        const second = await ddpm.sample({ ...path, batchSize: 1, sampleOffset: 1, classLabels: 2 })
        assertSameBits(both.slice(d), await second.data(), `${sampler}`)
      }
    }
  })

  it('goes with dynamic thresholding and learned variances', async () => {
    const learned = { ...unetConfig, outChannels: 2, numClasses: 4 }
    using ddpm = await classes({ unetConfig: learned, varianceType: 'learned_range' })
    using worse = await changed(ddpm, () => classes({ unetConfig: learned, varianceType: 'learned_range' }))
    using thresholded = await classes({ thresholding: { ratio: 0.9, max: 1e9 }, parameterization: 'x0' })
    using plain = await classes({ parameterization: 'x0' })
    const path: Options = { classLabels: [0, 1, 2], guidanceScale: 2, guidanceRescale: 0.5 }
    const drawn = await draw(ddpm, { ...path, sampler: 'ddpm', steps: 4, guidingModel: worse })
    assert.ok(drawn.every(Number.isFinite))
    const [x0, found] = [await draw(plain, path), await draw(thresholded, path)]
    for (let i = 0; i < n; i++) {
      const own = x0.subarray(i * d, (i + 1) * d)
      const sorted = own.map(Math.abs).sort()
      const s = Math.max(1, sorted[13] + (0.9 * 15 - 13) * (sorted[14] - sorted[13]))
      const expected = own.map((v) => Math.min(Math.max(v / s, -1), 1))
      assertClose(found.subarray(i * d, (i + 1) * d), expected, { abs: 1e-5, rel: 1e-5 }, `sample ${i}`)
    }
  })

  it('refuses what does not go together', async () => {
    using ddpm = await classes()
    using context = await contextual()
    using other = await classes({ timesteps: 30 })
    using start = await classes({ parameterization: 'x0' })
    const path: Options = { ...one, classLabels: 0 }
    const tokens = Tensor.randn([n, 2, 6])
    const rejected = (promise: Promise<unknown>, argument: string, code = 'invalid-argument') =>
      assert.rejects(promise, { code, argument })
    await rejected(ddpm.sample({ ...path, guidanceRescale: 0.5 }), 'guidanceScale')
    await rejected(ddpm.sample({ ...path, guidanceInterval: [0, 1] }), 'guidanceScale')
    await rejected(ddpm.sample({ ...path, guidingModel: other }), 'guidanceScale')
    await rejected(ddpm.sample({ ...path, guidanceScale: 2, guidanceInterval: [2, 1] }), 'guidanceInterval')
    await rejected(ddpm.sample({ ...path, guidanceScale: 2, guidanceRescale: 2 }), 'guidanceRescale')
    await rejected(ddpm.sample({ ...path, guidanceScale: 2, guidingModel: other }), 'guidingModel')
    await rejected(ddpm.sample({ ...path, guidanceScale: 2, guidingModel: start }), 'guidingModel')
    await rejected(ddpm.sample({ ...path, guidanceScale: 2, negativeContext: tokens }), 'negativeContext')
    await rejected(ddpm.sample({ ...path, classifierScale: 2 }), 'classifier')
    await rejected(context.sample({ ...one, context: tokens, guidanceScale: 2 }), 'guidanceScale', 'not-configured')
    const wrong = { ...one, context: tokens, guidanceScale: 2, negativeContext: Tensor.randn([2, 2, 6]) }
    await rejected(context.sample(wrong), 'negativeContext')
    assert.throws(() => new DDPM({ unetConfig, contextDropout: 0.1, device: testDevice }), {
      argument: 'contextDropout',
    })
  })
})
