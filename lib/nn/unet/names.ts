/** What the modules of a UNet are called in the state_dict of either library. */
import { DiffusionError } from '../../errors'
import type { Layout } from './blocks'

/**
 * `level` counts from the full resolution down, `i` the residual blocks of a level on its side, `n` is the number of
 * residual blocks of a level on the way down (one more on the way up), `levels` the number of levels.
 */
export interface UNetNames {
  readonly convIn: string
  readonly timeEmbedding: readonly [string, string]
  readonly labels: string
  /** The two layers of a vector, within `labels`. */
  readonly vectorLayers: readonly [string, string]
  readonly down: (level: number, i: number) => { res: string; attention: string }
  readonly downsample: (level: number) => string
  /** Of a skip block: what leads away from its level, and where its own layers are. */
  readonly downSkip: (level: number) => { res: string; block: string }
  readonly upSkip: (level: number) => { res: string; block: string }
  /** The convolution inside of a downsample module. */
  readonly downsampleConv: string
  readonly middle: { readonly res: readonly [string, string]; readonly attention: string }
  readonly up: (level: number, i: number) => { res: string; attention: string }
  /** It belongs to the level that it leads away from. */
  readonly upsample: (level: number, hasAttention: boolean) => string
  readonly normOut: string
  readonly convOut: string
  /** The lists of blocks, where these are modules of their own. */
  readonly lists?: { readonly down: string; readonly middle: string; readonly up: string }
}

export function namesOf(layout: Layout, n: number, levels: number): UNetNames {
  return layout === 'openai' ? openai(n, levels) : diffusers(levels)
}

function noSkips(): never {
  throw new DiffusionError('internal', "skip blocks in layout 'openai'")
}

/** One list of blocks on either side; a block holds a residual block, then attention, then an upsampling. */
function openai(n: number, levels: number): UNetNames {
  const input = (level: number, i: number) => `input_blocks.${1 + level * (n + 1) + i}`
  const output = (level: number, i: number) => `output_blocks.${(levels - 1 - level) * (n + 1) + i}`
  return {
    convIn: 'input_blocks.0.0',
    timeEmbedding: ['time_embed.0', 'time_embed.2'],
    labels: 'label_emb',
    vectorLayers: ['0.0', '0.2'],
    down: (level, i) => ({ res: `${input(level, i)}.0`, attention: `${input(level, i)}.1` }),
    downsample: (level) => `${input(level, n)}.0`,
    downSkip: noSkips,
    upSkip: noSkips,
    downsampleConv: 'op',
    middle: { res: ['middle_block.0', 'middle_block.2'], attention: 'middle_block.1' },
    up: (level, i) => ({ res: `${output(level, i)}.0`, attention: `${output(level, i)}.1` }),
    upsample: (level, hasAttention) => `${output(level, n)}.${hasAttention ? 2 : 1}`,
    normOut: 'out.0',
    convOut: 'out.2',
    lists: { down: 'input_blocks', middle: 'middle_block', up: 'output_blocks' },
  }
}

/**
 * One block a level on either side; in it lists of residual blocks, attentions and samplers. Up blocks count from the
 * deepest.
 */
function diffusers(levels: number): UNetNames {
  const block = (name: string, i: number) => ({ res: `${name}.resnets.${i}`, attention: `${name}.attentions.${i}` })
  const up = (level: number) => `up_blocks.${levels - 1 - level}`
  return {
    convIn: 'conv_in',
    timeEmbedding: ['time_embedding.linear_1', 'time_embedding.linear_2'],
    labels: 'class_embedding',
    vectorLayers: ['linear_1', 'linear_2'],
    down: (level, i) => block(`down_blocks.${level}`, i),
    downsample: (level) => `down_blocks.${level}.downsamplers.0`,
    downSkip: (level) => ({ res: `down_blocks.${level}.resnet_down`, block: `down_blocks.${level}` }),
    upSkip: (level) => ({ res: `${up(level)}.resnet_up`, block: up(level) }),
    downsampleConv: 'conv',
    middle: { res: ['mid_block.resnets.0', 'mid_block.resnets.1'], attention: 'mid_block.attentions.0' },
    up: (level, i) => block(up(level), i),
    upsample: (level) => `${up(level)}.upsamplers.0`,
    normOut: 'conv_norm_out',
    convOut: 'conv_out',
  }
}
