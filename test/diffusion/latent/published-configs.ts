/**
 * What the configurations that CompVis and Stability AI published say, as a table: classes and sizes; and how many millions of parameters
 * our networks of these sizes have, so that none changes unseen.
 */
type Json = Record<string, unknown>

const ldm = 'ldm.models.diffusion.ddpm.'
const modules = 'ldm.modules.encoders.modules.'

/** First stages by what each side is divided by. */
const autoencoders = {
  klF4: { z: 3, mult: [1, 2, 4], at: [] },
  klF8: { z: 4, mult: [1, 2, 4, 4], at: [] },
  klF16: { z: 16, mult: [1, 1, 2, 2, 4], at: [16] },
  klF32: { z: 64, mult: [1, 1, 2, 2, 4, 4], at: [16, 8] },
  vqF4: { z: 3, mult: [1, 2, 4], at: [], entries: 8192 },
  vqF4NoAttention: { z: 3, mult: [1, 2, 4], at: [], entries: 8192, attn: 'none' },
  vqF8: { z: 4, mult: [1, 2, 2, 4], at: [32], entries: 16384 },
  vqF8N256: { z: 4, mult: [1, 2, 2, 4], at: [32], entries: 256 },
  vqF16: { z: 8, mult: [1, 1, 2, 2, 4], at: [16], entries: 16384 },
} as const
type First = keyof typeof autoencoders

export function autoencoder(name: First, target?: string, more: Json = {}) {
  const { z, mult, at, ...o } = autoencoders[name]
  const entries = 'entries' in o ? o.entries : undefined
  return {
    target: `ldm.models.autoencoder.${target ?? (entries ? 'VQModel' : 'AutoencoderKL')}`,
    params: {
      monitor: 'val/rec_loss',
      embed_dim: z,
      ...(entries && { n_embed: entries }),
      ddconfig: {
        ...('attn' in o && { attn_type: o.attn }),
        ...{ double_z: entries === undefined, z_channels: z, resolution: 256, in_channels: 3, out_ch: 3, ch: 128 },
        ...{ ch_mult: mult, num_res_blocks: 2, attn_resolutions: at, dropout: 0 },
      },
      lossconfig: { target: 'torch.nn.Identity' },
      ...more,
    },
  }
}

/** Files of autoencoders alone. */
export const publishedAutoencoders: Readonly<Record<string, First>> = {
  'configs/autoencoder/autoencoder_kl_16x16x16.yaml': 'klF16',
  'configs/autoencoder/autoencoder_kl_32x32x4.yaml': 'klF8',
  'configs/autoencoder/autoencoder_kl_64x64x3.yaml': 'klF4',
  'configs/autoencoder/autoencoder_kl_8x8x64.yaml': 'klF32',
  'models/first_stage_models/kl-f4/config.yaml': 'klF4',
  'models/first_stage_models/kl-f8/config.yaml': 'klF8',
  'models/first_stage_models/kl-f16/config.yaml': 'klF16',
  'models/first_stage_models/kl-f32/config.yaml': 'klF32',
  'models/first_stage_models/vq-f4/config.yaml': 'vqF4',
  'models/first_stage_models/vq-f4-noattn/config.yaml': 'vqF4NoAttention',
  'models/first_stage_models/vq-f8/config.yaml': 'vqF8',
  'models/first_stage_models/vq-f8-n256/config.yaml': 'vqF8N256',
  'models/first_stage_models/vq-f16/config.yaml': 'vqF16',
}

interface Published {
  /** model.target, without what is before the class. */
  readonly target?: string
  readonly first: First
  /** ckpt_path of the first stage. */
  readonly ckpt?: string
  readonly cond: '__is_first_stage__' | '__is_unconditional__' | readonly [target: string, params?: Json]
  /** Channels of the latents, and their height. */
  readonly latents: readonly [channels: number, size: number]
  readonly model?: Json
  readonly unet: Json & { model_channels: number; channel_mult: readonly number[] }
  readonly expected: {
    readonly stages: readonly [first: string, cond?: string]
    readonly key?: string
    /** Of the UNet, in millions. */
    readonly parameters: number
  }
}

const transformer = { use_spatial_transformer: true, transformer_depth: 1 }
const linear = 'ldm.lr_scheduler.LambdaLinearScheduler'
const warmUp = {
  target: linear,
  params: { warm_up_steps: [10000], cycle_lengths: [10000000000000], f_start: [1e-6], f_max: [1], f_min: [1] },
}
const cosine = { lr_max: 0.1, lr_min: 1e-4, lr_start: 1e-3, max_decay_steps: 50000, verbosity_interval: 0 }
const schedule = { linear_start: 0.0015, linear_end: 0.0195 }
const crossattn = { conditioning_key: 'crossattn', num_timesteps_cond: 1 }
const vqStages = ['VQModelInterface'] as const

