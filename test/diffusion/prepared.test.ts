/** What does not change within a sampling is computed before its steps, and is what the steps would compute, to the bit. */
import assert from 'node:assert/strict'
import { coreOf } from '../../lib/diffusion/process/core'
import { makePlan } from '../../lib/diffusion/sampling/plan'
import { PreparedNetwork } from '../../lib/diffusion/sampling/prepared'
import {
  DDPM,
  type DDPMOptions,
  IdentityFirstStage,
  LatentDiffusion,
  type LatentDiffusionOptions,
  Tensor,
} from '../../lib/index'
import type { Precision } from '../../lib/native'
import { type Program, ProgramCache } from '../../lib/program'
import { assertSameBits } from '../support/compare'
import { testDevice, testedBackends } from '../support/devices'
import { devicesWith } from '../support/mixed'
import { randomize } from './fixture'

const tiny = {
  ...{ imageSize: 4, inChannels: 2, outChannels: 2, modelChannels: 8, normGroups: 4, channelMult: [1, 2] },
  ...{ numResBlocks: 1, attentionResolutions: [2], numHeads: 2 },
}
const attending = { ...tiny, useSpatialTransformer: true, contextDim: 6 }
const settings = { timesteps: 50, useEma: false, device: testDevice, imageSize: 4, channels: 2, deterministic: true }

const ddpm = (o: DDPMOptions = {}) => randomize(new DDPM({ unetConfig: tiny, ...settings, ...o } as DDPMOptions))
const latent = async (o: Partial<LatentDiffusionOptions> = {}) =>
  (await randomize(
    new LatentDiffusion({
      ...{ firstStage: new IdentityFirstStage(), condStage: { encode: async (c: never) => c as Tensor } },
      ...{ conditioningKey: 'crossattn', condStageKey: 'context', unetConfig: attending },
      ...settings,
      ...o,
    } as LatentDiffusionOptions),
  )) as LatentDiffusion

/** With every part computed in each step. */
async function stepwise<T>(fn: () => Promise<T>): Promise<T> {
  const { of } = PreparedNetwork
  PreparedNetwork.of = () => undefined
  try {
    return await fn()
  } finally {
    PreparedNetwork.of = of
  }
}

/** The programs that `fn` asks for, by kind. */
async function programsOf(fn: () => Promise<unknown>): Promise<Record<string, Set<Program>>> {
  const { getBeside } = ProgramCache.prototype
  const seen: Record<string, Set<Program>> = {}
  ProgramCache.prototype.getBeside = async function (kind, ...rest) {
    const program = await getBeside.call(this, kind, ...rest)
    seen[kind] = (seen[kind] ?? new Set<Program>()).add(program)
    return program
  }
  try {
    await fn()
    return seen
  } finally {
    ProgramCache.prototype.getBeside = getBeside
  }
}

/** Of its kernels, those of a name. */
const countOf = (programs: Set<Program> | undefined, op: string) =>
  [...(programs ?? [])].map((program) => {
    return program.steps().filter((step) => step.op === op && !step.prologue).length
  })

type Draw = (ddpm: DDPM, o: object) => Promise<Tensor>
const draw: Draw = (model, o) => model.sample({ batchSize: 2, seed: 3, ...o, returnIntermediates: false })

/** The same image to the bit either way. Returns the programs of both. */
async function same(model: DDPM, name: string, o: object, drawn = draw) {
  const images: Float32Array[] = []
  const sample = async () => images.push((await (await drawn(model, o)).data()) as Float32Array)
  const before = await stepwise(() => programsOf(sample))
  const after = await programsOf(sample)
  assert.ok(images[0].every(Number.isFinite), name)
  assertSameBits(images[1], images[0], name)
  return { before, after }
}

const image = Tensor.randn([2, 2, 4, 4], { seed: 9 })
const mask = Tensor.from(
  Float32Array.from({ length: 16 }, (_, i) => (i % 3) / 2),
  [1, 1, 4, 4],
)

const samplers: Record<string, object> = {
  ancestral: {},
  'DDIM with noise': { sampler: 'ddim', steps: 40, eta: 0.5 },
  PLMS: { sampler: 'plms', steps: 34 },
  Heun: { sampler: 'heun', steps: 20 },
  'between timesteps': { sampler: 'dpmsolver++', steps: 10, sigmas: 'karras' },
  'image to image': { image, strength: 0.7 },
  'RePaint, with jumps': { image, mask, jumpLength: 5, jumpNSample: 3 },
}

