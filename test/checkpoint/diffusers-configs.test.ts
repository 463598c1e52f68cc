// Configurations of diffusers folders, of every version: what is read, ignored with a warning, or refused by name.
import assert from 'node:assert/strict'
import { cp, mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { readSafetensors, writeSafetensors } from '../../lib/checkpoint/safetensors'
import { DDPM, type DDPMOptions } from '../../lib/index'
import { randomize } from '../diffusion/fixture'
import { goldenFolder, open, WorkFolder, weightsOf } from './diffusers-support'

describe('configurations of diffusers folders', () => {
  const work = new WorkFolder()
  const { copy, edit, rejects } = work

  it('what can not be expressed is refused by name', async () => {
    await copy()
    const unetFile = 'unet/config.json'
    const schedulerFile = 'scheduler/scheduler_config.json'
    const cases: [string, string, unknown, string][] = [
      [schedulerFile, 'prediction_type', 'flow', 'unsupported'],
      [schedulerFile, 'variance_type', 'learned', 'unsupported'],
      [schedulerFile, 'variance_type', 'fixed_large_log', 'unsupported'],
      [schedulerFile, 'variance_type', 'constructor', 'unsupported'],
      [schedulerFile, 'rescale_betas_zero_snr', true, 'unsupported'],
      [schedulerFile, 'clip_sample_range', 2, 'unsupported'],
      [schedulerFile, 'trained_betas', [0.1, 0.2], 'unsupported'],
      [schedulerFile, '_class_name', 'FlowMatchHeunDiscreteScheduler', 'unsupported'],
      [schedulerFile, 'beta_schedule', 'cubic', 'invalid-argument'],
      [schedulerFile, 'num_train_timesteps', 1e15, 'invalid-argument'],
      [schedulerFile, 'beta_start', '0.1', 'invalid-argument'],
      [unetFile, 'act_fn', 'gelu', 'unsupported'],
      [unetFile, '_class_name', 'UNet3DConditionModel', 'unsupported'],
      [unetFile, 'layers_per_block', 1e12, 'invalid-argument'],
      [unetFile, 'layers_per_block', 100, 'state-mismatch'],
      [unetFile, 'block_out_channels', [16, 64], 'state-mismatch'],
      [unetFile, 'in_channels', 4, 'state-mismatch'],
    ]
    for (const [file, argument, value, code] of cases) {
      const before = await readFile(path.join(work.folder, file))
      await edit(file, (json) => {
        json[argument] = value
      })
      const named = code === 'state-mismatch' ? {} : { argument }
      await rejects({ code, ...named })
      await writeFile(path.join(work.folder, file), before)
    }
  })

  it('fields that no class has are ignored, and named in the warnings', async () => {
    await copy()
    await edit('unet/config.json', (json) => {
      Object.assign(json, { of_tomorrow: 1, decay: 0.9999, optimization_step: 500, time_embedding_dim: null })
      Object.assign(json, { mid_block_type: 'UNetMidBlock2D', sample_size: [8, 8] })
    })
    await edit('scheduler/scheduler_config.json', (json) =>
      Object.assign(json, { betas: [1], use_karras_sigmas: true }),
    )
    using ddpm = await open(work.folder)
    assert.deepEqual(ddpm.warnings(), [
      "unet/config.json: 'of_tomorrow' is no field of UNet2DModel, and is ignored, as diffusers does",
      'unet/config.json: the fields of EMAModel are ignored: decay, optimization_step',
      "scheduler/scheduler_config.json: 'betas' is no field of DDPMScheduler, and is ignored, as diffusers does",
    ])
    using expected = await open(goldenFolder)
    assert.deepEqual(expected.warnings(), [])
    assert.deepEqual(await weightsOf(ddpm), await weightsOf(expected))
  })

  it('a scheduler of another class takes the fields of the one that it was, and names what no class has', async () => {
    using ddpm = await open(goldenFolder)
    const draw = async (scheduler: Record<string, unknown>) => {
      const x = await ddpm.sample({ batchSize: 1, seed: 4, steps: 4, scheduler })
      return x.data()
    }
    const { variance_type: _, clip_sample: __, clip_sample_range: ___, ...kept } = ddpm.schedulerConfig!
    const dpm = { _class_name: 'DPMSolverMultistepScheduler' }
    assert.deepEqual(await draw({ ...ddpm.schedulerConfig, ...dpm }), await draw({ ...kept, ...dpm }))
    assert.deepEqual(ddpm.warnings(), [])
    await draw({ ...ddpm.schedulerConfig, anything: 1 })
    const once = ["scheduler: 'anything' is no field of DDPMScheduler, and is ignored, as diffusers does"]
    assert.deepEqual(ddpm.warnings(), once)
    await draw({ ...ddpm.schedulerConfig, anything: 1 })
    assert.deepEqual(ddpm.warnings(), once)
  })

  it('predict_epsilon of early versions', async () => {
    await copy()
    for (const [value, parameterization] of [[true, 'eps'] as const, [false, 'x0'] as const]) {
      await edit('scheduler/scheduler_config.json', (json) => {
        delete json.prediction_type
        json.predict_epsilon = value
      })
      using ddpm = await open(work.folder)
      assert.equal(ddpm.parameterization, parameterization)
      assert.deepEqual(ddpm.warnings(), [])
    }
    await edit('scheduler/scheduler_config.json', (json) => {
      json.predict_epsilon = 'yes'
    })
    await rejects({ code: 'invalid-argument', argument: 'predict_epsilon' })
  })

  it('NaN and infinities are numbers, as Python writes them', async () => {
    await copy()
    const file = path.join(work.folder, 'scheduler/scheduler_config.json')
    const text = await readFile(file, 'utf8')
    const put = (value: string) => writeFile(file, text.replace('{', `{ "odd": ${value},`))
    for (const value of ['-Infinity', 'Infinity', 'NaN', '[NaN, -Infinity, 1]', '"-Infinity \\" NaN"']) {
      await put(value)
      using ddpm = await open(work.folder)
      const names = { NaN: Number.NaN, Infinity: Infinity }
      const expected = new Function(...Object.keys(names), `return ${value}`)(...Object.values(names))
      assert.deepEqual(ddpm.schedulerConfig?.odd, expected, value)
    }
    for (const value of ['1Infinity', 'Infinity5', '1NaN', 'NaNNaN', '-NaN', 'nan', 'InfinityNaN']) {
      await put(value)
      await rejects({ code: 'bad-file', message: /not JSON/ })
    }
  })

  it('where the files may be: flat, a checkpoint of a training, averages, a network alone', async () => {
    using expected = await open(goldenFolder)
    const weights = await weightsOf(expected)
    const opens = async (folder: string, options = {}) => {
      using ddpm = await DDPM.fromPretrained(folder, { device: 'cpu', ...options })
      assert.deepEqual(await weightsOf(ddpm), weights)
      return { config: ddpm.schedulerConfig, warnings: ddpm.warnings() }
    }
    const golden = { config: expected.schedulerConfig, warnings: [] }
    const within = (...names: string[]) => path.join(work.folder, ...names)
    // As google/ddpm-cat-256.
    await cp(path.join(goldenFolder, 'unet'), within('flat'), { recursive: true })
    await cp(path.join(goldenFolder, 'scheduler'), within('flat'), { recursive: true })
    assert.deepEqual(await opens(within('flat')), golden)
    await cp(path.join(goldenFolder, 'model_index.json'), within('flat/model_index.json'))
    assert.deepEqual(await opens(within('flat')), golden)
    // As diffusers' training script leaves it: first without the scheduler, which comes at the end.
    await cp(path.join(goldenFolder, 'unet'), within('run/checkpoint-500/unet'), { recursive: true })
    const { config, warnings } = await opens(within('run/checkpoint-500'))
    assert.deepEqual(config, { _class_name: 'DDPMScheduler' })
    assert.match(warnings.join(), /has no scheduler_config\.json: taken for DDPMScheduler's defaults/)
    await cp(path.join(goldenFolder, 'scheduler'), within('run/scheduler'), { recursive: true })
    assert.deepEqual(await opens(within('run/checkpoint-500')), golden)
    assert.deepEqual(await opens(within('run/checkpoint-500/unet')), golden)
    await assert.rejects(opens(within('run/checkpoint-500'), { weights: 'ema' }), { code: 'not-found' })
    // The averages, where there are any.
    using other = await open(goldenFolder)
    await randomize(other)
    await other.savePretrained(within('other'))
    await rename(within('run/checkpoint-500/unet'), within('run/checkpoint-500/unet_ema'))
    assert.deepEqual(await opens(within('run/checkpoint-500')), golden)
    await rename(within('other/unet'), within('run/checkpoint-500/unet'))
    assert.deepEqual(await opens(within('run/checkpoint-500')), golden)
    assert.deepEqual(await opens(within('run/checkpoint-500'), { weights: 'ema' }), golden)
    await assert.rejects(opens(within('run/checkpoint-500'), { weights: 'model' }), { name: 'AssertionError' })
  })

  it('weights that were saved inside of another module', async () => {
    await copy()
    const file = path.join(work.folder, 'unet/diffusion_pytorch_model.safetensors')
    const { tensors } = await readSafetensors(file)
    await writeSafetensors(
      file,
      Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [`module._orig_mod.${name}`, tensor])),
    )
    using ddpm = await open(work.folder)
    using expected = await open(goldenFolder)
    assert.deepEqual(await weightsOf(ddpm), await weightsOf(expected))
    assert.match(ddpm.warnings().join(), /without 'module\._orig_mod\.' before their names$/)
  })

  it('images that are no squares: samples, configurations and what is saved', async () => {
    await copy()
    await edit('unet/config.json', (json) => {
      json.sample_size = [8, 16]
    })
    using ddpm = await open(work.folder)
    assert.deepEqual([ddpm.imageSize, ddpm.imageWidth, ddpm.config.imageWidth], [8, 16, 16])
    const draw = async (model: DDPM) => model.sample({ batchSize: 2, steps: 3, seed: 1 })
    const samples = await draw(ddpm)
    assert.deepEqual(samples.shape, [2, 3, 8, 16])
    const middle = await ddpm.interpolate({ seeds: [1, 2], count: 2, steps: 2 })
    assert.deepEqual(middle.shape, [2, 3, 8, 16])
    await ddpm.savePretrained(work.folder)
    using again = await open(work.folder)
    assert.deepEqual(await (await draw(again)).data(), await samples.data())
    using same = new DDPM({ ...(ddpm.config as DDPMOptions), device: 'cpu' })
    assert.equal(same.imageWidth, 16)
    using square = await DDPM.fromPretrained(work.folder, { device: 'cpu', imageSize: 8 })
    assert.equal(square.imageWidth, 8)
    for (const [size, argument] of [
      [[8, 9], 'imageWidth'],
      [[8], 'sample_size'],
      [[8, 8, 8], 'sample_size'],
    ] as const) {
      await edit('unet/config.json', (json) => {
        json.sample_size = size
      })
      await rejects({ code: 'invalid-argument', argument })
    }
  })

  it('a folder with a variant alone is told by its name', async () => {
    using ddpm = await open(goldenFolder)
    await ddpm.savePretrained(work.folder, { variant: 'fp16', maxShardSize: 300_000 })
    await rejects({ code: 'not-found', message: /it has those of the variant 'fp16'$/ })
  })

  it('files of other names, and a folder of checkpoints, are told by their names', async () => {
    await copy()
    const unet = path.join(work.folder, 'unet')
    const move = (from: string, to: string) => rename(path.join(unet, from), path.join(unet, to))
    await move('diffusion_pytorch_model.safetensors', 'diffusion_pytorch_model.ema.fp16.safetensors')
    await rejects({ code: 'not-found', message: /the variant 'ema.fp16'$/ })
    await move('diffusion_pytorch_model.ema.fp16.safetensors', 'model.safetensors')
    await rejects({ code: 'not-found', message: /; it has 'model.safetensors'$/ })
    for (const step of ['500', '1000'])
      await mkdir(path.join(work.folder, 'training', `checkpoint-${step}`), { recursive: true })
    const message = /; give one of its checkpoints, such as .*checkpoint-1000$/
    await assert.rejects(open(path.join(work.folder, 'training')), { code: 'not-found', message })
  })

  it('a byte order mark is read over, and where a file is no JSON is said', async () => {
    await copy()
    const file = path.join(work.folder, 'unet/config.json')
    const text = await readFile(file, 'utf8')
    await writeFile(file, `\ufeff${text}`)
    ;(await open(work.folder)).dispose()
    await writeFile(file, text.replace(/\n\}\s*$/, ',\n}\n'))
    const line = text.trimEnd().split('\n').length
    await rejects({ code: 'bad-file', message: new RegExp(`not JSON from line ${line} on$`) })
  })

  it('a pipeline with other parts, whose network alone opens', async () => {
    await copy()
    await edit('model_index.json', (json) =>
      Object.assign(json, { vqvae: ['diffusers', 'VQModel'], bert: [null, null] }),
    )
    await rejects({ code: 'unsupported', message: /a pipeline with vqvae is not supported/ })
    using ddpm = await DDPM.fromPretrained(path.join(work.folder, 'unet'), { device: 'cpu' })
    assert.equal(ddpm.channels, 3)
  })

  it('files that are missing or damaged', async () => {
    await rejects({ code: 'not-found' })
    await copy()
    await edit('model_index.json', (json) => delete json.scheduler)
    await rejects({ code: 'bad-file', message: /no 'scheduler'/ })
    await copy()
    await writeFile(path.join(work.folder, 'unet/config.json'), '{"a": 1, "a": 2}')
    await rejects({ code: 'bad-file', message: /twice/ })
    await writeFile(path.join(work.folder, 'unet/config.json'), '{')
    await rejects({ code: 'bad-file', message: /not JSON/ })
    await copy()
    await rename(path.join(work.folder, 'scheduler'), path.join(work.folder, 'moved'))
    await rejects({ code: 'not-found', message: /scheduler_config\.json/ })
  })
})
