// LatentDiffusion whose conditioning stage and logvar are trained with its network, against CompVis' ddpm.py.
import assert from 'node:assert/strict'
import {
  ClassEmbedder,
  type DeviceName,
  FrozenCLIPEmbedder,
  IdentityFirstStage,
  LatentDiffusion,
  SpatialRescaler,
  Tensor,
  TransformerEmbedder,
} from '../../../lib/index'
import { assertClose, assertCloseToScale, assertSameBits } from '../../support/compare'
import { testDevice, testedBackends } from '../../support/devices'
import { devicesWith } from '../../support/mixed'
import { Fixture } from '../fixture'
import { goldenLatent, goldenParameters } from './golden-latent'

const embedding = 'cond_stage_model.embedding.weight'

async function goldenCurve(fixture: Fixture, device: DeviceName): Promise<LatentDiffusion> {
  const condStage = new ClassEmbedder({ embedDim: 24, nClasses: 10, key: 'class_label', device })
  const model = await goldenLatent(fixture, device, { condStage })
  // The file's own are those after training.
  const { logvar: _, ...start } = await goldenParameters(await Fixture.load('ldm/ldm_kl_crossattn'))
  await model.loadStateDict(start, { strict: false })
  model.configureOptimizers({ lr: fixture.config.optimizer.lr })
  return model
}

/** What is recorded of a tensor is within its tolerance of `actual`, which began as `start`; prefix: 'param' or 'ema'. */
async function compareUpdate(fixture: Fixture, key: string, actual: Tensor, start: Tensor): Promise<void> {
  const { noise_params: noiseParams, suggest } = fixture.tolerance
  const expected = fixture.numbers(key)
  const [a, s] = await Promise.all([actual.data(), start.data()])
  if (noiseParams.includes(key.slice(key.indexOf('/') + 1))) {
    assertClose(a.slice(0, expected.length), expected, { abs: suggest.noise_params_atol, rel: 0 }, key)
    return
  }
  const squares = (of: (v: number, i: number) => number) => expected.reduce((sum, v, i) => sum + of(v, i) ** 2, 0)
  const off = Math.sqrt(squares((v, i) => a[i] - v) / squares((v, i) => v - s[i]))
  assert.ok(off < suggest.update_rel_l2, `${key}: off by ${off} of the update`)
}

for (const device of testedBackends) {
  describe(`ldm_train_curve on ${device}`, () => {
    it('network, class embedder and logvar learn what those of ddpm.py do', async () => {
      const fixture = await Fixture.load('ldm/ldm_train_curve')
      using model = await goldenCurve(fixture, device)
      const start = await model.stateDict()
      const { loss_rtol: rel, grad_norm_rtol: normRel } = fixture.tolerance.suggest
      const { steps } = fixture.config
      // Kernels of GPUs take their time on a CPU: what was trained there is to be seen in the losses.
      const taken = device === 'cuda-host' ? 3 : steps
      for (let k = 0; k < taken; k++) {
        const [z, noise] = [fixture.row('in/z', k), fixture.row('in/noise', k)]
        const [t, xc] = await Promise.all(
          ['t', 'class'].map(async (name) => Int32Array.from(await fixture.row(`in/${name}`, k).data())),
        )
        if (k === 0) {
          const { gradients } = await model.lossAndGradients(z, t, noise, { xc })
          assertCloseToScale(await gradients[embedding].data(), fixture.numbers(`grad/${embedding}`), 1e-3, embedding)
        }
        const { loss, lossDict, gradNorm } = await model.trainBatch(z, { t, noise, xc })
        const check = (actual: number | undefined, name: string, tolerance: number) =>
          assertClose([actual!], [fixture.numbers(`out/${name}`)[k]], { rel: tolerance, abs: 0 }, `${name} ${k}`)
        check(loss, 'loss', rel)
        check(gradNorm, 'grad_norm', normRel)
        check(lossDict['train/loss'], 'loss_dict', rel)
        for (const name of ['loss_simple', 'loss_vlb', 'loss_gamma']) check(lossDict[`train/${name}`], name, rel)
        check(lossDict.logvar, 'logvar', rel)
      }
      const end = await model.stateDict()
      const told = await model.getLearnedConditioning([3])
      const row = (await end[embedding].data()).slice(3 * 24, 4 * 24)
      assertSameBits(await told.data(), row, 'the stage encodes with the weights it was trained to')
      if (taken < steps) return
      for (const prefix of ['param', 'param_row0']) {
        for (const name of fixture.names(`${prefix}/`)) {
          await compareUpdate(fixture, `${prefix}/${name}`, end[name], start[name])
        }
      }
      const { ema } = await model.trainingState()
      assert.deepEqual(
        Object.keys(ema!),
        model.network!.parameters.slots.map(({ name }) => name),
      )
      for (const prefix of ['ema', 'ema_row0']) {
        for (const name of fixture.names(`${prefix}/`)) {
          const own = name.replace('model.diffusion_model.', '')
          await compareUpdate(fixture, `${prefix}/${name}`, ema![own], start[name])
        }
      }
    }).timeout(600_000)
  })
}