/** Of faces and bedrooms. */
const unconditional: Published = {
  ...{ first: 'vqF4', cond: '__is_unconditional__', latents: [3, 64] },
  model: { ...schedule, num_timesteps_cond: 1, cond_stage_key: 'class_label', concat_mode: false },
  unet: {
    ...{ model_channels: 224, attention_resolutions: [8, 4, 2], channel_mult: [1, 2, 3, 4], num_head_channels: 32 },
  },
  expected: { stages: vqStages, parameters: 274.06 },
}
const churches: Published = {
  ...{ first: 'klF8', cond: '__is_unconditional__', latents: [4, 32] },
  model: {
    ...{ linear_start: 0.0015, linear_end: 0.0155, loss_type: 'l1', concat_mode: false, scale_by_std: true },
    scheduler_config: warmUp,
  },
  unet: {
    ...{ model_channels: 192, attention_resolutions: [1, 2, 4, 8], channel_mult: [1, 2, 2, 4, 4], num_heads: 8 },
    ...{ use_scale_shift_norm: true, resblock_updown: true },
  },
  expected: { stages: ['AutoencoderKL'], parameters: 294.97 },
}
const imageNet: Published = {
  first: 'vqF8',
  cond: [`${modules}ClassEmbedder`, { embed_dim: 512, key: 'class_label' }],
  latents: [4, 32],
  model: { ...schedule, ...crossattn, cond_stage_key: 'class_label', cond_stage_trainable: true },
  unet: {
    ...{ model_channels: 256, attention_resolutions: [4, 2, 1], channel_mult: [1, 2, 4], num_head_channels: 32 },
    ...{ ...transformer, context_dim: 512 },
  },
  expected: { stages: ['VQModelInterface', 'ClassEmbedder'], key: 'crossattn', parameters: 394.98 },
}
const semantic: Published = {
  first: 'vqF4',
  cond: [`${modules}SpatialRescaler`, { n_stages: 2, in_channels: 182, out_channels: 3 }],
  latents: [3, 64],
  model: {
    ...{ linear_start: 0.0015, linear_end: 0.0205, loss_type: 'l1', concat_mode: true },
    ...{ cond_stage_key: 'segmentation', cond_stage_trainable: true },
  },
  unet: {
    ...{
      in_channels: 6,
      model_channels: 128,
      attention_resolutions: [32, 16, 8],
      channel_mult: [1, 4, 8],
      num_heads: 8,
    },
  },
  expected: { stages: ['VQModelInterface', 'SpatialRescaler'], key: 'concat', parameters: 215.23 },
}
const sdModel = {
  ...{ linear_start: 0.00085, linear_end: 0.012, ...crossattn, first_stage_key: 'jpg', cond_stage_key: 'txt' },
  ...{ cond_stage_trainable: false, scale_factor: 0.18215, use_ema: false },
}
const sdUnet = {
  ...{ image_size: 32, model_channels: 320, attention_resolutions: [4, 2, 1], channel_mult: [1, 2, 4, 4] },
  ...{ ...transformer, legacy: false, use_checkpoint: true },
}
const v1: Published = {
  ...{ first: 'klF8', cond: [`${modules}FrozenCLIPEmbedder`], latents: [4, 64] },
  model: { ...sdModel, scheduler_config: warmUp },
  unet: { ...sdUnet, num_heads: 8, context_dim: 768 },
  expected: { stages: ['AutoencoderKL', 'FrozenCLIPEmbedder'], key: 'crossattn', parameters: 859.52 },
}
const v2: Published = {
  first: 'klF8',
  cond: [`${modules}FrozenOpenCLIPEmbedder`, { freeze: true, layer: 'penultimate' }],
  latents: [4, 64],
  model: sdModel,
  unet: { ...sdUnet, use_fp16: true, num_head_channels: 64, use_linear_in_transformer: true, context_dim: 1024 },
  expected: { stages: ['AutoencoderKL', 'FrozenOpenCLIPEmbedder'], key: 'crossattn', parameters: 865.91 },
}
const of = (base: Published, o: Partial<Published>): Published => ({ ...base, ...o })
const v2Of = (model: Json, unet: Json = {}) =>
  of(v2, { model: { ...sdModel, ...model }, unet: { ...v2.unet, ...unet } })
const hybrid = (o: Partial<Published>, channels: number, parameters: number): Published => ({
  ...of(v2, o),
  model: { ...sdModel, conditioning_key: 'hybrid', finetune_keys: null, ...o.model },
  unet: { ...v2.unet, in_channels: channels },
  expected: { ...v2.expected, key: 'hybrid', parameters },
})

