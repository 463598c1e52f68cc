// EDM and flow matching: their losses and what their networks see by closed forms, their samplers on a mixture of two normals.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { DeviceName } from '../../lib/device'
import { compVisConfig } from '../../lib/diffusion/formats/compvis-write'
import { predictionOf, startRow } from '../../lib/diffusion/process/prediction'
import { drawNormal } from '../../lib/diffusion/process/timestep-sampler'
import type { Value } from '../../lib/graph'
import { DDPM, type DDPMOptions, type SampleOptions, Tensor } from '../../lib/index'
import type { BuildContext, Network } from '../../lib/nn/network'
import { ParameterTable } from '../../lib/nn/parameters'
import { UNet } from '../../lib/nn/unet/unet'
import { assertClose, assertCloseToScale, assertSameBits } from '../support/compare'
import { testDevice, testedBackends } from '../support/devices'
import { numbersOf } from '../support/numbers'
import { pointAt } from '../support/point-at'

/** Puts out what it is given: x, with cos(t) added to its first channel and sin(t) to its second. */
class Sees implements Network {
  readonly inChannels = 2
  readonly outChannels = 2
  readonly imageSize = 1
  readonly divisor = 1
  readonly parameters = new ParameterTable()

  constructor() {
    this.parameters.add('unused', [1], { kind: 'zeros' })
  }

  build({ graph }: BuildContext, x: Value, t: Value): Value {
    return graph.addSample(x, graph.timestepEmbedding(t, { dim: 2, maxPeriod: 1e4, freqShift: 0, sinFirst: false }))
  }
}

const process: Record<
  'edm' | 'flow',
  (ddpm: DDPM, t: number) => { scale: number; time: number; of: [number, number] }
> = {
  // Karras et al. 2022, table 1, for x_0 + sigma noise.
  edm: (ddpm, t) => {
    const sigma = 0.01 * (50 / 0.01) ** (t / (ddpm.numTimesteps - 1))
    const root = Math.sqrt(sigma ** 2 + 0.7 ** 2)
    const [skip, out] = [0.7 ** 2 / root ** 2, (sigma * 0.7) / root]
    return { scale: 1 / root, time: Math.log(sigma) / 4, of: [(1 - skip) / out, (-skip * sigma) / out] }
  },
  flow: () => ({ scale: 1, time: 0, of: [-1, 1] }),
}
const options = {
  edm: { parameterization: 'edm', sigmaData: 0.7, sigmaMin: 0.01, sigmaMax: 50 },
  flow: { parameterization: 'flow', flowShift: 3 },
} as const

