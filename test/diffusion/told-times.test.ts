// What the denoiser is told where noise levels lie between timesteps: a network in the graph, and a function that computes the same.
import assert from 'node:assert/strict'
import type { Value } from '../../lib/graph'
import { Classifier, DDPM, type DDPMOptions, type SampleOptions, Tensor } from '../../lib/index'
import type { BuildContext, Network } from '../../lib/nn/network'
import { ParameterTable } from '../../lib/nn/parameters'
import { assertClose, assertSameBits } from '../support/compare'
import { testDevice } from '../support/devices'
import { pointAt } from '../support/point-at'

/** Puts out part of what it is given, with cos(t) added to its first channel and sin(t) to its second. */
class Tells implements Network {
  readonly inChannels = 2
  readonly outChannels = 2
  readonly imageSize = 1
  readonly divisor = 1
  readonly parameters = new ParameterTable()

  constructor(readonly part = 0.5) {
    this.parameters.add('unused', [1], { kind: 'zeros' })
  }

  build({ graph }: BuildContext, x: Value, t: Value): Value {
    const told = graph.timestepEmbedding(t, { dim: 2, maxPeriod: 1e4, freqShift: 0, sinFirst: false })
    return graph.addSample(graph.affine(x, { scale: this.part }), told)
  }
}

type Kind = NonNullable<DDPMOptions['parameterization']>
const setup: DDPMOptions = { timesteps: 100, useEma: false, clipDenoised: false, device: testDevice }
const one = { imageSize: 1, channels: 2 }

/** What the network is given, as a multiple of the state, and told at a point: Karras et al. 2022, table 1, and diffusers' flow. */
function seen(kind: Kind, [a, b]: readonly [number, number], t: number): { scale: number; time: number } {
  if (kind === 'edm') return { scale: 1 / Math.hypot(b, 0.5 * a), time: Math.log(b / a) / 4 }
  if (kind === 'flow') return { scale: 1 / (a + b), time: (100 * b) / (a + b) }
  return { scale: 1, time: t }
}

/** The same as a function. `line`: the sampler follows the straight line. */
function telling(kind: Kind, told: Tensor[] = [], { part = 0.5, line = false } = {}): DDPM {
  const ddpm: DDPM = new DDPM({
    ...{ ...setup, ...one, parameterization: kind },
    async model(x, t) {
      told.push(t)
      const [time] = await t.values()
      const own = seen(kind, pointAt(ddpm, time, { line }), time)
      const state = await x.data()
      const angles = [Math.cos, Math.sin]
      return Tensor.from(
        state.map((v, i) => part * own.scale * v + angles[i % 2](own.time)),
        x.shape,
      )
    },
  })
  return ddpm
}

const draw = async (ddpm: DDPM, o: SampleOptions) =>
  (await ddpm.sample({ batchSize: 2, seed: 3, ...o, returnIntermediates: false })).data()

