// LatentDiffusion against CompVis' ddpm.py, ddim.py and plms.py: encodings, losses, single steps and chains. Nothing of a file is left out.
import assert from 'node:assert/strict'
import type { Cond } from '../../../lib/diffusion/latent/conditioning'
import { Patches } from '../../../lib/diffusion/latent/split-input'
import { isPosterior, type Posterior } from '../../../lib/diffusion/latent/stages'
import { ddimTimesteps } from '../../../lib/diffusion/process/schedule'
import { type LatentDiffusion, type LatentSampleOptions, type LoopResult, Tensor } from '../../../lib/index'
import { assertClose, assertCloseToScale } from '../../support/compare'
import { testDevice } from '../../support/devices'
import { Fixture } from '../fixture'
import { camelCased, goldenLatent } from './golden-latent'

const out = 1e-4
const chain = 1e-3

/** What the network is told in a file's cases. */
function condOf(fixture: Fixture, sampling: boolean): Cond | undefined {
  const { cond } = fixture.config
  const given = (name: string) => fixture.tensor(name)
  if (cond) return { cConcat: cond.c_concat.map(given), cCrossattn: cond.c_crossattn.map(given) }
  if (fixture.has('in/y')) return Tensor.from(fixture.integers('in/y'))
  if (fixture.has('in/cond_image')) return given('out/conditioning/out')
  if (!fixture.has('in/context')) return undefined
  return sampling ? given('in/context') : given('out/conditioning/out')
}

/** One case of a file, and what is compared of it. */
class Case {
  readonly id: string
  readonly kind: string

