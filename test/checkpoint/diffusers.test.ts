// diffusers' folders: read against golden data, written and read back, by Python as well.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { cp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { readSafetensors, writeSafetensors } from '../../lib/checkpoint/safetensors'
import { DDPM, type DDPMOptions, Tensor } from '../../lib/index'
import { Fixture, randomize } from '../diffusion/fixture'
import { assertClose } from '../support/compare'
import { fixtures, goldenFolder, legacyFolder, open, unetConfig, WorkFolder, weightsOf } from './diffusers-support'

describe('diffusers folders', () => {
  const work = new WorkFolder()
  const { copy, edit, rejects } = work

  for (const folder of [goldenFolder, legacyFolder]) {
    it(`${path.basename(folder)}: the pipeline's timesteps, states and images`, async () => {
      const golden = await Fixture.load('diffusers_ddpm')
      using ddpm = await open(folder)
      const { num_inference_steps: steps } = golden.config.pipeline
      const shape = golden.shape('in/pipeline/x_T')
      const timesteps: number[] = []
      const result = await ddpm.pSampleLoop(shape, {
        steps,
        xT: golden.tensor('in/pipeline/x_T'),
        // diffusers draws none for the last step; here it is multiplied by zero.
        noise: (i) => golden.row('in/pipeline/noise', Math.min(i, steps - 2)),
        returnIntermediates: true,
        logEveryT: 1,
        onStep: ({ t }) => timesteps.push(t),
      })
      assert.deepEqual(timesteps, [...golden.integers('out/pipeline/timesteps')])
      for (let i = 0; i < steps; i++) {
        const expected = await golden.row('out/pipeline/samples', i).data()
        assertClose(await result.intermediates[i + 1].data(), expected, { abs: 1e-3, rel: 0 }, `step ${i}`)
      }
      const samples = await result.samples.data()
      const [n, channels, height, width] = shape
      const images = golden.numbers('out/pipeline/images_nhwc').map((_, at) => {
        const c = at % channels
        const pixel = Math.floor(at / channels)
        const image = Math.floor(pixel / (height * width))
        const x = samples[(image * channels + c) * height * width + (pixel % (height * width))]
        return Math.min(Math.max(x / 2 + 0.5, 0), 1)
      })
      assert.equal(images.length, n * height * width * channels)
      assertClose(images, golden.numbers('out/pipeline/images_nhwc'), { abs: 1e-3, rel: 0 }, 'images')
    })
  }

  it('options override those of the files', async () => {
    using ddpm = await DDPM.fromPretrained(goldenFolder, { device: 'cpu', clipDenoised: false, seed: 5 })
    assert.equal(ddpm.seed, 5)
    const model = { unetConfig: {} } as object
    await assert.rejects(DDPM.fromPretrained(goldenFolder, { device: 'cpu', ...model }), { code: 'invalid-argument' })
  })

  it('what is saved is opened again, with the same configurations and weights', async () => {
    using ddpm = await open(goldenFolder)
    await ddpm.savePretrained(work.folder)
    for (const file of ['model_index.json', 'unet/config.json', 'scheduler/scheduler_config.json']) {
      const [saved, original] = [work.folder, goldenFolder].map((folder) => path.join(folder, file))
      const expected = JSON.parse(await readFile(original, 'utf8'))
      assert.deepEqual(JSON.parse(await readFile(saved, 'utf8')), expected, file)
    }
    const tensorsOf = async (folder: string) =>
      (await readSafetensors(path.join(folder, 'unet', 'diffusion_pytorch_model.safetensors'))).tensors
    assert.deepEqual(await tensorsOf(work.folder), await tensorsOf(goldenFolder))
    assert.deepEqual((await readdir(work.folder)).sort(), ['model_index.json', 'scheduler', 'unet'])
    using again = await open(work.folder)
    assert.deepEqual(again.posteriorVariance, ddpm.posteriorVariance)
  })

  for (const [what, options] of Object.entries({
    'one head': { channelMult: [1, 2], attentionResolutions: [2] },
    'heads first': { channelMult: [1, 2], attentionResolutions: [1, 2], numHeadChannels: 8 },
    'q, k and v first': { channelMult: [1, 2], attentionResolutions: [2], numHeads: 4, useNewAttentionOrder: true },
    'scale and shift': { channelMult: [1, 2], attentionResolutions: [2], useScaleShiftNorm: true },
    'no norm in the middle': {
      channelMult: [1, 2],
      attentionResolutions: [2],
      useScaleShiftNorm: true,
      middleNormGroups: 0,
    },
    'a norm of its own in the middle': { channelMult: [1, 2], attentionResolutions: [2], middleNormGroups: 4 },
    'no attention in the middle': { channelMult: [1, 2], attentionResolutions: [2], middleAttention: false },
    'three levels': { channelMult: [1, 1.5, 2], attentionResolutions: [4], numHeads: 2, numResBlocks: 2 },
  })) {
    it(`a UNet by CompVis' names is the same network by diffusers' (${what})`, async () => {
      using ddpm = new DDPM({ unetConfig: { ...unetConfig, ...options }, device: 'cpu' })
      await randomize(ddpm)
      await ddpm.savePretrained(work.folder, { weights: 'model' })
      using again = await open(work.folder)
      const x = Tensor.randn([2, 3, 8, 8], { seed: 3 })
      const means = [ddpm, again].map(async (model) => (await model.pMeanVariance(x, [3, 700])).modelMean.data())
      const [expected, actual] = await Promise.all(means)
      assertClose(actual, expected, { abs: 1e-5, rel: 1e-5 }, 'mean')
      assert.deepEqual(again.betas, ddpm.betas)
    })
  }

  it('shards with an index, and the whole again', async () => {
    using ddpm = await open(goldenFolder)
    const list = async () => (await readdir(path.join(work.folder, 'unet'))).sort()
    await ddpm.savePretrained(work.folder, { maxShardSize: 300_000 })
    const names = [1, 2, 3].map((i) => `diffusion_pytorch_model-0000${i}-of-00003.safetensors`)
    const index = 'diffusion_pytorch_model.safetensors.index.json'
    assert.deepEqual(await list(), ['config.json', ...names, index])
    const { metadata, weight_map: map } = JSON.parse(await readFile(path.join(work.folder, 'unet', index), 'utf8'))
    let total = 0
    for (const name of names) {
      const { tensors } = await readSafetensors(path.join(work.folder, 'unet', name))
      const bytes = Object.values(tensors).reduce((sum, { data }) => sum + data.byteLength, 0)
      assert.ok(bytes <= 300_000, `${name}: ${bytes}`)
      for (const tensor of Object.keys(tensors)) assert.equal(map[tensor], name)
      total += bytes
    }
    assert.equal(metadata.total_size, total)
    using again = await open(work.folder)
    assert.deepEqual(await weightsOf(again), await weightsOf(ddpm))

    await ddpm.savePretrained(work.folder)
    assert.deepEqual(await list(), ['config.json', 'diffusion_pytorch_model.safetensors'])
    await assert.rejects(ddpm.savePretrained(work.folder, { maxShardSize: 0 }), { argument: 'maxShardSize' })
  })

  it('half precision as the variant fp16, beside the other', async () => {
    using ddpm = await open(goldenFolder)
    await ddpm.savePretrained(work.folder)
    await ddpm.savePretrained(work.folder, { variant: 'fp16' })
    const files = (await readdir(path.join(work.folder, 'unet'))).sort()
    const [half, single] = ['diffusion_pytorch_model.fp16.safetensors', 'diffusion_pytorch_model.safetensors']
    assert.deepEqual(files, ['config.json', half, single])
    const { tensors } = await readSafetensors(path.join(work.folder, 'unet', half))
    assert.ok(Object.values(tensors).every(({ dtype }) => dtype === 'F16'))
    using halved = await DDPM.fromPretrained(work.folder, { device: 'cpu', variant: 'fp16' })
    const [rounded, exact] = [await weightsOf(halved), await weightsOf(ddpm)]
    for (const [name, values] of Object.entries(exact)) {
      assertClose(rounded[name], values, { abs: 2 ** -25, rel: 2 ** -11 }, name)
      assert.notDeepEqual(rounded[name], values)
    }
    using whole = await open(work.folder)
    assert.deepEqual(await weightsOf(whole), exact)
    await assert.rejects(DDPM.fromPretrained(work.folder, { device: 'cpu', variant: 'bf16' }), { code: 'not-found' })
  })

  it("a DDIM pipeline's folder, sampled as its scheduler says", async () => {
    await copy()
    const ddim = {
      _class_name: 'DDIMScheduler',
      num_train_timesteps: 1000,
      beta_start: 0.0001,
      beta_end: 0.02,
      beta_schedule: 'linear',
      clip_sample: true,
      set_alpha_to_one: true,
      steps_offset: 0,
      prediction_type: 'epsilon',
    }
    await writeFile(path.join(work.folder, 'scheduler/scheduler_config.json'), JSON.stringify(ddim))
    await edit('model_index.json', (json) => {
      json._class_name = 'DDIMPipeline'
      json.scheduler = ['diffusers', 'DDIMScheduler']
    })
    using ddpm = await open(work.folder)
    using plain = await open(goldenFolder)
    assert.deepEqual(ddpm.schedulerConfig, ddim)
    const draw = async (model: DDPM) =>
      (await model.sample({ batchSize: 1, seed: 4, scheduler: ddpm.schedulerConfig, steps: 5 })).data()
    assert.deepEqual(await draw(ddpm), await draw(plain))
  })

  it('a scheduler of any class of the process, which stays when it is written again', async () => {
    await copy()
    const latent = { beta_start: 0.00085, beta_end: 0.012 }
    const cases: [string, Record<string, unknown>, number][] = [
      ['EulerDiscreteScheduler', { ...latent, interpolation_type: 'linear', timestep_spacing: 'leading' }, 0.00085],
      ['HeunDiscreteScheduler', {}, 0.00085],
      ['PNDMScheduler', { skip_prk_steps: true, set_alpha_to_one: false, steps_offset: 1 }, 1e-4],
      ['DPMSolverMultistepScheduler', { solver_order: 3, of_tomorrow: 1 }, 1e-4],
      ['DDIMScheduler', { set_alpha_to_one: false, timestep_spacing: 'trailing', clip_sample: false }, 1e-4],
    ]
    for (const [name, fields, first] of cases) {
      const about = { _class_name: name, _diffusers_version: '0.35.1' }
      const config = { ...about, prediction_type: 'v_prediction', rescale_betas_zero_snr: true, ...fields }
      const file = path.join(work.folder, 'scheduler/scheduler_config.json')
      await writeFile(file, JSON.stringify(config))
      using ddpm = await open(work.folder)
      assert.equal(ddpm.parameterization, 'v')
      assert.ok(Math.abs(ddpm.betas[0] - first) < 1e-7 && ddpm.betas[999] === 1, name)
      assert.equal(ddpm.warnings().length, 'of_tomorrow' in fields ? 1 : 0)
      await ddpm.savePretrained(work.folder)
      const saved = JSON.parse(await readFile(file, 'utf8'))
      for (const [key, value] of Object.entries(config)) assert.deepEqual(saved[key], value, `${name} ${key}`)
      const index = JSON.parse(await readFile(path.join(work.folder, 'model_index.json'), 'utf8'))
      assert.deepEqual(index.scheduler, ['diffusers', name])
      using again = await open(work.folder)
      assert.deepEqual(again.alphasCumprod, ddpm.alphasCumprod)
      assert.deepEqual(again.config, ddpm.config)
    }
  })

  it('a learned variance is variance_type learned_range', async () => {
    const options = { channelMult: [1], attentionResolutions: [], outChannels: 6 }
    const settings = {
      unetConfig: { ...unetConfig, ...options },
      timesteps: 20,
      varianceType: 'learned_range',
    } as const
    using ddpm = new DDPM({ ...settings, useEma: false, device: 'cpu' })
    await randomize(ddpm)
    await ddpm.savePretrained(work.folder)
    using again = await open(work.folder)
    const draw = async (model: DDPM) => (await model.sample({ batchSize: 1, seed: 4 })).data()
    assertClose(await draw(again), await draw(ddpm), { abs: 1e-5, rel: 1e-5 }, 'samples')
    // The scheduler's own steps: the same where all timesteps are taken.
    const scheduled = await again.sample({ batchSize: 1, seed: 4, scheduler: again.schedulerConfig, steps: 20 })
    assertClose(await scheduled.data(), await draw(ddpm), { abs: 1e-4, rel: 1e-4 }, 'scheduler')
    using fixed = await open(goldenFolder)
    const wrong = fixed.sample({
      batchSize: 1,
      scheduler: { ...fixed.schedulerConfig, variance_type: 'learned_range' },
      steps: 5,
    })
    await assert.rejects(wrong, { code: 'invalid-argument', argument: 'scheduler' })
  })

  it('averaged weights are saved where there are any', async () => {
    const options = {
      unetConfig: { ...unetConfig, channelMult: [1], attentionResolutions: [] },
      device: 'cpu',
    } as const
    using ddpm = new DDPM(options)
    const before = await ddpm.stateDict()
    const zeros = Object.entries(before).map(([name, tensor]) => {
      const trained = name.startsWith('model.diffusion_model.')
      return [name, trained ? Tensor.from(new Float32Array(tensor.size), tensor.shape) : tensor]
    })
    await ddpm.loadStateDict(Object.fromEntries(zeros))
    const saved = async (weights?: 'ema' | 'model') => {
      await ddpm.savePretrained(work.folder, { weights })
      const file = path.join(work.folder, 'unet', 'diffusion_pytorch_model.safetensors')
      return (await readSafetensors(file)).tensors['conv_in.weight'].data
    }
    const initial = await before['model.diffusion_model.input_blocks.0.0.weight'].data()
    assert.deepEqual(await saved(), initial)
    assert.deepEqual(await saved('ema'), initial)
    assert.deepEqual(await saved('model'), new Float32Array(initial.length))
    using plain = new DDPM({ ...options, useEma: false })
    await assert.rejects(plain.savePretrained(work.folder, { weights: 'ema' }), { code: 'not-configured' })
  })

  it('models that diffusers can not express are not written', async () => {
    const small = { ...unetConfig, channelMult: [1, 2], attentionResolutions: [2] }
    const refuse = async (options: DDPMOptions, argument: string) => {
      using ddpm = new DDPM({ device: 'cpu', ...options })
      await assert.rejects(ddpm.savePretrained(work.folder), { name: 'DiffusionError', code: 'unsupported', argument })
      assert.deepEqual(await readdir(work.folder), [])
    }
    await refuse({ unetConfig: { ...small, middleNormGroups: 0 } }, 'middleNormGroups')
    const crossAttention = { useSpatialTransformer: true, contextDim: 4 }
    await refuse({ unetConfig: { ...small, ...crossAttention } }, 'useSpatialTransformer')
    await refuse({ unetConfig: { ...small, convResample: false } }, 'convResample')
    await refuse({ unetConfig: { ...small, attentionResolutions: [1, 2], numHeads: 2 } }, 'numHeads')
    await refuse({ unetConfig: small, vPosterior: 0.5 }, 'vPosterior')
    using own = new DDPM({ model: (x) => x, device: 'cpu' })
    await assert.rejects(own.savePretrained(work.folder), { code: 'unsupported' })
  })

  it('shards with an index, and .bin by torch.save', async () => {
    await copy()
    const unet = path.join(work.folder, 'unet')
    const whole = path.join(unet, 'diffusion_pytorch_model.safetensors')
    const { tensors } = await readSafetensors(whole)
    const names = Object.keys(tensors)
    const map: Record<string, string> = {}
    for (const part of [0, 1, 2]) {
      const file = `diffusion_pytorch_model-0000${part + 1}-of-00003.safetensors`
      const shard = names.filter((_, i) => i % 3 === part)
      for (const name of shard) map[name] = file
      await writeSafetensors(path.join(unet, file), Object.fromEntries(shard.map((name) => [name, tensors[name]])))
    }
    await rm(whole)
    const index = path.join(unet, 'diffusion_pytorch_model.safetensors.index.json')
    const write = (weightMap: unknown) => writeFile(index, JSON.stringify({ metadata: {}, weight_map: weightMap }))
    await write(map)
    using ddpm = await open(work.folder)
    using expected = await open(goldenFolder)
    const [actual, wanted] = await Promise.all([ddpm.stateDict(), expected.stateDict()])
    for (const [name, tensor] of Object.entries(wanted))
      assert.deepEqual(await actual[name].data(), await tensor.data())

    await write({ ...map, [names[0]]: '../../secret.safetensors' })
    await rejects({ code: 'bad-file', message: /names a file that is none/ })
    await write({ ...map, [names[0]]: 7 })
    await rejects({ code: 'bad-file' })
    await write({ ...map, [names[0]]: map[names[1]] })
    await rejects({ code: 'bad-file', message: /does not have/ })
    await write({ ...map, more: map[names[0]] })
    await rejects({ code: 'bad-file', message: /'more' is not where it says/ })
    await write({ ...map, more: 'none.safetensors' })
    await rejects({ code: 'not-found' })
    await write(undefined)
    await rejects({ code: 'bad-file', message: /weight_map/ })

    await rm(index)
    await rejects({ code: 'not-found', message: /no weights/ })
    // A state dict by torch.save: of another model, so it is read and does not fit.
    const checkpoint = path.join(fixtures, 'checkpoints', 'bare_state_dict.ckpt')
    await cp(checkpoint, path.join(unet, 'diffusion_pytorch_model.bin'))
    await rejects({ code: 'state-mismatch', message: /got nothing/ })
  })

  it('round trips are exact: zero terminal SNR, cosine, any ends and betas, class names', async () => {
    const small = { ...unetConfig, channelMult: [1], attentionResolutions: [] }
    const cases: DDPMOptions[] = [
      { betaSchedule: 'cosine', timesteps: 300 },
      { betaSchedule: 'cosine', timesteps: 300, cosineS: 0.02 },
      { betaSchedule: 'linear', linearStart: 0.000123456789, linearEnd: 0.0123456789, timesteps: 300 },
      { betaSchedule: 'sqrt', timesteps: 50 },
      { zeroTerminalSnr: true, parameterization: 'v', timesteps: 100 },
      { zeroTerminalSnr: true, parameterization: 'x0', betaSchedule: 'cosine', timesteps: 100 },
      { givenBetas: [0.1, 0.2, 1], parameterization: 'v' },
      { parameterization: 'edm', sigmaData: 0.7, sigmaMin: 0.01, sigmaMax: 50, timesteps: 100 },
      { parameterization: 'flow', flowShift: 3, timesteps: 100 },
      { parameterization: 'flow', clipDenoised: false, timestepSpacing: 'leading', stepsOffset: 1 },
      { parameterization: 'v', betaSchedule: 'flow', timesteps: 100 },
      { timestepSpacing: 'leading', stepsOffset: 1, vPosterior: 1, clipDenoised: false },
      { unetConfig: { ...small, numClasses: 3 }, classNames: ['cat', 'dog', 'none'], nullClass: 2 },
    ]
    for (const options of cases) {
      const settings = { unetConfig: small, ...options, device: 'cpu', useEma: false } as const
      using ddpm = new DDPM(settings)
      await ddpm.savePretrained(work.folder)
      using again = await open(work.folder)
      const names = Object.keys(await ddpm.stateDict()).filter((name) => !name.startsWith('model.'))
      const [was, is] = [await ddpm.stateDict(), await again.stateDict()]
      for (const name of names) assert.deepEqual(await is[name].data(), await was[name].data(), name)
      assert.deepEqual(again.classNames, ddpm.classNames)
      const kept = Object.keys(options).filter(
        (name) => !/unetConfig|givenBetas|betaSchedule|cosineS|linear/.test(name),
      )
      for (const name of kept) assert.deepEqual(again.config[name], ddpm.config[name], name)
    }
  })

  for (const maxShardSize of [undefined, 300_000]) {
    it(`Python reads what was written${maxShardSize ? ', in shards' : ''}`, async function () {
      const script = `
import array, json, os, sys
folder = sys.argv[1]
def config(name):
    with open(os.path.join(folder, name), encoding='utf-8') as f: return json.load(f)
index = config('model_index.json')
whole = 'diffusion_pytorch_model.safetensors'
sharded = os.path.exists(os.path.join(folder, 'unet', whole + '.index.json'))
where = config('unet/' + whole + '.index.json')['weight_map'] if sharded else {}
sums = {}
for file in sorted(set(where.values())) or [whole]:
    with open(os.path.join(folder, 'unet', file), 'rb') as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), 'little')))
        data = f.read()
    meta = header.pop('__metadata__')
    for name, entry in header.items():
        assert where.get(name, whole) == file
        begin, end = entry['data_offsets']
        values = array.array('f', data[begin:end])
        sums[name] = [entry['shape'], sum(values), len(values)]
betas = config('scheduler/scheduler_config.json')
print(json.dumps([index['unet'], index['scheduler'], config('unet/config.json')['sample_size'], betas['beta_end'], meta, sums]))
`
      using ddpm = await open(legacyFolder)
      await ddpm.savePretrained(work.folder, { maxShardSize })
      const python = spawnSync('python3', ['-c', script, work.folder], { encoding: 'utf8' })
      if (python.error) {
        console.log('      (skipped: there is no python3)')
        this.skip()
      }
      assert.equal(python.status, 0, python.stderr)
      const [unet, scheduler, size, betaEnd, metadata, sums] = JSON.parse(python.stdout)
      const expected = [['diffusers', 'UNet2DModel'], ['diffusers', 'DDPMScheduler'], 8, 0.02, { format: 'pt' }]
      assert.deepEqual([unet, scheduler, size, betaEnd, metadata], expected)
      const { tensors } = await readSafetensors(path.join(goldenFolder, 'unet', 'diffusion_pytorch_model.safetensors'))
      assert.deepEqual(Object.keys(sums).sort(), Object.keys(tensors).sort())
      for (const [name, { shape, data }] of Object.entries(tensors)) {
        const sum = Array.from(data, Number).reduce((a, b) => a + b, 0)
        assert.deepEqual(sums[name], [shape, sum, data.length], name)
      }
    })
  }
})
