/** Good files, and what is put into them, for readers that have no fixture. */
import { mkdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { AutoencoderTraining } from '../../lib/autoencoder/training'
import type { NpyArray } from '../../lib/data/npz'
import type { PartHeader } from '../../lib/data/parts/part-file'
import { DDPM } from '../../lib/diffusion/models/ddpm'
import { AutoencoderKL } from '../../lib/stages/autoencoder-kl'
import { countersOf, saveAutoencoderCheckpoint } from '../../lib/train/autoencoder/checkpoint'
import { resolveAutoencoderOptions } from '../../lib/train/autoencoder/resolve-options'
import { saveCheckpoint } from '../../lib/train/checkpoint'
import { saveModel } from '../../lib/train/model-file'
import { resolveTrainOptions } from '../../lib/train/resolve-options'

const fixtures = path.join(__dirname, '..', '..', '..', 'test', 'fixtures')

export const fixture = (name: string) => path.join(fixtures, ...name.split('/'))
export const load = (...names: string[]) => names.map((name) => readFileSync(fixture(name)))

export const jsonSnippets = [...'"{}[],:90-\\', 'e9', 'null', 'true', '1e15', '[[[[', '""', 'NaN', '-Infinity']
export const yamlSnippets = [
  ...jsonSnippets,
  ...[': ', '- ', '\n', '&a ', '*a', '? ', '| \n', '!!binary ', '<<: *a', '%YAML 1.1\n---\n', '#', "'"],
]
const pickleSnippets = [
  ...['(', ')', 't', 'R', '\x81', 'b', 'Q', '.', '}', ']', 'u', 'e', 's', 'a', '\x85', 'h\0', 'q\0', '2', '0'],
]
export const torchSnippets = [
  ...pickleSnippets,
  ...['PK\x03\x04', 'PK\x01\x02', 'PK\x05\x06', 'cos\nsystem\n', '\x8a\xff', 'X\xff\xff\xff\x7f', 'K\xff'],
  ...['cargparse\nNamespace\n)\x81', 'ccollections\nCounter\n)R', 'X\x05\0\0\0model', '}b'],
]

export const dataSnippets = [
  ...[
    'NUMPY',
    '<f4',
    '|u1',
    "'shape': (",
    '(9999999, 9999999, 1)',
    'True',
    '\0\0\x08\x03',
    '\xff\xff\xff\xff',
    '\x1f\x8b',
  ],
  ...[
    'ustar',
    '77777777777',
    '\x80\0\0\0\x7f',
    'L',
    'x',
    '.png',
    '.cls',
    '../',
    '/dev/zero',
    '"',
    ',',
    '\n',
    '\t',
    '{"',
    '-1',
  ],
]

/** 2x2, grey. */
export const png = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAAAAABX3VL4AAAACXBIWXMAAAPoAAAD6AG1e1JrAAAADklEQVQImWNgiGI48R8AA/0CIomI+SUAAAAASUVORK5CYII=',
  'base64',
)

/** As latent-diffusion's. */
export const compVisYaml = `model:
  base_learning_rate: 2.0e-06
  target: ldm.models.diffusion.ddpm.DDPM
  params:
    linear_start: 0.0015
    linear_end: 0.0195
    timesteps: 1000
    log_every_t: 200
    loss_type: l1
    first_stage_key: image
    image_size: 64
    channels: 3
    monitor: val/loss_simple_ema
    scheduler_config:
      target: ldm.lr_scheduler.LambdaLinearScheduler
      params: { warm_up_steps: [10000], cycle_lengths: [1000000], f_start: [1.e-6], f_max: [1.], f_min: [1.] }
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: 64
        in_channels: 3
        out_channels: 3
        model_channels: 224
        attention_resolutions: # downsampling rates
        - 8
        - 4
        - 2
        num_res_blocks: 2
        channel_mult: [1, 2, 3, 4]
        num_head_channels: 32
data: { target: main.DataModuleFromConfig, params: { batch_size: 48 } }
`
export const aliasYaml = `data: &a { x: [1, 2, "three"], y: &b [*a2, ~, true] }
lightning: [&a2 "t", *b, { <<: *a, k: |
  text
  }]
`

const model = {
  timesteps: 20,
  unetConfig: {
    ...{ imageSize: 8, inChannels: 3, outChannels: 3, modelChannels: 4, channelMult: [1], numResBlocks: 1 },
    ...{ attentionResolutions: [], normGroups: 2 },
  },
}