describe('the loss of EDM and of flow matching', () => {
  const [x, noise] = [1, 2].map((seed) => Tensor.randn([3, 2, 1, 1], { seed }))
  for (const kind of ['edm', 'flow'] as const) {
    it(`${kind}: what the network is given and told, and what it should predict`, async () => {
      using ddpm = new DDPM({ model: new Sees(), ...options[kind], timesteps: 100, useEma: false, device: testDevice })
      const steps = [0, 40, 99]
      const { loss } = await ddpm.pLosses(x, steps, noise)
      const [image, z] = [await x.data(), await noise.data()]
      let sum = 0
      for (const [n, t] of steps.entries()) {
        for (const c of [0, 1]) {
          const i = 2 * n + c
          const own = process[kind](ddpm, t)
          const even = (t + 1) / 100
          const s = (3 * even) / (1 + 2 * even)
          const sigma = 0.01 * (50 / 0.01) ** (t / 99)
          const noisy = kind === 'edm' ? own.scale * (image[i] + sigma * z[i]) : (1 - s) * image[i] + s * z[i]
          const time = kind === 'edm' ? own.time : 100 * s
          const output = noisy + (c === 0 ? Math.cos(time) : Math.sin(time))
          sum += (output - (own.of[0] * image[i] + own.of[1] * z[i])) ** 2
        }
      }
      assertClose([loss], [sum / 6], { rel: 1e-4, abs: 0 }, kind)
    })

    it(`${kind}: min-SNR weights and the bound are those of x_0's error`, async () => {
      const setup = { model: new Sees(), ...options[kind], timesteps: 100, useEma: false, device: testDevice }
      using plain = new DDPM(setup)
      using weighted = new DDPM({ ...setup, model: new Sees(), minSnrGamma: 5 })
      const t = 60
      const { posteriorMeanCoef1: coef, posteriorVariance: variance, alphasCumprod } = plain
      const bar = alphasCumprod[t]
      const of =
        kind === 'edm'
          ? (Math.sqrt(1 - bar) * 0.7) / Math.hypot(Math.sqrt(1 - bar), 0.7 * Math.sqrt(bar))
          : Math.sqrt(1 - bar) / (Math.sqrt(bar) + Math.sqrt(1 - bar))
      const [a, b] = [await plain.pLosses(x, t, noise), await weighted.pLosses(x, t, noise)]
      assertClose([b.loss / a.loss], [Math.min(bar / (1 - bar), 5) * of ** 2], { rel: 1e-4, abs: 0 }, 'min-SNR')
      assertClose([plain.lvlbWeights[t]], [(coef[t] * of) ** 2 / (2 * variance[t])], { rel: 1e-4, abs: 0 }, 'bound')
    })
  }

  it('timesteps by normal numbers: the share below the median and a deviation above it is the distribution’s', () => {
    using edm = new DDPM({ model: (x) => x, parameterization: 'edm', device: testDevice })
    using flow = new DDPM({ model: (x) => x, parameterization: 'flow', device: testDevice })
    const n = 4000
    const given = { seed: 5, step: 7, batchSize: n, sampleOffset: 0 }
    const logs = [...drawNormal('lognormal', edm, given)].map((t) =>
      Math.log(edm.sqrtOneMinusAlphasCumprod[t] / edm.sqrtAlphasCumprod[t]),
    )
    const logits = [...drawNormal('logit-normal', flow, given)]
      .map((t) => (t + 0.5) / 1000)
      .map((u) => Math.log(u / (1 - u)))
    for (const [values, mean, deviation] of [
      [logs, -1.2, 1.2],
      [logits, 0, 1],
    ] as const) {
      for (const [at, share] of [
        [0, 0.5],
        [1, 0.8413],
      ] as const) {
        const found = values.filter((v) => v < mean + at * deviation).length / n
        assert.ok(
          Math.abs(found - share) < 4 * Math.sqrt((share * (1 - share)) / n) + 0.003,
          `${mean}: ${found}, not ${share}`,
        )
      }
    }
    // Sample i has its own, in any batch.
    assert.deepEqual(
      drawNormal('lognormal', edm, { ...given, batchSize: 1, sampleOffset: 3 })[0],
      drawNormal('lognormal', edm, given)[3],
    )
  })
})

const [weight, centres, deviation] = [0.3, [-0.6, 0.5], 0.15] as const
const mixture = [weight, 1 - weight].map((w, k) => ({ w, centre: centres[k] }))

/** E[x_0 | x] of the mixture, as the output of the parameterization. */
function exact(o: Partial<DDPMOptions>): DDPM {
  const ddpm: DDPM = new DDPM({
    ...o,
    imageSize: 32,
    channels: 1,
    clipDenoised: false,
    device: testDevice,
    model: async (x, t) => Tensor.from(await exactOutput(ddpm, o.parameterization, x, t), x.shape),
  })
  return ddpm
}

async function exactOutput(ddpm: DDPM, parameterization: unknown, x: Tensor, t: Tensor): Promise<Float32Array> {
  const [state, [i]] = [await x.data(), await t.data()]
  const [a, b] = pointAt(ddpm, i, { line: parameterization === 'flow' })
  const spread = a * a * deviation ** 2 + b * b
  return state.map((v) => {
    const parts = mixture.map(({ w, centre }) => ({
      p: w * Math.exp(-((v - a * centre) ** 2) / (2 * spread)),
      centre,
    }))
    const total = parts.reduce((sum, { p }) => sum + p, 0) || 1
    const start = parts.reduce(
      (sum, { p, centre }) => sum + (p / total) * (centre + ((a * deviation ** 2) / spread) * (v - a * centre)),
      0,
    )
    const noise = (v - a * start) / b
    if (parameterization === 'flow') return noise - start
    const root = Math.hypot(b, 0.5 * a)
    return (b / (0.5 * root)) * start - ((0.5 * a) / root) * noise
  })
}

