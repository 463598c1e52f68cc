/** Names of an autoencoder's modules in either layout: latent-diffusion's model.py, and diffusers' Encoder and Decoder. */
import type { AutoencoderLayout } from './options'

export interface AutoencoderNames {
  readonly resBlock: { readonly skip: string }
  /** Of the attention, whose weights in ldm's layout are those of 1x1 convolutions. */
  readonly attention: {
    readonly norm: string
    readonly projections: readonly string[]
    readonly out: string
    readonly conv2d: boolean
  }
  /** Module of a level: `level` counts from the finest, `levels` are all. */
  readonly down: (level: number) => string
  readonly up: (level: number, levels: number) => string
  readonly block: (index: number) => string
  readonly attn: (index: number) => string
  readonly downsample: string
  readonly upsample: string
  readonly middle: { readonly block1: string; readonly attn: string; readonly block2: string }
  readonly normOut: string
}

export const autoencoderNames: Readonly<Record<AutoencoderLayout, AutoencoderNames>> = {
  ldm: {
    resBlock: { skip: 'nin_shortcut' },
    attention: { norm: 'norm', projections: ['q', 'k', 'v'], out: 'proj_out', conv2d: true },
    down: (level) => `down.${level}`,
    up: (level) => `up.${level}`,
    block: (index) => `block.${index}`,
    attn: (index) => `attn.${index}`,
    downsample: 'downsample',
    upsample: 'upsample',
    middle: { block1: 'mid.block_1', attn: 'mid.attn_1', block2: 'mid.block_2' },
    normOut: 'norm_out',
  },
  diffusers: {
    resBlock: { skip: 'conv_shortcut' },
    attention: { norm: 'group_norm', projections: ['to_q', 'to_k', 'to_v'], out: 'to_out.0', conv2d: false },
    down: (level) => `down_blocks.${level}`,
    up: (level, levels) => `up_blocks.${levels - 1 - level}`,
    block: (index) => `resnets.${index}`,
    attn: (index) => `attentions.${index}`,
    downsample: 'downsamplers.0',
    upsample: 'upsamplers.0',
    middle: { block1: 'mid_block.resnets.0', attn: 'mid_block.attentions.0', block2: 'mid_block.resnets.1' },
    normOut: 'conv_norm_out',
  },
}