const latents = (n: number) =>
  Tensor.from(
    Float32Array.from({ length: n * 2 * 16 }, (_, i) => Math.sin(i)),
    [n, 2, 4, 4],
  )
const unet = (o: object) => ({
  imageSize: 4,
  inChannels: 2,
  outChannels: 2,
  modelChannels: 32,
  numResBlocks: 1,
  channelMult: [1],
  attentionResolutions: [1],
  numHeads: 2,
  ...o,
})
const tokens = Tensor.from(Int32Array.of(1, 2, 3, 4, 5, 6), [2, 3])
const maps = Tensor.from(
  Float32Array.from({ length: 2 * 3 * 64 }, (_, i) => Math.cos(i)),
  [2, 3, 8, 8],
)
const textConfig = {
  vocabSize: 9,
  hiddenSize: 16,
  intermediateSize: 32,
  numHiddenLayers: 1,
  numAttentionHeads: 2,
  maxPositionEmbeddings: 6,
}
const stages = {
  ClassEmbedder: (device: DeviceName) => ({
    condStage: new ClassEmbedder({ embedDim: 16, nClasses: 5, device }),
    xc: [4, 1],
  }),
  TransformerEmbedder: (device: DeviceName) => ({
    condStage: new TransformerEmbedder({ nEmbed: 16, nLayer: 1, vocabSize: 9, maxSeqLen: 4, device }),
    xc: tokens,
  }),
  FrozenCLIPEmbedder: (device: DeviceName) => ({
    condStage: new FrozenCLIPEmbedder({ textConfig, freeze: false, device }),
    xc: tokens,
  }),
  SpatialRescaler: (device: DeviceName) => ({
    condStage: new SpatialRescaler({ outChannels: 2, bias: true, device }),
    xc: maps,
  }),
}

function tiny(kind: keyof typeof stages, options = {}, device = testDevice) {
  const { condStage, xc } = stages[kind](device)
  const maps = kind === 'SpatialRescaler'
  const model = new LatentDiffusion({
    unetConfig: unet(maps ? { inChannels: 4 } : { useSpatialTransformer: true, contextDim: 16 }),
    firstStage: new IdentityFirstStage(),
    condStage,
    conditioningKey: maps ? 'concat' : 'crossattn',
    condStageTrainable: true,
    learnLogvar: true,
    timesteps: 20,
    device,
    ...options,
  })
  return { model, condStage, xc }
}