const moment = (k: number) => {
  const m = mixture.reduce((sum, { w, centre }) => sum + w * centre, 0)
  const central = [0, 0, deviation ** 2, 0, 3 * deviation ** 4]
  const raw = (d: number) => (k === 2 ? d * d + central[2] : d ** 4 + 6 * d * d * central[2] + central[4])
  return { mean: m, central: mixture.reduce((sum, { w, centre }) => sum + w * raw(centre - m), 0) }
}

function assertMixture(values: Float32Array, what: string): void {
  const n = values.length
  const { mean, central: variance } = moment(2)
  const { central: fourth } = moment(4)
  const found = values.reduce((a, b) => a + b, 0) / n
  const spread = values.reduce((a, b) => a + (b - found) ** 2, 0) / n
  const share = values.filter((v) => v < 0).length / n
  const near = (v: number, expected: number, error: number, name: string) =>
    assert.ok(Math.abs(v - expected) < 4 * error, `${what}: ${name} ${v}, not ${expected} +- ${error}`)
  near(found, mean, Math.sqrt(variance / n), 'mean')
  near(spread, variance, Math.sqrt((fourth - variance ** 2) / n), 'variance')
  near(share, weight, Math.sqrt((weight * (1 - weight)) / n), 'share below 0')
}

describe('a mixture of two normals with the exact denoiser', () => {
  const cases: [Partial<DDPMOptions>, SampleOptions][] = [
    [{ parameterization: 'edm' }, { sampler: 'heun', steps: 40, sigmas: 'karras' }],
    [{ parameterization: 'edm' }, { sampler: 'euler', steps: 200, sigmas: 'karras' }],
    [{ parameterization: 'edm' }, { sampler: 'heun', steps: 40, sigmas: 'karras', sChurn: 10 }],
    [{ parameterization: 'flow' }, { sampler: 'euler', steps: 200, timestepSpacing: 'trailing' }],
    [{ parameterization: 'flow' }, { sampler: 'heun', steps: 40, timestepSpacing: 'trailing' }],
    [
      { parameterization: 'flow', flowShift: 3 },
      { sampler: 'heun', steps: 40, timestepSpacing: 'trailing' },
    ],
    [{ parameterization: 'flow' }, { sampler: 'dpmsolver++', steps: 60 }],
    [{ parameterization: 'edm', timesteps: 200 }, { sampler: 'ddpm' }],
  ]
  for (const [model, sampling] of cases) {
    it(`${JSON.stringify({ ...model, ...sampling })}: the moments within 4 standard errors`, async () => {
      using ddpm = exact(model)
      const samples = await ddpm.sample({ batchSize: 8, seed: 11, ...sampling })
      assertMixture(await samples.data(), sampling.sampler!)
    })
  }

  it('bits/dim and single steps are those of the same denoiser as a prediction of x_0', async () => {
    for (const parameterization of ['edm', 'flow'] as const) {
      using ddpm = exact({ parameterization, timesteps: 40 })
      const row = (t: number) => startRow(predictionOf({ parameterization }), ddpm.alphasCumprod[t])
      using x0 = new DDPM({
        ...{ parameterization: 'x0', givenBetas: ddpm.betas, clipDenoised: false, device: testDevice },
        model: async (x, t) => {
          const out = await exactOutput(ddpm, parameterization, x, t)
          const [[p, q], state] = [row((await t.data())[0]), await x.data()]
          return Tensor.from(
            out.map((v, i) => p * state[i] + q * v),
            x.shape,
          )
        },
      })
      const image = Tensor.from(
        [-1, -0.6, 0, 0.6, 0.8, 1, 0.2, -0.2].map((v) => Math.round((v + 1) * 127.5) / 127.5 - 1),
        [2, 1, 2, 2],
      )
      const [ours, theirs] = [await ddpm.calcBpd(image, { seed: 1 }), await x0.calcBpd(image, { seed: 1 })]
      assertClose(await ours.totalBpd.data(), await theirs.totalBpd.data(), { rel: 2e-3, abs: 0 }, parameterization)
      const [step, same] = [await ddpm.pMeanVariance(image, 20), await x0.pMeanVariance(image, 20)]
      assertClose(await step.modelMean.data(), await same.modelMean.data(), { rel: 1e-4, abs: 1e-4 }, 'mean')
    }
  })

  it('flow: Euler is the straight line’s own, and FlowMatchEulerDiscreteScheduler’s', async () => {
    using ddpm = exact({ parameterization: 'flow', flowShift: 3 })
    const xT = Tensor.randn([1, 1, 32, 32], { seed: 4 })
    const config = { _class_name: 'FlowMatchEulerDiscreteScheduler', shift: 3 }
    const found = await (await ddpm.pSampleLoop([1, 1, 32, 32], { xT, scheduler: config, steps: 9 })).data()
    // Its set_timesteps and step.
    const least = 3 / 1000 / (1 + 2 / 1000)
    const times = Array.from({ length: 9 }, (_, i) => 1 + (i / 8) * (least - 1)).map((t) => (3 * t) / (1 + 2 * t))
    let x = await xT.data()
    for (const [i, time] of times.entries()) {
      const [a, b] = [(1 - time) / Math.hypot(1 - time, time), time / Math.hypot(1 - time, time)]
      const scale = 1 / Math.hypot(1 - time, time)
      const spread = a * a * deviation ** 2 + b * b
      x = x.map((value) => {
        const v = value * scale
        const parts = mixture.map(({ w, centre }) => ({
          p: w * Math.exp(-((v - a * centre) ** 2) / (2 * spread)),
          centre,
        }))
        const total = parts.reduce((sum, { p }) => sum + p, 0)
        const start = parts.reduce(
          (sum, { p, centre }) => sum + (p / total) * (centre + ((a * deviation ** 2) / spread) * (v - a * centre)),
          0,
        )
        return value + ((times[i + 1] ?? 0) - time) * ((v - a * start) / b - start)
      })
    }
    assertClose(found, x, { abs: 2e-5, rel: 1e-4 }, 'samples')
  })

  it('EDMEulerScheduler is Euler with Karras’ sigmas', async () => {
    using ddpm = exact({ parameterization: 'edm' })
    const draw = (o: SampleOptions) => ddpm.sample({ batchSize: 1, seed: 2, steps: 12, ...o })
    const [ours, theirs] = [
      await draw({ sampler: 'euler', sigmas: 'karras' }),
      await draw({ scheduler: { _class_name: 'EDMEulerScheduler' } }),
    ]
    assertClose(await theirs.data(), await ours.data(), { abs: 1e-5, rel: 1e-5 }, 'samples')
  })
})