  constructor(
    readonly fixture: Fixture,
    readonly c: ReturnType<typeof camelCased>,
  ) {
    this.id = c.id
    this.kind = c.kind.split(/[ ,(]/)[0]
  }

  has(name: string): boolean {
    return this.fixture.has(`out/${this.id}/${name}`)
  }

  expected(name: string): Float32Array {
    return this.fixture.numbers(`out/${this.id}/${name}`)
  }

  async close(actual: Tensor, name: string, tolerance = out): Promise<void> {
    assertCloseToScale(await actual.data(), this.expected(name), tolerance, `${this.id} ${name}`)
  }

  /** States on the way, as the file has them side by side. */
  async closeAll(actual: readonly Tensor[], name: string): Promise<void> {
    const all = await Promise.all(actual.map((state) => state.data()))
    const states = Float32Array.from(all.flatMap((state) => [...state]))
    assertCloseToScale(states, this.expected(name), chain, `${this.id} ${name}`)
  }

  /** The i-th tensor that was drawn. */
  noise(i: number): Tensor {
    const name = `in/${this.id}/noise`
    return this.fixture.has(`${name}.${i}`) ? this.fixture.tensor(`${name}.${i}`) : this.fixture.row(name, i)
  }

  /** What a sampling begins with, and what it draws: in each step the noise of others comes before or after the step's own. */
  drawn(o: { before?: boolean; after?: boolean } = {}) {
    const each = o.before || o.after ? 2 : 1
    const own = o.before ? 1 : 0
    return { xT: this.fixture.tensor(`in/${this.id}/x_T`), noise: (i: number) => this.noise(each * i + own) }
  }

  /** The image to keep a part of. */
  kept() {
    const { mask, x0 } = this.c
    return mask && { mask: this.fixture.tensor(`in/${mask}`), image: this.fixture.tensor(`in/${x0}`) }
  }
}

/** The chain of a sampling in latents. */
const drawn = (model: LatentDiffusion, options: LatentSampleOptions): Promise<LoopResult> =>
  model.sample({ ...options, outputType: 'latent', returnIntermediates: true })

type Check = (model: LatentDiffusion, one: Case) => Promise<void>

const tensor = ({ fixture, c }: Case, name: string) => fixture.tensor(`in/${c[name] ?? name}`)

const encode: Check = async (model, one) => {
  const encoded = await model.encodeFirstStage(tensor(one, 'x'))
  if (isPosterior(encoded)) {
    const { parameters } = encoded as Posterior & { parameters: Tensor }
    await one.close(parameters, 'moments')
    return one.close(await model.getFirstStageEncoding(encoded, { noise: one.noise(0) }), 'z')
  }
  await one.close(encoded, one.has('encoded') ? 'encoded' : 'out')
  if (one.has('z')) await one.close(await model.getFirstStageEncoding(encoded), 'z')
}

const input: Check = async (model, one) => {
  const { fixture } = one
  const names = Object.entries(one.c.batch).map(([key, entry]) => {
    const name = `in/${(entry as string).split(' ')[0]}`
    return [
      key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      name === 'in/class' ? Tensor.from(fixture.integers(name)) : fixture.tensor(name),
    ]
  })
  const noise = one.has('xrec') ? undefined : one.noise(0)
  const { x, z, xc, c } = await model.getLatentInput(Object.fromEntries(names), { noise })
  await one.close(z, 'z')
  await one.close(c!, 'c')
  if (!one.has('xrec')) return
  await one.close(x, 'x')
  await one.close(xc as Tensor, 'xc')
  await one.close(await model.decodeFirstStage(z), 'xrec')
}

const losses: Check = async (model, one) => {
  const { fixture } = one
  const cond = condOf(fixture, false)
  const args = [tensor(one, 'z'), fixture.integers('in/t'), fixture.tensor('in/noise'), cond && { cond }] as const
  const near = (value: number, name: string) =>
    assertClose(Float32Array.of(value), one.expected(name), { abs: 0, rel: 1e-5 }, name)
  for (const mode of ['train', 'val'] as const) {
    model.train(mode === 'train')
    const { loss, lossDict } = await model.pLosses(...args)
    near(loss, 'total')
    for (const [name, value] of Object.entries(lossDict)) near(value, name)
    near((await model.lossAndGradients(...args)).loss, 'total')
  }
}

const steps: Record<string, Check> = {
  async p_mean_variance(model, one) {
    const { clipDenoised, quantizeDenoised } = one.c
    const cond = condOf(one.fixture, false)
    const o = { ...(cond && { cond }), clipDenoised, quantizeDenoised, returnX0: true }
    const made = await model.pMeanVariance(tensor(one, 'x'), one.fixture.integers('in/t'), o)
    await one.close(made.modelMean, 'mean')
    await one.close(made.posteriorVariance, 'variance')
    await one.close(made.posteriorLogVariance, 'log_variance')
    await one.close(made.x0!, 'x0')
  },
  async p_sample(model, one) {
    const { clipDenoised, repeatNoise, temperature, quantizeDenoised } = one.c
    const cond = condOf(one.fixture, false)
    const own = { clipDenoised, repeatNoise, temperature, quantizeDenoised, noise: one.noise(0) }
    const o = { ...(cond && { cond }), ...own, returnX0: true } as const
    const made = await model.pSample(tensor(one, 'x'), one.fixture.integers('in/t'), o)
    await one.close(made.sample, 'sample')
    await one.close(made.x0, 'x0')
    assert.deepEqual(
      await (await model.pSample(tensor(one, 'x'), one.fixture.integers('in/t'), { ...o, returnX0: false })).data(),
      await made.sample.data(),
    )
  },
}

/** ddim.py's and plms.py's samplers. */
const implicit: Check = async (model, one) => {
  const { c, fixture } = one
  const { S: count, eta, logEveryT = 100, temperature, quantizeX0, unconditionalGuidanceScale: guidanceScale = 1 } = c
  const plms = one.kind === 'plms'
  assert.deepEqual([...ddimTimesteps('uniform', count, model.numTimesteps)], [...one.expected('ddim_timesteps')])
  const cond = condOf(fixture, true)
  const kept = one.kept()
  // PLMS draws twice in its first step.
  const imageNoise = kept && { imageNoise: (i: number) => one.noise(plms && i > 0 ? 2 * i + 1 : 2 * i) }
  const { samples, intermediates, predX0 } = await drawn(model, {
    ...(plms ? { sampler: 'plms' as const } : { sampler: 'ddim' as const, eta }),
    ...{ steps: count, ddimDiscretize: 'uniform' as const, temperature, quantizeDenoised: quantizeX0 },
    ...(guidanceScale !== 1 && { guidanceScale, uncond: fixture.tensor('in/uncond') }),
    ...(cond && { cond }),
    ...one.drawn({ before: kept !== undefined }),
    ...(plms && { noise: undefined }),
    ...kept,
    ...imageNoise,
    ...{ batchSize: fixture.config.shape[0], logEveryT },
  })
  if (kept) {
    // The image itself is mixed in at the end, which ddim.py and plms.py leave out.
    const [given, expected, mask, image] = await Promise.all([
      samples.data(),
      one.expected('final'),
      kept.mask.data(),
      kept.image.data(),
    ])
    const area = mask.length / fixture.config.shape[0]
    const [, channels] = fixture.config.shape
    const mixed = expected.map((v, i) => {
      const keep = mask[Math.floor(i / (channels * area)) * area + (i % area)]
      return keep * image[i] + (1 - keep) * v
    })
    assertCloseToScale(given, mixed, chain, `${one.id} final`)
  } else await one.close(samples, 'final', chain)
  if (!one.has('x_inter')) return
  const last = kept ? -1 : undefined
  await one.closeAll(predX0, 'pred_x0')
  if (!kept) return one.closeAll(intermediates, 'x_inter')
  const all = one.expected('x_inter')
  const states = await Promise.all(intermediates.slice(0, last).map((state) => state.data()))
  const values = Float32Array.from(states.flatMap((state) => [...state]))
  assertCloseToScale(values, all.slice(0, values.length), chain, `${one.id} x_inter`)
}

/** DDIMSampler's stochastic_encode and decode: noise of one of its timesteps, and the steps below it. */
const imageToImage: Check = async (model, one) => {
  const { fixture, c } = one
  const { S: count, eta, tEnc, unconditionalGuidanceScale: guidanceScale, useOriginalSteps } = c
  const image = fixture.tensor(`in/${c.z0}`)
  const t = useOriginalSteps ? tEnc : ddimTimesteps('uniform', count, model.numTimesteps)[tEnc]
  const encoded = await model.qSample(image, t, one.noise(0))
  await one.close(encoded, 'encoded')
  if (useOriginalSteps) return
  const guided = guidanceScale !== 1 && { guidanceScale, uncond: fixture.tensor('in/uncond') }
  const decoded = await model.sample({
    ...({ sampler: 'ddim', steps: count, ddimDiscretize: 'uniform', eta, strength: tEnc / count, image } as const),
    ...{ cond: condOf(fixture, true), ...guided, xT: encoded, noise: (i: number) => one.noise(i + 1), batchSize: 2 },
    outputType: 'latent',
  })
  await one.close(decoded, 'decoded', chain)
}

const methods: Record<string, Check> = {
  ...steps,
  encode_first_stage: encode,
  get_input: input,
  p_losses: losses,
  ddim: implicit,
  ddim_sampling: implicit,
  plms: implicit,
  'stochastic_encode+decode': imageToImage,
  async on_train_batch_start(model, one) {
    await model.onTrainBatchStart({ image: one.fixture.tensor('in/batch_image') })
    assertClose(Float32Array.of(model.scaleFactor), one.expected('scale_factor'), { abs: 0, rel: 1e-5 }, 'scaleFactor')
  },
  async get_learned_conditioning(model, one) {
    const { fixture, c } = one
    if (one.has('null')) {
      const labels = Tensor.from(fixture.integers('in/class'))
      await one.close(await model.getLearnedConditioning(labels), 'out')
      return one.close(await model.getLearnedConditioning([c.nullClass, c.nullClass]), 'null')
    }
    const given = c.x ? fixture.tensor(`in/${c.x}`) : Tensor.from(fixture.integers('in/y'))
    await one.close(await model.getLearnedConditioning(given), 'out')
  },
  async decode_first_stage(model, one) {
    const { predictCids = false, forceNotQuantize = false, z } = one.c
    const codes = z === 'ids' && Tensor.from(one.fixture.integers('in/ids'), one.fixture.shape('in/ids'))
    await one.close(await model.decodeFirstStage(codes || tensor(one, 'z'), { predictCids, forceNotQuantize }), 'out')
  },
  async apply_model(model, one) {
    const { fixture } = one
    const cond = one.c.cond ? fixture.tensor(`in/${one.c.cond}`) : condOf(fixture, false)
    const apply = () => model.applyModel(fixture.tensor('in/xt'), fixture.integers('in/t'), cond)
    if (!one.has('after')) return one.close(await apply(), 'out')
    await one.close(await model.emaScope(apply), 'out')
    await one.close(await apply(), 'after')
  },
  async sample(model, one) {
    const { fixture, c } = one
    const cond = condOf(fixture, true)
    const kept = one.kept()
    const noisyCond = model.condIds !== undefined
    const { samples, intermediates } = await drawn(model, {
      ...(cond && { cond }),
      ...one.drawn({ before: noisyCond, after: kept !== undefined }),
      ...(noisyCond && { condNoise: (i: number) => one.noise(2 * i) }),
      ...kept,
      ...(kept && { imageNoise: (i: number) => one.noise(2 * i + 1) }),
      ...{ startT: c.timesteps, quantizeDenoised: c.quantizeDenoised },
      batchSize: fixture.config.shape[0],
    })
    await one.close(samples, 'final', chain)
    await one.closeAll(intermediates, 'intermediates')
  },
  async progressive_denoising(model, one) {
    const { fixture, c } = one
    const cond = condOf(fixture, true)
    const kept = one.kept()
    const noisyCond = model.condIds !== undefined
    const { samples, intermediates } = await model.progressiveDenoising(fixture.config.shape, {
      ...(cond && { cond }),
      ...one.drawn({ before: noisyCond, after: kept !== undefined }),
      ...(noisyCond && { condNoise: (i: number) => one.noise(2 * i) }),
      ...kept,
      ...(kept && { imageNoise: (i: number) => one.noise(2 * i + 1) }),
      ...{ startT: c.startT, temperature: c.temperature, logEveryT: c.logEveryT },
    })
    await one.close(samples, 'final', chain)
    await one.closeAll(intermediates, 'x0_partial')
  },
  async sample_log(model, one) {
    const { ddim, ddimSteps, eta } = one.c
    const [batchSize] = one.fixture.config.shape
    const o = { ddim, ddimSteps, eta, batchSize, cond: condOf(one.fixture, true), ...one.drawn() }
    await one.close((await model.sampleLog(o)).samples, 'final', chain)
  },
  async _prior_bpd(model, one) {
    const z = one.fixture.tensor('in/z')
    await one.close(await model.priorBpd(z), 'prior_bpd')
    const eps = await model.predictEpsFromXstart(one.fixture.tensor('in/xt'), one.fixture.integers('in/t'), z)
    await one.close(eps, 'eps_from_xstart')
  },
  async get_fold_unfold(model, one) {
    const { vqf } = model.splitInputParams!
    const patches = new Patches([8, 8], model.splitInputParams!, one.id === 'fold_up' ? { up: vqf } : {})
    for (const name of ['weighting', 'normalization'] as const) await one.close(patches[name], name)
  },
  async make_cond_schedule(model, one) {
    assert.deepEqual([...model.condIds!], [...one.expected('cond_ids')])
  },
}

/** Of another model than the file's other cases: ddim.py and plms.py take what the network says for the noise, whatever it is. */
function own({ c, kind }: Case): Record<string, unknown> {
  if (['ddim', 'ddim_sampling', 'plms'].includes(kind)) return { parameterization: 'eps' }
  if (kind === 'on_train_batch_start') return { scaleByStd: true, scaleFactor: 1 }
  return c.splitInputParams ? { splitInputParams: c.splitInputParams } : {}
}

for (const [name, count] of [
  ['ldm_kl_crossattn', 26],
  ['ldm_unconditional', 10],
  ['ldm_vq_concat', 16],
  ['ldm_hybrid', 4],
  ['ldm_adm', 5],
  ['ldm_cond_schedule', 3],
  ['ldm_split', 5],
] as const) {
  it(`${name}: what ddpm.py gives, case by case, on ${testDevice}`, async () => {
    const fixture = await Fixture.load(`ldm/${name}`)
    using model = await goldenLatent(fixture, testDevice)
    const cases: Case[] = camelCased(fixture.config.cases).map((c: object) => new Case(fixture, c))
    assert.equal(cases.length, count)
    fixture.read.clear()
    for (const one of cases) {
      assert.ok(one.kind in methods, `${one.id}: no comparison of ${one.kind}`)
      const options = own(one)
      if (Object.keys(options).length === 0) await methods[one.kind](model, one)
      else {
        using other = await goldenLatent(fixture, testDevice, options)
        await methods[one.kind](other, one)
      }
    }
    const left = fixture.names('out/').filter((entry) => !fixture.read.has(`out/${entry}`))
    assert.deepEqual(left, [], 'all of the file was compared')
  })
}

it("what is gone away from is no condition with 'adm'", async () => {
  const fixture = await Fixture.load('ldm/ldm_adm')
  using model = await goldenLatent(fixture, testDevice)
  const cond = Tensor.from(fixture.integers('in/y'))
  await assert.rejects(model.sample({ batchSize: 2, cond, uncond: cond, guidanceScale: 2 }), { argument: 'uncond' })
})
