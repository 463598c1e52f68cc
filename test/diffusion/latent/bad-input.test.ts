/** What latent models are given that can't be: each a DiffusionError, before anything is computed, after which they go on. */
import assert from 'node:assert/strict'
import { cpSync, existsSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import {
  AutoencoderKL,
  IdentityFirstStage,
  LatentDiffusion,
  type LatentDiffusionOptions,
  SpatialRescaler,
  Tensor,
  VQModelInterface,
} from '../../../lib/index'
import { runCli, temporaryFolder } from '../../train/support'

const fixture = path.join(__dirname, '..', '..', '..', '..', 'test', 'fixtures', 'ldm', 'diffusers_sd')
const zeros = (...shape: number[]) => Tensor.from(new Float32Array(shape.reduce((a, b) => a * b, 1)), shape)
const filled = (value: number, ...shape: number[]) =>
  Tensor.from(new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(value), shape)
const tokens = zeros(1, 77, 32)
const image = zeros(1, 3, 16, 16)

const ddconfig = {
  ...{ ch: 32, chMult: [1, 2], numResBlocks: 1, attnResolutions: [], inChannels: 3, resolution: 16 },
  ...{ zChannels: 4, outCh: 3, doubleZ: true },
}
const autoencoder = (embedDim = 4) => new AutoencoderKL({ ddconfig, embedDim, device: 'cpu' })
const quantized = (nEmbed: number, embedDim = 4) =>
  new VQModelInterface({ ddconfig: { ...ddconfig, doubleZ: false }, embedDim, nEmbed, device: 'cpu' })
const unetConfig = {
  ...{ imageSize: 8, inChannels: 4, outChannels: 4, modelChannels: 32 },
  ...{ channelMult: [1], numResBlocks: 1, attentionResolutions: [] },
}
const latent = (options: object) =>
  new LatentDiffusion({
    ...{ unetConfig, imageSize: 8, channels: 4, timesteps: 20, device: 'cpu' },
    ...(options as LatentDiffusionOptions),
  })
const concat = () =>
  latent({
    ...{ unetConfig: { ...unetConfig, inChannels: 7 }, firstStage: autoencoder(), conditioningKey: 'concat' },
    ...{ condStage: new SpatialRescaler({ nStages: 1, inChannels: 3, outChannels: 3, device: 'cpu' }) },
    condStageKey: 'small',
  })

const refused = (code: string, argument?: string) => (error: Error & { code?: string; argument?: string }) => {
  assert.equal(error.name, 'DiffusionError', error.stack)
  assert.deepEqual([error.code, error.argument], [code, argument], error.message)
  return true
}
const invalid = (argument: string) => refused('invalid-argument', argument)

/** What `sample` is given beside a prompt, by the argument that it is refused for. */
const samples: readonly (readonly [argument: string, given: object])[] = [
  ['prompt', { prompt: 5 }],
  ['prompt', { prompt: [] }],
  ['prompt', { prompt: ['red cat', 1] }],
  ['prompt', { prompt: { text: 'red cat' } }],
  ['prompt', { prompt: new String('red cat') }],
  ['prompt', { prompt: ['a', 'b'], batchSize: 3 }],
  ['prompt', { prompt: undefined, negativePrompt: 'blue' }],
  ['negativePrompt', { negativePrompt: 5, guidanceScale: 2 }],
  ['negativePrompt', { negativePrompt: [], guidanceScale: 2 }],
  ['negativePrompt', { negativePrompt: ['a', 'b'], batchSize: 3, guidanceScale: 2 }],
  ['guidanceScale', { negativePrompt: 'blue' }],
  ['guidanceScale', { negativePrompt: 'blue', guidanceScale: 1 }],
  ['guidanceScale', { guidanceScale: Number.NaN }],
  ['guidanceScale', { guidanceScale: '7' }],
  ['cond', { cond: tokens }],
  ['prompt', { prompt: undefined }],
  ['context', { prompt: undefined, cond: zeros(1, 77, 5) }],
  ['cCrossattn', { prompt: undefined, cond: zeros(77, 32) }],
  ['cCrossattn', { prompt: undefined, cond: [] }],
  ['cConcat', { prompt: undefined, cond: { cConcat: [zeros(1, 4, 8, 8)], cCrossattn: [tokens] } }],
  ['cond', { prompt: undefined, cond: 'red cat' }],
  ['cond', { prompt: undefined, cond: zeros(2, 77, 32), batchSize: 3 }],
  ['negativeContext', { uncond: zeros(1, 77, 5), guidanceScale: 2 }],
  ['guidanceScale', { uncond: tokens }],
  ['height', { height: 17 }],
  ['height', { height: 18 }],
  ['height', { height: 0 }],
  ['height', { height: 16.5 }],
  ['width', { width: -16 }],
  ['width', { width: '16' }],
  ['image', { image: zeros(1, 3, 32, 32), strength: 0.5 }],
  ['image', { image: zeros(1, 3, 17, 16), strength: 0.5 }],
  ['image', { image: zeros(1, 1, 16, 16), strength: 0.5 }],
  ['image', { image: zeros(2, 3, 16, 16), strength: 0.5 }],
  ['image', { image: zeros(1, 4, 8, 8), strength: 0.5 }],
  ['image', { image: [0, 1], strength: 0.5 }],
  ['image', { image, strength: 0.5, outputType: 'latent' }],
  ['image', { strength: 0.5 }],
  ['image', { mask: zeros(1, 1, 16, 16) }],
  ['strength', { image, strength: Number.NaN }],
  ['strength', { image, strength: 2 }],
  ['mask', { image, mask: zeros(1, 1, 8, 16) }],
  ['mask', { image, mask: zeros(1, 1, 8, 8) }],
  ['mask', { image, mask: zeros(1, 1, 32, 32) }],
  ['mask', { image, mask: zeros(1, 2, 16, 16) }],
  ['mask', { image, mask: zeros(3, 1, 16, 16) }],
  ['mask', { image, mask: zeros(1, 16, 16) }],
  ['mask', { image, mask: filled(2, 1, 1, 16, 16) }],
  ['mask', { image, mask: filled(Number.NaN, 1, 1, 16, 16) }],
  ['mask', { image: zeros(1, 4, 8, 8), mask: zeros(1, 1, 16, 16), outputType: 'latent' }],
  ['outputType', { outputType: 'pil' }],
  ['steps', { steps: 0 }],
  ['xT', { xT: zeros(1, 4, 4, 4) }],
]

describe('bad input of latent models', function () {
  this.timeout(60_000)
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)

  describe('a text-to-image model', () => {
    let model: LatentDiffusion
    let drawn: Float32Array
    const draw = async () => (await model.sample({ prompt: 'red cat', steps: 2, seed: 3 })).data()
    before(async () => {
      model = await LatentDiffusion.fromPretrained(fixture, { device: 'cpu' })
      drawn = await draw()
    })
    after(() => model.dispose())

    it('refuses what can not be drawn, takes no step, and draws as before', async () => {
      for (const [argument, given] of samples) {
        let steps = 0
        const options = { prompt: 'red cat', steps: 2, onStep: () => steps++, ...given }
        await assert.rejects(model.sample(options as object), invalid(argument))
        assert.equal(steps, 0, argument)
      }
      assert.deepEqual(await draw(), drawn)
    })

    it('refuses what its other methods can not take', async () => {
      const z = zeros(1, 4, 8, 8)
      const calls: readonly (readonly [() => Promise<unknown>, (error: Error) => boolean])[] = [
        [() => model.getLearnedConditioning(5), invalid('prompt')],
        [() => model.getLearnedConditioning([]), invalid('prompt')],
        [() => model.getLearnedConditioning(null), invalid('prompt')],
        [() => model.encodeFirstStage(null as never), invalid('x')],
        [() => model.encodeFirstStage(zeros(1, 1, 16, 16)), invalid('x')],
        [() => model.encodeFirstStage(zeros(1, 3, 1, 1)), invalid('x')],
        [() => model.getFirstStageEncoding(null as never), invalid('z')],
        [() => model.getFirstStageEncoding(5 as never), invalid('z')],
        [() => model.decodeFirstStage(null as never), invalid('z')],
        [() => model.decodeFirstStage(zeros(4, 8, 8)), invalid('z')],
        [() => model.decodeFirstStage(zeros(1, 3, 8, 8)), invalid('z')],
        [() => model.decodeFirstStage(z, { predictCids: true }), refused('unsupported', 'predictCids')],
        [() => model.sample({ prompt: 'a', quantizeDenoised: true }), refused('unsupported', 'quantizeDenoised')],
        [() => model.applyModel(z, [3] as never), invalid('cond')],
        [() => model.applyModel(z, [5000] as never, tokens), invalid('t')],
        [() => model.sampleLog({} as never), invalid('ddim')],
        [() => model.trainingStep({ image: zeros(1, 16, 16, 3) }), invalid('batch.caption')],
        [
          () => model.sample({ prompt: 'a', numInferenceSteps: 3 } as object),
          refused('unknown-option', 'numInferenceSteps'),
        ],
      ]
      for (const [call, check] of calls) await assert.rejects(call, check)
      assert.deepEqual(await draw(), drawn)
    })
  })

  it('stages that do not go with the model, and scales that leave nothing', () => {
    const firstStage = autoencoder()
    const options: readonly (readonly [argument: string, given: object])[] = [
      ['firstStage', {}],
      ['firstStage', { firstStage: 'kl' }],
      ['firstStage', { firstStage: {} }],
      ['firstStage', { firstStage: { encode: () => image } }],
      ['channels', { firstStage: autoencoder(3) }],
      ['channels', { firstStage: quantized(8, 3) }],
      ['condStage', { firstStage, condStage: 'clip' }],
      ['condStage', { firstStage, condStage: {} }],
      ['condStageKey', { firstStage, condStageKey: 5 }],
      ['conditioningKey', { firstStage, condStage: '__is_first_stage__', conditioningKey: 'text' }],
      ['scaleFactor', { firstStage, scaleFactor: Number.NaN }],
      ['scaleFactor', { firstStage, scaleFactor: Number.POSITIVE_INFINITY }],
      ['scaleFactor', { firstStage, scaleFactor: 0 }],
      ['scaleFactor', { firstStage, scaleFactor: -1 }],
      ['scaleFactor', { firstStage, scaleFactor: '1' }],
      ['numTimestepsCond', { firstStage, numTimestepsCond: 1.5 }],
      ['numTimestepsCond', { firstStage, condStage: '__is_first_stage__', numTimestepsCond: 21 }],
      ['ks', { firstStage, splitInputParams: {} }],
      ['ks[0]', { firstStage, splitInputParams: { ks: [Number.NaN, 8], stride: [4, 4], vqf: 2 } }],
      ['model', { firstStage, unetConfig: undefined }],
    ]
    for (const [argument, given] of options) assert.throws(() => latent(given).dispose(), invalid(argument))
    latent({ firstStage }).dispose()
  })

  it('concat conditions of another size', async () => {
    using model = concat()
    model.configureOptimizers({ lr: 1e-4 })
    const sample = (cond?: Tensor) => model.sample({ batchSize: 1, steps: 2, seed: 1, cond })
    const before = await (await sample(zeros(1, 3, 8, 8))).data()
    for (const cond of [undefined, zeros(1, 3, 4, 8), zeros(1, 3, 16, 16), zeros(1, 4, 8, 8)]) {
      await assert.rejects(sample(cond), invalid('concat'))
    }
    await assert.rejects(sample(zeros(3, 8, 8)), invalid('cConcat'))
    await assert.rejects(
      model.pLosses(zeros(1, 4, 8, 8), [3] as never, undefined, { cond: zeros(1, 3, 4, 4) }),
      invalid('concat'),
    )
    const train = (batch: object) => model.trainingStep({ image: zeros(1, 16, 16, 3), ...batch })
    await assert.rejects(train({ small: zeros(1, 8, 8, 3) }), invalid('concat'))
    await assert.rejects(train({}), invalid('batch.small'))
    assert.equal(model.globalStep, 0)
    assert.deepEqual(await (await sample(zeros(1, 3, 8, 8))).data(), before)
  })

  it('conditions of a model that has none', async () => {
    using model = latent({ firstStage: autoencoder() })
    await assert.rejects(model.sample({ prompt: 'red cat', steps: 2 }), refused('not-configured'))
    await assert.rejects(model.getLearnedConditioning('red cat'), refused('not-configured'))
    await assert.rejects(model.sample({ batchSize: 1, cond: tokens, steps: 2 }), invalid('cond'))
  })

  it('state dicts with another codebook, or a scale that leaves nothing, change nothing', async () => {
    using model = latent({ firstStage: quantized(8) })
    using other = latent({ firstStage: quantized(16) })
    const kept = await model.firstStageModel.stateDict!()
    await assert.rejects(
      model.loadStateDict(await other.stateDict()),
      refused('state-mismatch', 'quantize.embedding.weight'),
    )
    for (const scale of [Number.NaN, 0, -1, Number.POSITIVE_INFINITY]) {
      const dict = { ...(await model.stateDict()), scale_factor: Tensor.from(Float32Array.of(scale), []) }
      await assert.rejects(model.loadStateDict(dict), refused('state-mismatch', 'scale_factor'))
    }
    await assert.rejects(model.loadStateDict({ scale_factor: zeros(2) }), refused('state-mismatch', 'scale_factor'))
    assert.equal(model.scaleFactor, 1)
    for (const [name, tensor] of Object.entries(await model.firstStageModel.stateDict!()))
      assert.deepEqual(await tensor.data(), await kept[name].data(), name)
  })

  it('a first batch that says no scale', async () => {
    const identity = { firstStage: new IdentityFirstStage(), channels: 3, scaleByStd: true }
    using model = latent({ ...identity, unetConfig: { ...unetConfig, inChannels: 3, outChannels: 3 } })
    model.configureOptimizers({ lr: 1e-4 })
    for (const value of [0.5, Number.NaN]) {
      await assert.rejects(
        model.trainingStep({ image: filled(value, 1, 8, 8, 3) }),
        refused('not-finite', 'scaleByStd'),
      )
    }
    assert.deepEqual([model.scaleFactor, model.globalStep], [1, 0])
  })

  describe('a folder', () => {
    const broken = () => at('model')
    /** A copy of the pipeline with a change, opened and used. */
    const opened = async (change: () => void) => {
      rmSync(broken(), { recursive: true, force: true })
      cpSync(fixture, broken(), { recursive: true })
      change()
      using model = await LatentDiffusion.fromPretrained(broken(), { device: 'cpu' })
      let steps = 0
      await model.sample({ prompt: 'red cat', steps: 2, onStep: () => steps++ }).catch((error) => {
        assert.equal(steps, 0, 'steps were taken before it was refused')
        throw error
      })
    }
    const weights = 'diffusion_pytorch_model.safetensors'
    const json = (file: string, change: Record<string, unknown>) => () => {
      const name = path.join(broken(), file)
      writeFileSync(name, JSON.stringify({ ...JSON.parse(readFileSync(name, 'utf8')), ...change }))
    }

    it('without one of its files', async () => {
      const parts = ['unet', 'vae', 'text_encoder', 'tokenizer', 'scheduler']
      const files = [
        ...['model_index.json', 'scheduler/scheduler_config.json', 'text_encoder/config.json', 'unet/config.json'],
        ...['text_encoder/model.safetensors', `unet/${weights}`, `vae/${weights}`, 'vae/config.json'],
        ...['tokenizer/merges.txt', 'tokenizer/vocab.json'],
      ]
      for (const name of [...parts, ...files]) {
        const missing = opened(() => rmSync(path.join(broken(), name), { recursive: true }))
        await assert.rejects(missing, (error: Error & { code?: string }) => {
          assert.deepEqual([error.name, error.code], ['DiffusionError', 'not-found'], `${name}: ${error.stack}`)
          return true
        })
      }
    })

    it('with files that hold something else', async () => {
      const bad = (error: Error & { code?: string }) =>
        error.name === 'DiffusionError' && ['bad-file', 'state-mismatch'].includes(error.code!)
      const configs = ['model_index.json', 'scheduler/scheduler_config.json', 'text_encoder/config.json']
      for (const name of [...configs, 'tokenizer/vocab.json', 'unet/config.json', 'vae/config.json']) {
        for (const text of ['', '[]', 'null', '{']) {
          await assert.rejects(
            opened(() => writeFileSync(path.join(broken(), name), text)),
            bad,
            `${name}: ${text}`,
          )
        }
      }
      for (const name of ['text_encoder/model.safetensors', `unet/${weights}`, `vae/${weights}`]) {
        const file = path.join(broken(), name)
        await assert.rejects(
          opened(() => truncateSync(file, 0)),
          bad,
          name,
        )
        await assert.rejects(
          opened(() => truncateSync(file, statSync(file).size - 100)),
          bad,
          name,
        )
      }
    })

    it('with numbers and types that do not go together', async () => {
      const changes: readonly (readonly [(error: Error) => boolean, () => void])[] = [
        [invalid('tokenizer'), json('text_encoder/config.json', { vocab_size: 10 })],
        [invalid('tokenizer'), json('tokenizer/vocab.json', { 'zebra</w>': 99_999 })],
        [refused('bad-file', 'folder'), json('tokenizer/vocab.json', { 'zebra</w>': -1 })],
        [refused('bad-file', 'folder'), json('tokenizer/vocab.json', { 'zebra</w>': '7' })],
        [invalid('vocab_size'), json('text_encoder/config.json', { vocab_size: 'many' })],
        [invalid('hidden_act'), json('text_encoder/config.json', { hidden_act: 'relu' })],
        [invalid('numAttentionHeads'), json('text_encoder/config.json', { num_attention_heads: 3 })],
        [invalid('channels'), json('vae/config.json', { latent_channels: 3 })],
        [invalid('latent_channels'), json('vae/config.json', { latent_channels: '4' })],
        [invalid('scaleFactor'), json('vae/config.json', { scaling_factor: 0 })],
        [invalid('scaling_factor'), json('vae/config.json', { scaling_factor: 'nan' })],
        [refused('unsupported', '_class_name'), json('vae/config.json', { _class_name: 'AutoencoderTiny' })],
        [invalid('sample_size'), json('unet/config.json', { sample_size: 0 })],
        [invalid('beta_start'), json('scheduler/scheduler_config.json', { beta_start: -1 })],
        [refused('not-found', 'path'), json('model_index.json', { vae: 5 })],
        [refused('not-found', 'path'), json('model_index.json', { unet: [null, null] })],
        [
          refused('unsupported', 'path'),
          json('model_index.json', { text_encoder: ['transformers', 'T5EncoderModel'] }),
        ],
      ]
      for (const [check, change] of changes) await assert.rejects(opened(change), check)
      await opened(() => {})
    })
  })

  it('on the command line: one line, an exit code, and no file', async () => {
    writeFileSync(at('no-image.png'), 'nothing')
    const prompt = ['--prompt', 'red cat']
    const cases: readonly (readonly [said: RegExp, args: readonly string[]])[] = [
      [/--prompt: the model draws by a text/, []],
      [/--height: expected a multiple of 4, got 17/, [...prompt, '--height', '17']],
      [/--height: expected an integer/, [...prompt, '--height', 'tall']],
      [/--guidance: expected/, [...prompt, '--guidance', 'NaN']],
      [/--guidance/, [...prompt, '--guidance', '1', '--negative-prompt', 'blue']],
      [/no-image\.png/, [...prompt, '--init-image', 'no-image.png']],
      [/--mask goes with --init-image/, [...prompt, '--mask', 'no-image.png']],
      [/--class/, [...prompt, '--class', 'cat']],
    ]
    for (const [said, args] of cases) {
      const { code, stdout, stderr } = await runCli(
        ['sample', fixture, '--steps', '2', '--device', 'cpu', ...args],
        {},
        folder,
      )
      assert.ok(code === 1 || code === 2, `${args.join(' ')}: ${code} ${stderr}`)
      assert.match(stderr, said)
      assert.deepEqual([stdout, stderr.trimEnd().split('\n').length], ['', 1], stderr)
      assert.ok(!existsSync(at('samples.png')))
    }
  })
})