export const published: Readonly<Record<string, Published>> = {
  'configs/latent-diffusion/celebahq-ldm-vq-4.yaml': of(unconditional, {
    ...{ model: { ...schedule, num_timesteps_cond: 1 }, ckpt: 'models/first_stage_models/vq-f4/model.ckpt' },
  }),
  'configs/latent-diffusion/ffhq-ldm-vq-4.yaml': of(unconditional, { model: schedule }),
  'configs/latent-diffusion/lsun_bedrooms-ldm-vq-4.yaml': of(unconditional, { model: schedule }),
  'configs/latent-diffusion/lsun_churches-ldm-kl-8.yaml': of(churches, {
    ckpt: 'models/first_stage_models/kl-f8/model.ckpt',
  }),
  'configs/latent-diffusion/cin-ldm-vq-f8.yaml': of(imageNet, {
    ckpt: 'configs/first_stage_models/vq-f8/model.yaml',
  }),
  'configs/latent-diffusion/cin256-v2.yaml': {
    first: 'vqF4',
    cond: [`${modules}ClassEmbedder`, { n_classes: 1001, embed_dim: 512, key: 'class_label' }],
    latents: [3, 64],
    model: { ...imageNet.model, use_ema: false },
    unet: {
      ...{ model_channels: 192, attention_resolutions: [8, 4, 2], channel_mult: [1, 2, 3, 5], num_heads: 1 },
      ...{ ...transformer, context_dim: 512 },
    },
    expected: { ...imageNet.expected, parameters: 400.92 },
  },
  'configs/latent-diffusion/txt2img-1p4B-eval.yaml': {
    first: 'klF8',
    cond: [`${modules}BERTEmbedder`, { n_embed: 1280, n_layer: 32 }],
    latents: [4, 32],
    model: { ...sdModel, first_stage_key: 'image', cond_stage_key: 'caption', cond_stage_trainable: true },
    unet: { ...sdUnet, num_heads: 8, context_dim: 1280 },
    expected: { stages: ['AutoencoderKL', 'BERTEmbedder'], key: 'crossattn', parameters: 872.3 },
  },
  'configs/retrieval-augmented-diffusion/768x768.yaml': {
    first: 'klF16',
    cond: ['torch.nn.Identity'],
    latents: [16, 48],
    model: {
      ...{ linear_start: 0.0015, linear_end: 0.015, ...crossattn, first_stage_key: 'jpg', cond_stage_key: 'nix' },
      ...{ cond_stage_trainable: false, scale_by_std: false, scale_factor: 0.22765929 },
    },
    unet: {
      ...{ model_channels: 448, attention_resolutions: [4, 2, 1], channel_mult: [1, 2, 3, 4], num_head_channels: 32 },
      ...{
        use_scale_shift_norm: false,
        resblock_updown: false,
        ...transformer,
        context_dim: 768,
        use_checkpoint: true,
      },
    },
    expected: { stages: ['AutoencoderKL', 'IdentityFirstStage'], key: 'crossattn', parameters: 1335.48 },
  },
  'models/ldm/bsr_sr/config.yaml': {
    first: 'vqF4',
    cond: ['torch.nn.Identity'],
    latents: [3, 64],
    model: {
      ...{ linear_start: 0.0015, linear_end: 0.0155, loss_type: 'l2', concat_mode: true },
      ...{ cond_stage_key: 'LR_image', cond_stage_trainable: false },
    },
    unet: {
      ...{ in_channels: 6, model_channels: 160, attention_resolutions: [16, 8], channel_mult: [1, 2, 2, 4] },
      num_head_channels: 32,
    },
    expected: { stages: ['VQModelInterface', 'IdentityFirstStage'], key: 'concat', parameters: 113.62 },
  },
  'models/ldm/celeba256/config.yaml': unconditional,
  'models/ldm/ffhq256/config.yaml': unconditional,
  'models/ldm/lsun_beds256/config.yaml': unconditional,
  'models/ldm/lsun_churches256/config.yaml': churches,
  'models/ldm/cin256/config.yaml': imageNet,
  'models/ldm/inpainting_big/config.yaml': {
    ...{ first: 'vqF4NoAttention', cond: '__is_first_stage__', latents: [3, 64] },
    model: {
      ...{
        linear_start: 0.0015,
        linear_end: 0.0205,
        loss_type: 'l1',
        concat_mode: true,
        cond_stage_key: 'masked_image',
      },
      scheduler_config: {
        target: 'ldm.lr_scheduler.LambdaWarmUpCosineScheduler',
        params: { ...cosine, warm_up_steps: 1000 },
      },
    },
    unet: {
      ...{ in_channels: 7, model_channels: 256, attention_resolutions: [8, 4, 2], channel_mult: [1, 2, 3, 4] },
      ...{ num_heads: 8, resblock_updown: true },
    },
    expected: { stages: ['VQModelInterface', 'VQModelInterface'], key: 'concat', parameters: 387.25 },
  },
  'models/ldm/layout2img-openimages256/config.yaml': {
    first: 'vqF4',
    cond: [
      `${modules}BERTEmbedder`,
      { n_embed: 512, n_layer: 16, vocab_size: 8192, max_seq_len: 92, use_tokenizer: false },
    ],
    latents: [3, 64],
    model: {
      ...{ linear_start: 0.0015, linear_end: 0.0205, loss_type: 'l1', ...crossattn },
      ...{ cond_stage_key: 'coordinates_bbox', cond_stage_trainable: true },
    },
    unet: {
      ...{ model_channels: 128, attention_resolutions: [8, 4, 2], channel_mult: [1, 2, 3, 4], num_head_channels: 32 },
      ...{ use_spatial_transformer: true, transformer_depth: 3, context_dim: 512 },
    },
    expected: { stages: ['VQModelInterface', 'BERTEmbedder'], key: 'crossattn', parameters: 246.28 },
  },
  'models/ldm/semantic_synthesis256/config.yaml': semantic,
  'models/ldm/semantic_synthesis512/config.yaml': of(semantic, { latents: [3, 128] }),
  'models/ldm/text2img256/config.yaml': {
    first: 'vqF4',
    cond: [`${modules}BERTEmbedder`, { n_embed: 640, n_layer: 32 }],
    latents: [3, 64],
    model: { ...schedule, ...crossattn, cond_stage_key: 'caption', cond_stage_trainable: true },
    unet: {
      ...{ model_channels: 192, attention_resolutions: [8, 4, 2], channel_mult: [1, 2, 3, 5], num_head_channels: 32 },
      ...{ ...transformer, context_dim: 640 },
    },
    expected: { stages: ['VQModelInterface', 'BERTEmbedder'], key: 'crossattn', parameters: 403.62 },
  },
  'configs/stable-diffusion/v1-inference.yaml': v1,
  'configs/stable-diffusion/v2-inference.yaml': v2,
  'configs/stable-diffusion/v2-inference-v.yaml': v2Of({ parameterization: 'v' }),
  'configs/stable-diffusion/intel/v2-inference-fp32.yaml': v2Of({}, { use_fp16: false }),
  'configs/stable-diffusion/intel/v2-inference-bf16.yaml': v2Of({}, { use_fp16: false, use_bf16: true }),
  'configs/stable-diffusion/intel/v2-inference-v-fp32.yaml': v2Of({ parameterization: 'v' }, { use_fp16: false }),
  'configs/stable-diffusion/intel/v2-inference-v-bf16.yaml': v2Of({ parameterization: 'v' }, { use_bf16: true }),
  'configs/stable-diffusion/v2-inpainting-inference.yaml': hybrid({ target: 'LatentInpaintDiffusion' }, 9, 865.93),
  'configs/stable-diffusion/v2-midas-inference.yaml': hybrid(
    {
      target: 'LatentDepth2ImageDiffusion',
      model: {
        depth_stage_config: { target: 'ldm.modules.midas.api.MiDaSInference', params: { model_type: 'dpt_hybrid' } },
      },
    },
    5,
    865.91,
  ),
}