/** A model file and the newest checkpoint of a run, in `folder`. */
export async function writeModelAndRun(folder: string): Promise<{ model: string; run: string; checkpoint: string }> {
  const ddpm = new DDPM({ ...model, device: 'cpu', seed: 1 })
  try {
    const file = path.join(folder, 'model.safetensors')
    await saveModel(file, ddpm, { config: model, training: { step: 1 } })
    const run = path.join(folder, 'run')
    mkdirSync(run)
    const counts = { step: 2, samples: 8, optimizerStep: 2, emaUpdates: 2, draws: 0 }
    const checkpoint = await saveCheckpoint(
      run,
      {
        ...{ format: 'ddpm-native checkpoint', version: 1, ...counts, time: '2026-01-01T00:00:00.000Z' },
        data: { fingerprint: '9b6ef50507a60709', images: 4 },
        options: resolveTrainOptions({ data: 'images', out: 'run', model }),
      },
      await ddpm.trainingState(),
      { keep: 1 },
    )
    return { model: file, run, checkpoint }
  } finally {
    ddpm.dispose()
  }
}

const special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]']

/** tokenizer.json of BERT's kind. */
export const wordPieces = {
  added_tokens: special.map((content, id) => ({ id, content, special: true })),
  normalizer: { type: 'BertNormalizer', clean_text: true, handle_chinese_chars: true, lowercase: true },
  pre_tokenizer: { type: 'BertPreTokenizer' },
  post_processor: null,
  decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
  model: {
    type: 'WordPiece',
    unk_token: '[UNK]',
    continuing_subword_prefix: '##',
    max_input_chars_per_word: 100,
    vocab: Object.fromEntries([...special, 'a', 'cat', '##s', 'naive', '!', ','].map((token, id) => [token, id])),
  },
}

/** tokenizer.json of CLIP's kind. */
export const bytePairs = {
  added_tokens: ['<|startoftext|>', '<|endoftext|>'].map((content, i) => ({ id: 5 + i, content, special: true })),
  normalizer: { type: 'Sequence', normalizers: [{ type: 'NFC' }, { type: 'Lowercase' }] },
  pre_tokenizer: {
    type: 'Sequence',
    pretokenizers: [
      { type: 'Split', pattern: { Regex: "'s|[\\p{L}]+|[\\p{N}]" }, behavior: 'Removed', invert: true },
      { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
    ],
  },
  post_processor: null,
  decoder: { type: 'ByteLevel' },
  model: {
    type: 'BPE',
    unk_token: '<|endoftext|>',
    end_of_word_suffix: '</w>',
    vocab: { c: 0, a: 1, 't</w>': 2, ca: 3, 'cat</w>': 4, '<|startoftext|>': 5, '<|endoftext|>': 6 },
    merges: ['c a', 'ca t</w>'],
  },
}

/** config.json of transformers' CLIPTextModel. */
export const clipConfig = {
  architectures: ['CLIPTextModel'],
  model_type: 'clip_text_model',
  hidden_act: 'quick_gelu',
  attention_dropout: 0,
  ...{ vocab_size: 50, hidden_size: 8, intermediate_size: 16, num_hidden_layers: 2, num_attention_heads: 2 },
  ...{ max_position_embeddings: 8, layer_norm_eps: 1e-5, eos_token_id: 2 },
}

/** A run of a first stage with a discriminator; returns its checkpoint. */
export async function writeAutoencoderRun(folder: string): Promise<string> {
  const out = path.join(folder, 'run')
  const options = resolveAutoencoderOptions({ data: 'images', out, ddconfig: { ch: 32, chMult: [1] }, discStart: 0 })
  const { ddconfig, embedDim } = options
  using stage = new AutoencoderKL({ ddconfig, embedDim, device: 'cpu' })
  using training = new AutoencoderTraining(stage, { discStart: 0, discNumLayers: 1 })
  training.configureOptimizers({ lr: 1e-3 })
  const state = await training.trainingState()
  mkdirSync(out)
  return saveAutoencoderCheckpoint(
    out,
    {
      ...{ format: 'ddpm-native autoencoder checkpoint', version: 1, step: 1, samples: 4, ...countersOf(state) },
      ...{ data: { fingerprint: '9b6ef50507a60709', images: 4 }, options, time: '2026-01-01T00:00:00.000Z' },
    },
    state,
    { keep: 1 },
  )
}

/** A whole of one part, of two images. */
export const partHeader: PartHeader = {
  shard: { index: 1, total: 1 },
  first: 0,
  count: 2,
  whole: { weights: 'ab', seed: '1' },
  device: 'cpu, avx2',
}
export const partRows: NpyArray = { data: Uint8Array.from({ length: 24 }, (_, i) => i), shape: [2, 2, 2, 3] }

const about = Buffer.from('{"format":"ddpm-native features 1","size":[2,2],"channels":3,"identity":"x"}')
export const features: Readonly<Record<string, NpyArray>> = {
  features: { data: Float32Array.of(1, 2, 3, 4, 5, 6), shape: [2, 3] },
  logits: { data: Float32Array.of(1, 2, 3, 4), shape: [2, 2] },
  about: { data: new Uint8Array(about), shape: [about.length] },
}
