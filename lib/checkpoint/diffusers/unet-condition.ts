/** A UNet with transformers in terms of diffusers' UNet2DConditionModel: its config.json. Its weights are unet2DWeights. */
import { describe } from '../../errors'
import { depthsOf, levelChannels, type ResolvedUNetOptions } from '../../nn/unet/options'
import type { JsonObject } from '../json'
import { unsupported as unsupportedBy } from './unet'

const unsupported = (argument: string, expected: string, value: unknown) =>
  unsupportedBy(argument, expected, value, 'UNet2DConditionModel')

/** What has no counterpart there, with the one value that is its rule. */
const fixed: Partial<ResolvedUNetOptions> = {
  useSpatialTransformer: true,
  convResample: true,
  selfCondition: false,
  middleScale: 1,
  middleAttention: true,
  classEmbedding: 'table',
  timeEmbedding: 'sinusoidal',
}

/** Throws `unsupported` for what UNet2DConditionModel does not have. */
export function unet2DConditionConfig(o: ResolvedUNetOptions): JsonObject {
  for (const [name, value] of Object.entries(fixed)) {
    const given = o[name as keyof ResolvedUNetOptions]
    if (given !== value) throw unsupported(name, describe(value), given)
  }
  const channels = levelChannels(o)
  const rates = channels.map((_, level) => 2 ** level)
  const depths = depthsOf(o)
  return {
    act_fn: 'silu',
    attention_head_dim: oneOrEach(channels.map((width) => headsAt(o, width))),
    block_out_channels: channels,
    center_input_sample: o.centerInput,
    ...vectorFields(o),
    cross_attention_dim: o.contextDim!,
    down_block_types: blocksOf('Down', rates, o.attentionResolutions, o.resblockDownResolutions),
    downsample_padding: o.downsamplePadding,
    dropout: o.dropout,
    flip_sin_to_cos: o.flipSinToCos,
    freq_shift: o.freqShift,
    in_channels: o.inChannels,
    layers_per_block: o.numResBlocks,
    mid_block_type: o.middleBlock ? 'UNetMidBlock2DCrossAttn' : null,
    norm_eps: o.normEps,
    norm_num_groups: o.normGroups,
    num_class_embeds: o.numClasses ?? null,
    out_channels: o.outChannels,
    resnet_time_scale_shift: o.useScaleShiftNorm ? 'scale_shift' : 'default',
    sample_size: o.imageWidth === undefined ? o.imageSize : [o.imageSize, o.imageWidth],
    ...(o.timeEmbeddingDim === 4 * o.modelChannels ? {} : { time_embedding_dim: o.timeEmbeddingDim }),
    transformer_layers_per_block: oneOrEach(depths),
    up_block_types: blocksOf('Up', rates, o.upAttentionResolutions, o.resblockUpResolutions).reverse(),
    use_linear_projection: o.useLinearInTransformer,
  }
}

function vectorFields({ vectorEmbedding, vectorDim }: ResolvedUNetOptions): JsonObject {
  if (vectorEmbedding === 'augment') throw unsupported('vectorEmbedding', "'mlp' and 'identity'", vectorEmbedding)
  if (vectorEmbedding !== 'mlp') return { class_embed_type: vectorEmbedding ?? null }
  return { class_embed_type: 'projection', projection_class_embeddings_input_dim: vectorDim! }
}

const oneOrEach = (values: readonly number[]) => (new Set(values).size === 1 ? values[0] : [...values])

/** Heads of a level, whose width there is what is left of the channels when they are divided. */
function headsAt(o: ResolvedUNetOptions, channels: number): number {
  const { numHeadChannels, numHeads, legacy } = o
  if (!numHeadChannels) return numHeads
  const heads = Math.max(1, Math.floor(channels / numHeadChannels))
  if (legacy || Math.floor(channels / heads) === numHeadChannels) return heads
  throw unsupported('numHeadChannels', `a divisor of ${channels}`, numHeadChannels)
}

function blocksOf(
  side: 'Down' | 'Up',
  rates: readonly number[],
  attention: readonly number[],
  resnet: readonly number[],
): string[] {
  return rates.map((rate) => {
    if (!attention.includes(rate)) return resnet.includes(rate) ? `Resnet${side}sampleBlock2D` : `${side}Block2D`
    if (resnet.includes(rate)) throw unsupported(`resblock${side}Resolutions`, 'levels without attention', resnet)
    return `CrossAttn${side}Block2D`
  })
}