describe(`what does not change in a sampling, on ${testDevice}`, () => {
  for (const [name, o] of Object.entries(samplers)) {
    it(`${name}: the same bits`, async () => {
      using model = await ddpm()
      const { before, after } = await same(model, name, o)
      assert.deepEqual(countOf(after.step, 'TimestepEmbedding'), [0])
      assert.deepEqual(countOf(after.told, 'TimestepEmbedding'), [1])
      const [told] = countOf(after.told, 'Conv2d')
      assert.ok(told >= 3, 'two layers of the time embedding, and the projections')
      assert.deepEqual(countOf(after.step, 'Conv2d'), [countOf(before.step, 'Conv2d')[0] - told])
    })
  }

  const classes = { classLabels: [1, 0], guidanceScale: 2 }
  const networks: Record<string, [DDPMOptions, object, draws?: Draw]> = {
    'classes, guided': [{ unetConfig: { ...tiny, numClasses: 3 }, nullClass: 2 }, classes],
    'classes of one image': [
      { unetConfig: { ...tiny, numClasses: 3 }, nullClass: 2 },
      { batchSize: 1, classLabels: 1, guidanceScale: 2 },
    ],
    'guidance at some noise levels': [
      { unetConfig: { ...tiny, numClasses: 3 }, nullClass: 2 },
      { ...classes, guidanceInterval: [0.3, 3] },
    ],
    'more rows than a table has for 32 evaluations': [
      { unetConfig: { ...tiny, numClasses: 3 }, nullClass: 2 },
      { batchSize: 40, classLabels: 1, sampler: 'ddim', steps: 15, guidanceScale: 2 },
    ],
    vectors: [
      { unetConfig: { ...tiny, vectorDim: 5 }, vectorDropout: 0.1 },
      { vector: Tensor.randn([2, 5], { seed: 4 }), guidanceScale: 1.5 },
    ],
    'augmentation that is left out': [{ unetConfig: { ...tiny, vectorEmbedding: 'augment' } }, {}],
    'a table of timesteps': [
      { unetConfig: { ...tiny, layout: 'diffusers', timeEmbedding: 'learned', numTimesteps: 50 } },
      {},
    ],
    preconditioning: [{ parameterization: 'edm' }, { sampler: 'heun', steps: 12 }],
    'a straight line': [{ parameterization: 'flow' }, { sampler: 'euler', steps: 12 }],
    'learned variances': [{ unetConfig: { ...tiny, outChannels: 4 }, varianceType: 'learned_range' }, {}],
    'low-rank updates': [
      { unetConfig: attending, lora: { rank: 2 } },
      { context: Tensor.randn([2, 3, 6], { seed: 5 }) },
    ],
    lucidrains: [
      {
        unetConfig: {
          architecture: 'lucidrains',
          dim: 8,
          imageSize: 4,
          dimMults: [1, 2],
          channels: 2,
          selfCondition: true,
        },
      },
      { sampler: 'ddim', steps: 40 },
    ],
  }
  for (const [name, [options, o]] of Object.entries(networks)) {
    it(`${name}: the same bits`, async () => {
      using model = await ddpm(options)
      const { after } = await same(model, name, o)
      assert.ok(after.told.size > 0)
      for (const op of ['TimestepEmbedding', 'FourierEmbedding']) {
        assert.ok(
          countOf(after.step, op).every((count) => count === 0),
          op,
        )
      }
    })
  }

  it('LatentDiffusion: keys and values of both prompts once a sampling, of any lengths', async () => {
    using model = await latent()
    const [cond, uncond] = [3, 4].map((length) => Tensor.randn([2, length, 6], { seed: length }))
    const sampled: Draw = (_, o) => model.sample({ cond, batchSize: 2, seed: 3, ...o, returnIntermediates: false })
    for (const o of [
      { sampler: 'ddim', steps: 40 },
      { image, strength: 0.5 },
    ]) {
      const { before, after } = await same(
        model,
        JSON.stringify(Object.keys(o)),
        { ...o, uncond, guidanceScale: 3 },
        sampled,
      )
      const [keysValues] = countOf(after.attended, 'Conv2d')
      assert.ok(keysValues >= 4, 'of each transformer')
      assert.deepEqual(countOf(after.attended, 'Conv2d'), [keysValues, keysValues])
      const [told, ...others] = countOf(after.told, 'Conv2d')
      assert.deepEqual(others, [], 'one table for both')
      assert.deepEqual(countOf(after.step, 'Conv2d'), [countOf(before.step, 'Conv2d')[0] - 2 * (keysValues + told)])
    }
  })

  it('a network by patches', async () => {
    using model = await latent({
      splitInputParams: { ks: [4, 2], stride: [4, 2], vqf: 1, patchDistributedVq: true },
    } as object)
    const cond = Tensor.randn([2, 3, 6], { seed: 5 })
    await same(model, 'patches', { sampler: 'ddim', steps: 8 }, (_, o) =>
      model.pSampleLoop([2, 2, 4, 4], { cond, seed: 3, ...o }),
    )
  })

  it('each sampling has what it was given and the weights of then', async () => {
    using model = await ddpm({ unetConfig: { ...attending, numClasses: 3 } })
    const of = (seed: number, label: number) => ({
      ...{ context: Tensor.randn([2, 3, 6], { seed }), classLabels: label },
      ...{ sampler: 'ddim', steps: 10 },
    })
    const all = [of(1, 0), of(2, 0), of(1, 2)]
    const images = await Promise.all(all.map(async (o) => (await draw(model, o)).data()))
    for (const [i, o] of all.entries()) {
      assertSameBits(images[i], await stepwise(async () => (await draw(model, o)).data()), `image ${i}`)
    }
    assert.notDeepEqual(images[0], images[1])
    assert.notDeepEqual(images[0], images[2])
    const dict = await model.stateDict()
    for (const name of Object.keys(dict).filter((key) => /emb|to_k/.test(key))) {
      dict[name] = Tensor.from(
        (await dict[name].data()).map((v) => v / 2),
        dict[name].shape,
      )
    }
    await model.loadStateDict(dict)
    const { after } = await same(model, 'other weights', all[0])
    assert.ok(after.told.size === 1 && after.attended.size === 1)
    assert.notDeepEqual(await (await draw(model, all[0])).data(), images[0])
  })

  it('averages, within emaScope', async () => {
    using model = await ddpm({ unetConfig: attending, useEma: true, emaDecay: 0.5 })
    model.configureOptimizers({ lr: 0.1 })
    const context = Tensor.randn([2, 3, 6], { seed: 5 })
    const o = { context, sampler: 'ddim', steps: 10 }
    await model.trainBatch(image, { context })
    const averaged = await model.emaScope(async () => {
      await same(model, 'averages', o)
      return (await draw(model, o)).data()
    })
    await same(model, 'weights', o)
    assert.notDeepEqual(await (await draw(model, o)).data(), averaged)
  })
})