describe('models of EDM and of flow matching', () => {
  const unetConfig = {
    imageSize: 4,
    inChannels: 1,
    outChannels: 1,
    modelChannels: 8,
    normGroups: 4,
    channelMult: [1],
    numResBlocks: 1,
    attentionResolutions: [],
  }

  it('learn the mixture’s mean and variance in some seconds', async () => {
    const [data, steps] = [Tensor.randn([16, 1, 4, 4], { seed: 3 }), 300]
    const values = (await data.data()).map((v) => 0.4 + 0.2 * v)
    for (const parameterization of ['edm', 'flow'] as const) {
      using ddpm = new DDPM({ unetConfig, parameterization, clipDenoised: false, emaDecay: 0.98, device: 'cpu' })
      ddpm.configureOptimizers({ lr: 4e-3 })
      for (let step = 0; step < steps; step++) await ddpm.trainBatch(Tensor.from(values, [16, 1, 4, 4]))
      const samples = await ddpm.emaScope(() =>
        ddpm.sample({
          batchSize: 32,
          seed: 1,
          sampler: 'heun',
          steps: 12,
          ...(parameterization === 'edm' ? { sigmas: 'karras' } : { timestepSpacing: 'trailing' }),
        }),
      )
      const drawn = await samples.data()
      const mean = drawn.reduce((a, b) => a + b, 0) / drawn.length
      const std = Math.sqrt(drawn.reduce((a, b) => a + (b - mean) ** 2, 0) / drawn.length)
      assert.ok(Math.abs(mean - 0.4) < 0.1 && std > 0.1 && std < 0.35, `${parameterization}: ${mean}, ${std}`)
    }
  }).timeout(60_000)

  it('take the same steps on every backend, and draw the same', async () => {
    const x = Tensor.randn([4, 1, 4, 4], { seed: 3 })
    for (const parameterization of ['edm', 'flow'] as const) {
      const run = async (device: DeviceName) => {
        using ddpm = new DDPM({ unetConfig, parameterization, clipDenoised: false, useEma: false, device, seed: 4 })
        ddpm.configureOptimizers({ lr: 1e-3 })
        const losses: number[] = []
        for (let step = 0; step < 3; step++) losses.push((await ddpm.trainBatch(x)).loss)
        const sampling = parameterization === 'edm' ? ({ sigmas: 'karras' } as const) : {}
        const samples = await ddpm.sample({ batchSize: 2, seed: 1, sampler: 'heun', steps: 4, ...sampling })
        return { losses, samples: await samples.data() }
      }
      const expected = await run('cpu')
      assert.ok(new Set(expected.losses).size === 3)
      for (const device of testedBackends.filter((name) => name !== 'cpu')) {
        const { losses, samples } = await run(device)
        assertClose(losses, expected.losses, { abs: 0, rel: 1e-4 }, `${device}: losses`)
        assertCloseToScale(samples, expected.samples, 1e-3, `${device}: samples`)
      }
    }
  }).timeout(120_000)

  it('resume to the bit, and are saved and opened again to the bit', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'continuous-'))
    try {
      for (const parameterization of ['edm', 'flow'] as const) {
        const make = () => new DDPM({ unetConfig, parameterization, device: testDevice, seed: 4 })
        const x = Tensor.randn([2, 1, 4, 4], { seed: 1 })
        const [whole, first, second] = [make(), make(), make()]
        for (const m of [whole, first, second]) m.configureOptimizers({ lr: 1e-3 })
        for (let i = 0; i < 4; i++) await whole.trainBatch(x)
        for (let i = 0; i < 2; i++) await first.trainBatch(x)
        await second.loadTrainingState(await first.trainingState())
        for (let i = 0; i < 2; i++) await second.trainBatch(x)
        assert.deepEqual(await numbersOf(await second.stateDict()), await numbersOf(await whole.stateDict()))
        await whole.savePretrained(folder, { weights: 'model' })
        using again = await DDPM.fromPretrained(folder, { device: testDevice })
        const draw = async (m: DDPM) => (await m.sample({ batchSize: 1, seed: 1, sampler: 'euler', steps: 5 })).data()
        assertSameBits(await draw(again), await draw(whole), parameterization)
        assert.equal(again.parameterization, parameterization)
        for (const m of [whole, first, second]) m.dispose()
      }
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it('refuse by its name what has no meaning', () => {
    const refused = (o: Partial<DDPMOptions>, argument: string) =>
      assert.throws(() => new DDPM({ model: (x) => x, ...o }), { code: 'invalid-argument', argument })
    refused({ sigmaData: 1 }, 'sigmaData')
    refused({ parameterization: 'edm', zeroTerminalSnr: true }, 'zeroTerminalSnr')
    refused({ parameterization: 'eps', betaSchedule: 'flow' }, 'betaSchedule')
    refused({ parameterization: 'edm', sigmaMin: 2, sigmaMax: 1 }, 'sigmaMin, sigmaMax')
    refused({ timestepMean: 1 }, 'timestepMean')
    using ddpm = new DDPM({ unetConfig, parameterization: 'flow', device: testDevice })
    const yaml = (o: DDPMOptions) => () => compVisConfig(o, (ddpm.network as UNet).options)
    assert.throws(yaml(ddpm.config as DDPMOptions), { code: 'unsupported', argument: 'normGroups' })
    const plain = new UNet({ ...unetConfig, modelChannels: 32, normGroups: 32 }).options
    for (const [o, argument] of [
      [{ parameterization: 'edm' }, 'parameterization'],
      [{ betaSchedule: 'flow' }, 'betaSchedule'],
      [{ lossType: 'huber' }, 'lossType'],
    ] as const) {
      assert.throws(() => compVisConfig(o, plain), { code: 'unsupported', argument })
    }
    for (const scheduler of [{ _class_name: 'DDIMScheduler' }, { _class_name: 'EDMEulerScheduler' }]) {
      assert.rejects(ddpm.sample({ batchSize: 1, steps: 2, scheduler }), {
        code: 'invalid-argument',
        argument: 'scheduler',
      })
    }
  })
})