/** What has no counterpart here: their classes have embedders of images, or noise levels as labels. */
export const refused: Readonly<Record<string, string>> = {
  'configs/stable-diffusion/v2-1-stable-unclip-h-inference.yaml': 'ImageEmbeddingConditionedLatentDiffusion',
  'configs/stable-diffusion/v2-1-stable-unclip-l-inference.yaml': 'ImageEmbeddingConditionedLatentDiffusion',
  'configs/stable-diffusion/x4-upscaling.yaml': 'LatentUpscaleDiffusion',
}

/** As YAML gives it. */
export function configOf({ target = 'LatentDiffusion', first, ckpt, cond, latents, model, unet }: Published) {
  const [channels, size] = latents
  const isVQ = first.startsWith('vq')
  return {
    model: {
      base_learning_rate: 1e-4,
      target: ldm + target,
      params: {
        ...{ log_every_t: 200, timesteps: 1000, first_stage_key: 'image', image_size: size, channels },
        ...{ monitor: 'val/loss_simple_ema', ...model },
        unet_config: {
          target: 'ldm.modules.diffusionmodules.openaimodel.UNetModel',
          params: { image_size: size, in_channels: channels, out_channels: channels, num_res_blocks: 2, ...unet },
        },
        first_stage_config: autoencoder(first, isVQ ? 'VQModelInterface' : undefined, ckpt ? { ckpt_path: ckpt } : {}),
        cond_stage_config: typeof cond === 'string' ? cond : { target: cond[0], ...(cond[1] && { params: cond[1] }) },
      },
    },
  }
}