describe('what does not change in a sampling', () => {
  const everywhere = (['fp32', 'fp16', 'bf16'] as const).flatMap((precision: Precision) => {
    const devices = precision === 'fp32' ? testedBackends : devicesWith(precision)
    return devices.map((device) => [device, precision] as const)
  })
  const small = { ...attending, numClasses: 3, channelMult: [1], attentionResolutions: [1] }
  const told = { context: Tensor.randn([2, 3, 6], { seed: 5 }), classLabels: [1, 0], guidanceScale: 2 }
  const drawn = (device: string) => ({ ...told, sampler: 'ddim', steps: device === 'cpu' ? 34 : 3 })
  for (const [device, precision] of everywhere) {
    it(`has the same bits on ${device} in ${precision}`, async () => {
      using model = await ddpm({ unetConfig: small, nullClass: 2, device, precision } as DDPMOptions)
      const { after } = await same(model, device, drawn(device))
      assert.deepEqual([after.told.size, after.attended.size], [1, 1])
    }).timeout(600_000) // kernels of GPUs on a CPU
  }

  it('the timesteps are left to the steps where algorithms are timed', async () => {
    for (const device of testedBackends) {
      for (const deterministic of [true, false]) {
        using model = await ddpm({ device, deterministic } as DDPMOptions)
        const core = model[coreOf]
        const plan = makePlan([{ t: 3, prediction: [1, 0], next: { state: 1, m: [] } }], 50, { clip: false })
        const prepared = PreparedNetwork.of(core, { shape: [2, 2, 4, 4], plan, conditions: { given: {} } })
        const timed = !deterministic && device.startsWith('cuda')
        assert.equal(prepared?.kind.told, timed ? 'step' : 'alike', device)
        prepared?.release()
      }
    }
  })

  // Where a GPU's kernels run on a CPU, timing takes minutes.
  for (const device of testedBackends.filter((name) => !name.startsWith('cuda-host'))) {
    it(`has the same bits on ${device}, not deterministic`, async () => {
      using model = await ddpm({ unetConfig: small, nullClass: 2, device, deterministic: false } as DDPMOptions)
      const { after } = await same(model, device, drawn(device))
      assert.equal(after.attended.size, 1)
    })
  }
})