describe('LatentDiffusion with a trained conditioning stage', () => {
  for (const kind of Object.keys(stages) as (keyof typeof stages)[]) {
    it(`${kind}: gradients are the loss's, and the stage learns`, async () => {
      const { model, condStage, xc } = tiny(kind)
      using _model = model
      // A fresh network puts out zeros: it has to learn before its condition matters.
      model.configureOptimizers({ lr: 1e-2 })
      for (let step = 0; step < 3; step++) await model.trainBatch(latents(2), { xc })
      const before = await model.stateDict()
      const encoded = await (await model.getLearnedConditioning(xc)).data()
      const args = [latents(2), Int32Array.of(3, 17), latents(2)] as const
      const { gradients, loss } = await model.lossAndGradients(...args, { xc })
      const told = await model.pLosses(...args, { cond: await model.getLearnedConditioning(xc) })
      assertClose([loss], [told.loss], { rel: 1e-5, abs: 0 }, 'within the graph and beside it')
      for (const name of ['logvar', `cond_stage_model.${condStage.parameters.slots.at(-1)!.name}`]) {
        const slot = name.includes('to_logits') ? 'cond_stage_model.transformer.norm.weight' : name
        const [gradient, weights] = await Promise.all([gradients[slot].data(), before[slot].data()])
        const most = gradient.reduce((best, v, i) => (Math.abs(v) > Math.abs(gradient[best]) ? i : best), 0)
        const at = async (by: number) => {
          const moved = weights.slice()
          moved[most] += by
          await model.loadStateDict({ [slot]: Tensor.from(moved, before[slot].shape), ...rest(before, slot) })
          return (await model.pLosses(...args, { xc })).loss
        }
        const step = 1e-2
        const slope = ((await at(step)) - (await at(-step))) / (2 * step)
        assert.ok(Math.abs(gradient[most]) > 1e-4, `${slot} has a gradient`)
        assertClose([slope], [gradient[most]], { rel: 0.02, abs: 1e-5 }, `${kind} ${slot}`)
        await at(0)
      }
      await model.trainBatch(latents(2), { xc })
      const after = await (await model.getLearnedConditioning(xc)).data()
      assert.ok(
        after.some((v, i) => v !== encoded[i]),
        'the stage has learned',
      )
      const trained = (await model.stateDict())[`cond_stage_model.${condStage.parameters.slots[0].name}`]
      const own = (await condStage.stateDict())[condStage.parameters.slots[0].name]
      assertSameBits(await own.data(), await trained.data(), 'the state dict has what was trained')
    })
  }

  it('a training that goes on from its state is as one that was not interrupted', async () => {
    const whole = tiny('TransformerEmbedder')
    const resumed = tiny('TransformerEmbedder')
    using _whole = whole.model
    using _resumed = resumed.model
    for (const { model } of [whole, resumed]) model.configureOptimizers({ lr: 1e-2 })
    const train = ({ model, xc }: typeof whole) => model.trainBatch(latents(2), { xc })
    for (let step = 0; step < 2; step++) await train(whole)
    await resumed.model.loadTrainingState(await whole.model.trainingState())
    await whole.condStage.offload()
    for (let step = 0; step < 2; step++) assert.deepEqual(await train(resumed), await train(whole))
    const [a, b] = await Promise.all([whole, resumed].map(({ model }) => model.stateDict()))
    for (const name of Object.keys(a)) assertSameBits(await b[name].data(), await a[name].data(), name)
    assertSameBits(resumed.model.logvar, await a.logvar.data(), 'logvar')
    assert.ok(resumed.model.logvar.some((v) => v !== 0))
  })

  for (const device of devicesWith('bf16')) {
    it(`trains in bf16 on ${device}`, async () => {
      const { model, xc } = tiny('ClassEmbedder', { precision: 'bf16' }, device)
      using _model = model
      model.configureOptimizers({ lr: 1e-2 })
      const train = () => model.trainBatch(latents(2), { xc, t: 3, noise: latents(2) })
      const first = await train()
      for (let step = 0; step < 4; step++) await train()
      const last = await train()
      assert.ok(last.lossDict['train/loss_simple'] < first.lossDict['train/loss_simple'])
      assert.ok(last.lossDict.logvar < 0)
    })
  }

  it('averages are of the network alone, and emaScope leaves the stage as it is', async () => {
    const { model, xc } = tiny('ClassEmbedder', { emaDecay: 0 })
    using _model = model
    model.configureOptimizers({ lr: 1e-2 })
    for (let step = 0; step < 2; step++) await model.trainBatch(latents(2), { xc })
    const loss = () => model.pLosses(latents(2), 3, latents(2), { xc })
    // Decay 0: the averages are the weights, but for the rounding of ema - (ema - weight).
    const [averages, weights] = [await model.emaScope(loss), await loss()]
    assert.ok(Math.abs(averages.loss - weights.loss) < 1e-6, `${averages.loss}, ${weights.loss}`)
    assert.equal(averages.lossDict.logvar, weights.lossDict.logvar)
  })

  it('a batch of a training says the condition by condStageKey', async () => {
    const { model } = tiny('ClassEmbedder', { condStageKey: 'class', firstStageKey: 'image' })
    using _model = model
    model.configureOptimizers({ lr: 1e-2 })
    const before = await (await model.getLearnedConditioning([1])).data()
    const image = Tensor.from(new Float32Array(2 * 32).fill(0.5), [2, 4, 4, 2])
    const batch = { image, class: Tensor.from(Int32Array.of(0, 1)) }
    for (let step = 0; step < 2; step++) await model.trainingStep(batch)
    assert.notDeepEqual(await (await model.getLearnedConditioning([1])).data(), before)
    assert.ok(Number.isFinite((await model.validationStep(batch))['val/loss_ema']))
  })

  it('refuses what can not be trained', () => {
    const refuses = (options: object, argument: string) =>
      assert.throws(() => tiny('ClassEmbedder', options), { code: 'invalid-argument', argument })
    refuses({ condStage: '__is_first_stage__' }, 'condStageTrainable')
    refuses({ condStage: { encode: async (c: Tensor) => c } }, 'condStageTrainable')
    refuses({ condStage: new FrozenCLIPEmbedder({ textConfig, device: testDevice }) }, 'condStageTrainable')
    refuses({ conditioningKey: 'hybrid' }, 'condStageTrainable')
    refuses({ contextDropout: 0.1 }, 'contextDropout')
    refuses({ numTimestepsCond: 2 }, 'numTimestepsCond')
    refuses({ condStageForward: 'nodes' }, 'condStageForward')
    const { model } = tiny('ClassEmbedder')
    using _model = model
    assert.throws(() => model.registerSchedule({ timesteps: 30 }), { argument: 'timesteps' })
  })
})

/** All of a stage's weights, since a stage is loaded whole, but for one. */
function rest(dict: Record<string, Tensor>, but: string): Record<string, Tensor> {
  return Object.fromEntries(Object.entries(dict).filter(([name]) => name !== but))
}