describe('between timesteps', () => {
  const cases: [Kind, SampleOptions][] = [
    ['eps', { sampler: 'euler', steps: 7, sigmas: 'karras' }],
    ['eps', { sampler: 'unipc', steps: 7, sigmas: 'exponential' }],
    ['v', { sampler: 'kdpm2', steps: 7 }],
    ['x0', { sampler: 'dpmsolver++', steps: 7, sigmas: 'beta' }],
    ['eps', { scheduler: { _class_name: 'EulerDiscreteScheduler', num_train_timesteps: 100 }, steps: 7 }],
    ['edm', { sampler: 'heun', steps: 7, sigmas: 'karras' }],
    ['edm', { sampler: 'dpmsolver++', steps: 7, sigmas: 'karras' }],
    ['flow', { sampler: 'kdpm2', steps: 7, timestepSpacing: 'leading' }],
    ['flow', { scheduler: { _class_name: 'FlowMatchEulerDiscreteScheduler', num_train_timesteps: 100 }, steps: 7 }],
  ]
  for (const [kind, o] of cases) {
    it(`${kind}, ${JSON.stringify(o)}: a network is told what a function is`, async () => {
      using ddpm = new DDPM({ ...setup, model: new Tells(), parameterization: kind })
      const told: Tensor[] = []
      using expected = telling(kind, told, { line: 'scheduler' in o && kind === 'flow' })
      const steps: number[] = []
      const onStep = ({ t }: { t: number }) => steps.push(t)
      assertClose(await draw(ddpm, { ...o, onStep }), await draw(expected, o), { abs: 1e-4, rel: 1e-4 }, 'samples')
      const times = await Promise.all(told.map((t) => t.values()))
      assert.ok(times.some(([t]) => !Number.isInteger(t)))
      for (const [i, t] of told.entries()) {
        assert.deepEqual(t.shape, [2])
        assert.equal(t.dtype, times[i].every(Number.isInteger) ? 'int32' : 'float32')
      }
      const firsts = o.sampler === 'kdpm2' || o.sampler === 'heun' ? times.filter((_, i) => i % 2 === 0) : times
      assertClose(
        steps,
        firsts.map(([t]) => t),
        { abs: 1e-5, rel: 0 },
        'onStep',
      )
    })
  }

  it('thresholding and both kinds of a guiding model are told the same', async () => {
    const o: SampleOptions = { sampler: 'kdpm2', steps: 5, guidanceScale: 1.5 }
    using guide = new DDPM({ ...setup, model: new Tells(0.3) })
    using guiding = telling('eps', [], { part: 0.3 })
    for (const thresholding of [undefined, { ratio: 0.9, max: 3 }]) {
      using ddpm = new DDPM({ ...setup, model: new Tells(), thresholding, clipDenoised: true })
      const found = await draw(ddpm, { ...o, guidingModel: guide })
      assertClose(await draw(ddpm, { ...o, guidingModel: guiding }), found, { abs: 1e-4, rel: 1e-4 }, 'samples')
      assert.notDeepEqual(await draw(ddpm, { ...o, guidingModel: ddpm }), found)
    }
  })

  it('a classifier reads its times from a table', async () => {
    using classifier = new Classifier({
      encoderConfig: {
        ...{ imageSize: 4, inChannels: 1, modelChannels: 8, outChannels: 3, numResBlocks: 1, channelMult: [1] },
        ...{ attentionResolutions: [], normGroups: 4, numHeadChannels: 4, pool: 'attention' },
      },
      ...{ timesteps: 100, device: testDevice, deterministic: true },
    })
    const dict = await classifier.stateDict()
    for (const [i, [name, { shape }]] of Object.entries(dict).entries()) dict[name] = Tensor.randn(shape, { seed: i })
    await classifier.loadStateDict(dict)
    const x = Tensor.randn([2, 1, 4, 4], { seed: 5 })
    const guided = classifier.guide({ device: classifier.device, schedule: classifier.schedule, shape: x.shape })
    const gradientAt = async (times: number[]) => {
      const program = await guided.program(x.shape, times.length)
      const bindings = { ...guided.bindings(Int32Array.of(0, 2), 1), times: Float32Array.from(times) }
      return (await program.run({ x: await x.data(), row: Int32Array.of(1, 1), ...bindings })).gradient
    }
    try {
      const whole = await (await classifier.logProbGradient(x, 7, [0, 2])).data()
      assertSameBits(await gradientAt([3, 7, 9]), whole, 'gradient')
      assert.notDeepEqual(await gradientAt([3, 7.25, 9]), whole)
    } finally {
      guided.release()
    }
  })

  it('a network with a row for each timestep is told the nearest', async () => {
    const unetConfig = {
      ...{ imageSize: 4, inChannels: 1, outChannels: 1, modelChannels: 32, channelMult: [1], numResBlocks: 1 },
      ...{
        attentionResolutions: [],
        layout: 'diffusers' as const,
        timeEmbedding: 'learned' as const,
        numTimesteps: 100,
      },
    }
    using ddpm = new DDPM({ ...setup, unetConfig })
    assert.ok((await draw(ddpm, { sampler: 'euler', steps: 5, sigmas: 'karras' })).every(Number.isFinite))
  })
})
