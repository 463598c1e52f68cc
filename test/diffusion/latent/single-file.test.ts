// Single files of Stable Diffusion, version 1 and 2: with their YAML and without, against CompVis' and Stability AI's code.
import assert from 'node:assert/strict'
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { writeSafetensors } from '../../../lib/checkpoint/safetensors'
import { readStateDictFile } from '../../../lib/checkpoint/state-dict-file'
import { LatentDiffusion, type LatentSampleOptions, type SingleFileOptions, Tensor } from '../../../lib/index'
import { FrozenOpenCLIPEmbedder } from '../../../lib/stages/text/open-clip'
import { assertClose, assertCloseToScale } from '../../support/compare'
import { testDevice } from '../../support/devices'
import { Fixture } from '../fixture'
import { camelCased } from './golden-latent'

const fixtures = path.join(__dirname, '..', '..', '..', '..', 'test', 'fixtures')
const checkpoints = path.join(fixtures, 'ldm', 'checkpoints')
const [out, chain] = [1e-4, 1e-3]

let folder: string
const at = (name: string) => path.join(folder, name)
/** The files lie in parts. */
function joined(name: string): string {
  const parts = readdirSync(checkpoints).filter((part) => part.startsWith(`${name}.part`))
  writeFileSync(at(name), Buffer.concat(parts.sort().map((part) => readFileSync(path.join(checkpoints, part)))))
  return at(name)
}

before(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'single-file-'))
  const { tensors } = await readStateDictFile(joined('sd_v1.ckpt'))
  const trained = Object.entries(tensors).filter(([name]) => !name.startsWith('model_ema.'))
  await writeSafetensors(at('sd_v1.safetensors'), Object.fromEntries(trained))
  joined('sd_v2.safetensors')
})
after(() => rmSync(folder, { recursive: true }))

/** What neither YAML nor shapes say of these small models. */
function optionsOf(fixture: Fixture): SingleFileOptions {
  const { clip_text, open_clip } = fixture.config
  const device = testDevice
  if (clip_text) return { device, textConfig: camelCased(clip_text), numHeads: 4, imageSize: 8 }
  const { embed_dim: embedDim, text_cfg } = open_clip
  return { device, textConfig: { embedDim, ...camelCased(text_cfg) }, numHeadChannels: 8, imageSize: 8 }
}

const ids = (fixture: Fixture, name: string) => Tensor.from(fixture.integers(name), fixture.shape(name))

/** Everything that a file of results has. */
async function check(model: LatentDiffusion, fixture: Fixture): Promise<void> {
  const { S: steps, t_enc, scale, img2img_scale: imageScale } = fixture.config
  const expected = (name: string) => fixture.numbers(`out/${name}`)
  const close = async (tensor: Tensor, name: string, tolerance: number) =>
    assertCloseToScale(await tensor.data(), expected(name), tolerance, name)
  const cond = await model.getLearnedConditioning(ids(fixture, 'in/ids'))
  const uncond = await model.getLearnedConditioning(ids(fixture, 'in/uncond_ids'))
  await close(cond, 'cond', out)
  await close(uncond, 'uncond', out)
  const [xt, t] = [fixture.tensor('in/xt'), fixture.integers('in/t')]
  await close(await model.applyModel(xt, t, cond), 'apply_model', out)
  const encoded = await model.encodeFirstStage(fixture.tensor('in/image'))
  await close((encoded as unknown as { parameters: Tensor }).parameters, 'moments', out)
  const z = await model.getFirstStageEncoding(encoded, { noise: fixture.tensor('in/noise') })
  await close(z, 'z', out)
  await close(await model.decodeFirstStage(fixture.tensor('in/z')), 'decode', out)
  const o = { cond, uncond, guidanceScale: scale, steps, ddimDiscretize: 'uniform', outputType: 'latent' } as const
  const draw = async (id: string, options: LatentSampleOptions) => {
    const latent = await model.sample({ ...o, batchSize: 2, xT: fixture.tensor('in/x_T'), ...options })
    await close(latent, `${id}/latent`, chain)
    const decoded = await model.decodeFirstStage(latent)
    await close(decoded, `${id}/decoded`, chain)
    const image = (await decoded.data()).map((v) => Math.min(Math.max((v + 1) / 2, 0), 1))
    assertCloseToScale(image, expected(`${id}/image`), chain, `${id}/image`)
  }
  await draw('ddim', { sampler: 'ddim' })
  await draw('ddim_eta', { sampler: 'ddim', eta: 0.5, noise: (i) => fixture.row('in/ddim_eta/noise', i) })
  if (fixture.has('out/plms/latent')) await draw('plms', { sampler: 'plms' })
  // ddim.py: noised as at the timestep of index t_enc, and drawn from the one below it on.
  const stride = model.numTimesteps / steps
  const begun = await model.qSample(z, t_enc * stride + 1, fixture.tensor('in/noise'))
  await close(begun, 'img2img/encoded', out)
  const { outputType: _, ...rest } = o
  const from = { image: z, strength: t_enc / steps, xT: begun, guidanceScale: imageScale, sampler: 'ddim' as const }
  const drawn = await model.pSampleLoop(begun.shape, { ...rest, ...from })
  await close(drawn, 'img2img/latent', chain)
}

