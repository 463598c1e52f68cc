/** The classes of CompVis' latent-diffusion that have a counterpart here, and their arguments with the same meaning. */
import { snakeCase } from '../../checkpoint/compvis'
import { latentSchema } from '../options/latent-options'

/** By Python's full name, which of our classes it is. */
export const targets: Readonly<Record<'model' | 'latent' | 'unet', readonly string[]>> = {
  model: ['ldm.models.diffusion.ddpm.DDPM'],
  latent: [
    'ldm.models.diffusion.ddpm.LatentDiffusion',
    'ldm.models.diffusion.ddpm.Layout2ImgDiffusion',
    // They differ in what they make of a batch; conditions are given here.
    'ldm.models.diffusion.ddpm.LatentInpaintDiffusion',
    'ldm.models.diffusion.ddpm.LatentDepth2ImageDiffusion',
  ],
  unet: [
    'ldm.modules.diffusionmodules.openaimodel.UNetModel',
    'guided_diffusion.unet.UNetModel',
    'improved_diffusion.unet.UNetModel',
  ],
}

/** DDPM's. */
export const modelNames = [
  ...['timesteps', 'beta_schedule', 'loss_type', 'monitor', 'use_ema', 'first_stage_key', 'image_size', 'channels'],
  ...['log_every_t', 'clip_denoised', 'linear_start', 'linear_end', 'cosine_s', 'given_betas'],
  ...['original_elbo_weight', 'v_posterior', 'l_simple_weight', 'parameterization', 'learn_logvar', 'logvar_init'],
]
/** LatentDiffusion's beside its stages and DDPM's. */
export const latentNames = Object.keys(latentSchema)
  .filter((name) => name !== 'firstStage' && name !== 'condStage')
  .map(snakeCase)
export const unetNames = [
  ...['image_size', 'in_channels', 'model_channels', 'out_channels', 'num_res_blocks', 'attention_resolutions'],
  ...['dropout', 'channel_mult', 'conv_resample', 'num_classes', 'num_heads', 'num_head_channels'],
  ...['num_heads_upsample', 'use_scale_shift_norm', 'resblock_updown', 'use_new_attention_order'],
  ...['legacy', 'use_checkpoint'],
  ...['use_spatial_transformer', 'transformer_depth', 'use_linear_in_transformer', 'context_dim'],
]
/** Numbers of the vector of num_classes 'sequential'. */
export const vectorField = 'adm_in_channels'
