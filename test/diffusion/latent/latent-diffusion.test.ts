// LatentDiffusion against CompVis' ddpm.py: encodings, losses, single steps and chains.
import assert from 'node:assert/strict'
import type { Cond } from '../../../lib/diffusion/latent/conditioning'
import { isPosterior, type Posterior } from '../../../lib/diffusion/latent/stages'
import { type LatentDiffusion, Tensor } from '../../../lib/index'
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

/** Cases by the method that they are of: whatever the file has of it. */
async function check(model: LatentDiffusion, fixture: Fixture, c: ReturnType<typeof camelCased>): Promise<boolean> {
  const { id, kind } = c
  const expected = (name: string) => fixture.numbers(`out/${id}/${name}`)
  const close = async (actual: Tensor, name: string, tolerance: number) =>
    assertCloseToScale(await actual.data(), expected(name), tolerance, `${id} ${name}`)
  const cond = condOf(fixture, false)
  const told = cond && { cond }
  const noise = (i: number) => fixture.row(`in/${id}/noise`, i)
  switch (kind.split(/[ ,(]/)[0]) {
    case 'encode_first_stage': {
      const encoded = await model.encodeFirstStage(fixture.tensor('in/x'))
      if (isPosterior(encoded)) {
        const { parameters } = encoded as Posterior & { parameters: Tensor }
        await close(parameters, 'moments', out)
        await close(await model.getFirstStageEncoding(encoded, { noise: noise(0) }), 'z', out)
      } else await close(await model.getFirstStageEncoding(encoded), 'z', out)
      return true
    }
    case 'decode_first_stage': {
      const { predictCids = false, forceNotQuantize = false } = c
      const z =
        c.z === 'ids' ? Tensor.from(fixture.integers('in/ids'), fixture.shape('in/ids')) : fixture.tensor(`in/${c.z}`)
      await close(await model.decodeFirstStage(z, { predictCids, forceNotQuantize }), 'out', out)
      return true
    }
    case 'apply_model': {
      if (kind !== 'apply_model') return false
      const y = await model.applyModel(fixture.tensor('in/xt'), fixture.integers('in/t'), cond)
      await close(y, 'out', out)
      return true
    }
    case 'p_losses': {
      for (const mode of ['train', 'val'] as const) {
        model.train(mode === 'train')
        const args = [fixture.tensor('in/z'), fixture.integers('in/t'), fixture.tensor('in/noise'), told] as const
        const { loss, lossDict } = await model.pLosses(...args)
        assertClose(Float32Array.of(loss), expected('total'), { abs: 0, rel: 1e-5 }, 'total')
        for (const [name, value] of Object.entries(lossDict)) {
          assertClose(Float32Array.of(value), expected(name), { abs: 0, rel: 1e-5 }, name)
        }
      }
      const args = [fixture.tensor('in/z'), fixture.integers('in/t'), fixture.tensor('in/noise'), told] as const
      const { gradients } = await model.lossAndGradients(...args)
      let compared = 0
      for (const [name, gradient] of Object.entries(gradients)) {
        const file = `grad/${name}`
        if (!fixture.has(file)) continue
        compared++
        const values = fixture.numbers(file)
        const largest = values.reduce((max, v) => Math.max(max, Math.abs(v)), 0)
        assertClose(await gradient.data(), values, { abs: Math.max(1e-3 * largest, 1e-6), rel: 0 }, name)
      }
      assert.ok(compared > 0 || fixture.names('grad/').length === 0, 'gradients were compared')
      return true
    }
    case 'p_mean_variance': {
      if (c.quantizeDenoised) return false
      const x = fixture.tensor(`in/${c.x}`)
      const { clipDenoised } = c
      const made = await model.pMeanVariance(x, fixture.integers('in/t'), { ...told, clipDenoised })
      await close(made.modelMean, 'mean', out)
      await close(made.posteriorVariance, 'variance', out)
      await close(made.posteriorLogVariance, 'log_variance', out)
      return true
    }
    case 'p_sample': {
      if (c.quantizeDenoised) return false
      const { clipDenoised, repeatNoise, temperature } = c
      const x = fixture.tensor('in/xt')
      const o = { ...told, clipDenoised, repeatNoise, temperature, noise: noise(0) }
      await close(await model.pSample(x, fixture.integers('in/t'), o), 'sample', out)
      return true
    }
    case 'sample':
    case 'ddim':
    case 'plms': {
      if (c.mask || c.quantizeDenoised || c.quantizeX0) return false
      const { S: steps, eta, logEveryT, unconditionalGuidanceScale: guidanceScale } = c
      const uncond = fixture.has('in/uncond') && guidanceScale !== 1 ? { uncond: fixture.tensor('in/uncond') } : {}
      const sampler = kind === 'sample' ? {} : { sampler: kind, steps, ddimDiscretize: 'uniform' as const }
      const result = await model.sample({
        ...sampler,
        ...(kind === 'ddim' && { eta }),
        ...(guidanceScale !== undefined && guidanceScale !== 1 && { guidanceScale, ...uncond }),
        ...(cond && { cond: condOf(fixture, true) }),
        ...(c.temperature !== undefined && { temperature: c.temperature }),
        ...(c.timesteps !== undefined && { startT: c.timesteps }),
        batchSize: fixture.config.shape[0],
        xT: fixture.tensor(`in/${id}/x_T`),
        noise,
        logEveryT: logEveryT ?? (kind === 'sample' ? model.logEveryT : 100),
        outputType: 'latent',
        returnIntermediates: true,
      } as never)
      const { samples, intermediates } = result as unknown as { samples: Tensor; intermediates: Tensor[] }
      await close(samples, 'final', chain)
      const name = kind === 'sample' ? 'intermediates' : 'x_inter'
      const all = await Promise.all(intermediates.map((state) => state.data()))
      const states = Float32Array.from(all.flatMap((state) => [...state]))
      assertCloseToScale(states, expected(name), chain, `${id} ${name}`)
      return true
    }
    default:
      return false
  }
}

/** How many cases of each file are of methods that are compared here. */
const files: Readonly<Record<string, number>> = {
  ldm_kl_crossattn: 13,
  ldm_unconditional: 6,
  ldm_vq_concat: 8,
  ldm_hybrid: 3,
  ldm_adm: 4,
}

for (const [name, count] of Object.entries(files)) {
  it(`${name}: what ddpm.py gives, case by case, on ${testDevice}`, async () => {
    const fixture = await Fixture.load(`ldm/${name}`)
    using model = await goldenLatent(fixture, testDevice)
    // ddim.py and plms.py take what the network says for the noise, whatever the parameterization.
    using asNoise = await goldenLatent(fixture, testDevice, { parameterization: 'eps' })
    let compared = 0
    for (const c of camelCased(fixture.config.cases)) {
      const used = c.kind === 'ddim' || c.kind === 'plms' ? asNoise : model
      if (await check(used, fixture, c)) compared++
    }
    assert.ok(compared >= count, `${compared} cases were compared`)
  })
}

it("what is gone away from is no condition with 'adm'", async () => {
  const fixture = await Fixture.load('ldm/ldm_adm')
  using model = await goldenLatent(fixture, testDevice)
  const cond = Tensor.from(fixture.integers('in/y'))
  await assert.rejects(model.sample({ batchSize: 2, cond, uncond: cond, guidanceScale: 2 }), { argument: 'uncond' })
})

it(`ldm_split: applyModel and the first stage by patches, on ${testDevice}`, async () => {
  const fixture = await Fixture.load('ldm/ldm_split')
  for (const c of camelCased(fixture.config.cases)) {
    if (c.kind.startsWith('get_fold')) continue
    const { vqf: factor, ...splitInputParams } = c.splitInputParams
    using model = await goldenLatent(fixture, testDevice, { splitInputParams: { ...splitInputParams, vqf: factor } })
    const made =
      c.id === 'apply_model'
        ? await model.applyModel(fixture.tensor('in/xt'), fixture.integers('in/t'), fixture.tensor('in/c'))
        : c.id === 'decode'
          ? await model.decodeFirstStage(fixture.tensor('in/z'))
          : ((await model.encodeFirstStage(fixture.tensor('in/x'))) as Tensor)
    assertCloseToScale(await made.data(), fixture.numbers(`out/${c.id}/out`), out, c.id)
    await assert.rejects(model.sample({ cond: fixture.tensor('in/c'), batchSize: 2 }), { code: 'unsupported' })
  }
})