describe(`single files on ${testDevice}`, () => {
  it('Stable Diffusion 1: .ckpt with averages and YAML', async () => {
    const fixture = await Fixture.load('ldm/checkpoints/sd_v1.expected')
    const config = path.join(checkpoints, 'sd_v1.yaml')
    using model = await LatentDiffusion.fromSingleFile(at('sd_v1.ckpt'), {
      ...{ ...optionsOf(fixture), numHeads: undefined, config, useEma: true },
    })
    await check(model, fixture)
    const cond = await model.getLearnedConditioning(ids(fixture, 'in/ids'))
    const [xt, t] = [fixture.tensor('in/xt'), fixture.integers('in/t')]
    const averaged = await model.emaScope(() => model.applyModel(xt, t, cond))
    assertCloseToScale(await averaged.data(), fixture.numbers('out/apply_model_ema'), out, 'apply_model_ema')
    using ema = await LatentDiffusion.fromSingleFile(at('sd_v1.ckpt'), {
      ...optionsOf(fixture),
      numHeads: undefined,
      config,
    })
    const alone = await ema.applyModel(xt, t, cond)
    assertCloseToScale(await alone.data(), fixture.numbers('out/apply_model_ema'), out, 'averages alone')
    // Every tensor is where it belongs.
    const dict = await model.stateDict()
    const { sums } = fixture.config
    let compared = 0
    for (const [name, expected] of Object.entries(sums as Record<string, number>)) {
      if (name.endsWith('position_ids')) continue
      const values = [...(await dict[name].values())]
      const sum = values.reduce((total, v) => total + v, 0)
      const magnitude = values.reduce((total, v) => total + Math.abs(v), 0)
      assertClose([sum], [expected], { abs: 1e-12 * magnitude, rel: 0 }, name)
      compared++
    }
    assert.equal(compared, Object.keys(sums).length - 1)
  })

  it('Stable Diffusion 1: .safetensors without any configuration', async () => {
    const fixture = await Fixture.load('ldm/checkpoints/sd_v1.expected')
    using model = await LatentDiffusion.fromSingleFile(at('sd_v1.safetensors'), optionsOf(fixture))
    assert.equal(model.parameterization, 'eps')
    assert.deepEqual(model.warnings(), [])
    await check(model, fixture)
  })

  it('Stable Diffusion 2, which predicts v: with YAML and without', async () => {
    const fixture = await Fixture.load('ldm/checkpoints/sd_v2.expected')
    const o = optionsOf(fixture)
    const config = path.join(checkpoints, 'sd_v2.yaml')
    for (const options of [{ ...o, numHeadChannels: undefined, config }, o]) {
      using model = await LatentDiffusion.fromSingleFile(at('sd_v2.safetensors'), options)
      assert.equal(model.parameterization, 'v')
      assert.equal(
        model.warnings().some((warning) => /taken for v/.test(warning)),
        !('config' in options),
      )
      await check(model, fixture)
    }
    using model = await LatentDiffusion.fromSingleFile(at('sd_v2.safetensors'), {
      ...o,
      numHeadChannels: undefined,
      config,
    })
    const [xt, t] = [fixture.tensor('in/xt'), fixture.integers('in/t')]
    const cond = await model.getLearnedConditioning(ids(fixture, 'in/ids'))
    const v = await model.applyModel(xt, t, cond)
    const alphas = [...t].map((step) => model.alphasCumprod[step])
    const [values, states] = [await v.data(), await xt.data()]
    const size = values.length / t.length
    // util.py's predict_start_from_z_and_v, predict_eps_from_z_and_v.
    const of = (a: (alpha: number) => number, b: (alpha: number) => number) =>
      values.map((value, i) => {
        const alpha = alphas[Math.floor(i / size)]
        return a(alpha) * states[i] + b(alpha) * value
      })
    const [x0, eps] = [of(Math.sqrt, (a) => -Math.sqrt(1 - a)), of((a) => Math.sqrt(1 - a), Math.sqrt)]
    assertCloseToScale(x0, fixture.numbers('out/x0_from_v'), out, 'x0_from_v')
    assertCloseToScale(eps, fixture.numbers('out/eps_from_v'), out, 'eps_from_v')
    const noise = flipped(await xt.data(), xt.shape)
    const { loss } = await model.pLosses(xt, t, Tensor.wrap(noise, xt.shape), { cond })
    assertClose([loss], fixture.numbers('out/p_losses_v'), { abs: 0, rel: 1e-5 }, 'p_losses_v')
  })

  it('options that are undefined say nothing', async () => {
    const own = { ...optionsOf(await Fixture.load('ldm/checkpoints/sd_v2.expected')), parameterization: undefined }
    const config = path.join(checkpoints, 'sd_v2.yaml')
    using model = await LatentDiffusion.fromSingleFile(at('sd_v2.safetensors'), {
      ...{ ...own, numHeadChannels: undefined, imageSize: undefined },
      config,
    })
    assert.equal(model.parameterization, 'v')
    await model.savePretrained(at('sd_v2'))
    using again = await LatentDiffusion.fromPretrained(at('sd_v2'), { device: testDevice, parameterization: undefined })
    assert.equal(again.parameterization, 'v')
  })

  it('fromConfig and initFromCkpt do the same', async () => {
    const fixture = await Fixture.load('ldm/checkpoints/sd_v2.expected')
    const config = path.join(checkpoints, 'sd_v2.yaml')
    const o = optionsOf(fixture)
    using whole = await LatentDiffusion.fromSingleFile(at('sd_v2.safetensors'), {
      ...o,
      numHeadChannels: undefined,
      config,
    })
    using model = await LatentDiffusion.fromConfig(config, { device: testDevice, condStage: stageLike(whole) })
    const { missing, unexpected } = await model.initFromCkpt(at('sd_v2.safetensors'))
    assert.deepEqual([missing, unexpected], [[], []])
    const cond = await model.getLearnedConditioning(ids(fixture, 'in/ids'))
    assertCloseToScale(await cond.data(), fixture.numbers('out/cond'), out, 'cond')
    const y = await model.applyModel(fixture.tensor('in/xt'), fixture.integers('in/t'), cond)
    assertCloseToScale(await y.data(), fixture.numbers('out/apply_model'), out, 'apply_model')
    using part = await LatentDiffusion.fromConfig(config, { device: testDevice, condStage: stageLike(whole) })
    const report = await part.initFromCkpt(at('sd_v2.safetensors'), { ignoreKeys: ['first_stage_model.decoder'] })
    assert.ok(report.missing.every((name) => name.startsWith('first_stage_model.decoder')) && report.missing.length > 0)
    using network = await LatentDiffusion.fromConfig(config, { device: testDevice, condStage: stageLike(whole) })
    await network.initFromCkpt(at('sd_v2.safetensors'), { onlyModel: true })
    const [a, b] = [await network.stateDict(), await model.stateDict()]
    const [inNetwork, inStage] = ['model.diffusion_model.out.2.weight', 'first_stage_model.decoder.conv_in.weight']
    assert.deepEqual(await a[inNetwork].data(), await b[inNetwork].data())
    assert.notDeepEqual(await a[inStage].data(), await b[inStage].data())
  })

  it('what a text encoder without weights, a prompt without a tokenizer, and other files say', async () => {
    const fixture = await Fixture.load('ldm/checkpoints/sd_v1.expected')
    const config = path.join(checkpoints, 'sd_v1.yaml')
    const o = optionsOf(fixture)
    using model = await LatentDiffusion.fromConfig(config, { device: testDevice })
    const text = model.getLearnedConditioning(ids(fixture, 'in/ids'))
    await assert.rejects(text, { code: 'not-configured', argument: 'condStage' })
    using file = await LatentDiffusion.fromSingleFile(at('sd_v1.safetensors'), o)
    await assert.rejects(file.sample({ prompt: 'a cat', steps: 1 }), { code: 'not-configured', argument: 'tokenizer' })
    const open = (options: SingleFileOptions, name = 'sd_v1.safetensors') =>
      LatentDiffusion.fromSingleFile(at(name), { device: testDevice, ...options })
    await assert.rejects(open({}), { code: 'unsupported', message: /numAttentionHeads/ })
    const other = path.join(checkpoints, 'sd_v2.yaml')
    await assert.rejects(open({ ...o, config: other }), { code: 'invalid-argument', argument: 'numHeads' })
    await assert.rejects(open({ ...o, numHeads: undefined, config: other }), { code: 'state-mismatch' })
    await assert.rejects(open({ ...o, numHeads: 5 }), { code: 'state-mismatch' })
    await assert.rejects(LatentDiffusion.fromConfig(path.join(checkpoints, 'none.yaml')), { code: 'not-found' })
    await writeSafetensors(at('other.safetensors'), {
      'conv.weight': { dtype: 'F32', shape: [1], data: new Float32Array(1) },
    })
    await assert.rejects(open({}, 'other.safetensors'), { code: 'state-mismatch', message: /as a latent model/ })
  })

  it('a tokenizer beside the file', async () => {
    const fixture = await Fixture.load('ldm/checkpoints/sd_v1.expected')
    mkdirSync(at('with'))
    copyFileSync(at('sd_v1.safetensors'), at('with/sd.safetensors'))
    mkdirSync(at('with/tokenizer'))
    for (const name of readdirSync(path.join(fixtures, 'clip_tokenizer'))) {
      copyFileSync(path.join(fixtures, 'clip_tokenizer', name), at(`with/tokenizer/${name}`))
    }
    using model = await LatentDiffusion.fromSingleFile(at('with/sd.safetensors'), optionsOf(fixture))
    // Its vocabulary is of another model.
    await assert.rejects(model.sample({ prompt: 'a cat', steps: 1 }), {
      argument: 'tokenizer',
      code: 'invalid-argument',
    })
  })
})

/** The same stage with weights of its own. */
function stageLike({ condStageModel }: LatentDiffusion) {
  const { network, config } = condStageModel as FrozenOpenCLIPEmbedder
  const { layer } = config as { layer: 'penultimate' }
  return new FrozenOpenCLIPEmbedder({ textConfig: network.options, layer, device: testDevice })
}

/** Along the batch and the rows. */
function flipped(values: Float32Array, [n, c, h, w]: readonly number[]): Float32Array {
  return values.map((_, i) => {
    const [column, row] = [i % w, Math.floor(i / w) % h]
    const [channel, sample] = [Math.floor(i / (h * w)) % c, Math.floor(i / (c * h * w))]
    return values[(((n - 1 - sample) * c + channel) * h + (h - 1 - row)) * w + column]
  })
}
