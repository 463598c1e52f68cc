/** A UNet in terms of diffusers' UNet2DModel: its config.json, and the weights by its names. */
import { DiffusionError, describe } from '../../errors'
import { timeEmbeddings } from '../../nn/unet/diffusers'
import { groupsOf, levelChannels, type ResolvedUNetOptions } from '../../nn/unet/options'
import { UNet } from '../../nn/unet/unet'
import type { JsonObject } from '../json'
import type { StoredTensor } from '../safetensors'

/** Throws `unsupported` for what UNet2DModel does not have. */
export function unet2DConfig(o: ResolvedUNetOptions): JsonObject {
  const only = (name: keyof ResolvedUNetOptions, value: unknown) => {
    if (o[name] !== value) throw unsupported(name, describe(value), o[name])
  }
  only('useSpatialTransformer', false)
  only('convResample', true)
  only('selfCondition', false)
  const channels = levelChannels(o)
  const rates = channels.map((_, level) => 2 ** level)
  const down = blocksOf('Down', rates.slice(0, -1), rates, {
    attention: o.attentionResolutions,
    resnet: o.resblockDownResolutions,
    skip: o.skipDownResolutions,
  })
  const up = blocksOf('Up', rates.slice(1), rates, {
    attention: o.upAttentionResolutions,
    resnet: o.resblockUpResolutions,
    skip: o.skipUpResolutions,
  })
  return {
    act_fn: 'silu',
    add_attention: o.middleAttention,
    attention_head_dim: headDim(o) ?? null,
    attn_norm_num_groups: middleGroups(o),
    block_out_channels: channels,
    center_input_sample: o.centerInput,
    class_embed_type: classEmbedType(o),
    down_block_types: down.types,
    downsample_padding: o.downsamplePadding,
    downsample_type: down.resample,
    dropout: o.dropout,
    flip_sin_to_cos: o.flipSinToCos,
    freq_shift: o.freqShift,
    in_channels: o.inChannels,
    layers_per_block: o.numResBlocks,
    mid_block_scale_factor: o.middleScale,
    ...(o.middleBlock ? {} : { mid_block_type: null }),
    norm_eps: o.normEps,
    norm_num_groups: o.normGroups || null,
    num_class_embeds: o.numClasses ?? null,
    num_train_timesteps: o.numTimesteps ?? null,
    out_channels: o.outChannels,
    resnet_time_scale_shift: o.useScaleShiftNorm ? 'scale_shift' : 'default',
    sample_size: o.imageWidth === undefined ? o.imageSize : [o.imageSize, o.imageWidth],
    ...(o.timeEmbeddingDim === 4 * o.modelChannels ? {} : { time_embedding_dim: o.timeEmbeddingDim }),
    time_embedding_type: Object.entries(timeEmbeddings).find(([, name]) => name === o.timeEmbedding)![0],
    up_block_types: up.types.reverse(),
    upsample_type: up.resample,
  }
}

/** A network has labels or a vector. */
function classEmbedType({ classEmbedding, vectorEmbedding }: ResolvedUNetOptions): 'timestep' | 'identity' | null {
  if (classEmbedding === 'timestep') return 'timestep'
  if (vectorEmbedding === undefined || vectorEmbedding === 'identity') return vectorEmbedding ?? null
  throw unsupported('vectorEmbedding', "'identity'", vectorEmbedding)
}

/** Types of the blocks by level, and the type of resampling that those with attention have in common. */
function blocksOf(
  side: 'Down' | 'Up',
  left: readonly number[],
  rates: readonly number[],
  o: Readonly<Record<'attention' | 'resnet' | 'skip', readonly number[]>>,
): { types: string[]; resample: 'conv' | 'resnet' } {
  const plain = left.filter((rate) => o.attention.includes(rate) && !o.skip.includes(rate))
  const kinds = new Set(plain.map((rate) => o.resnet.includes(rate)))
  if (kinds.size > 1) {
    throw unsupported(`resblock${side}Resolutions`, 'all levels with attention or none', o.resnet)
  }
  const types = rates.map((rate) => {
    const skip = o.skip.includes(rate) ? 'Skip' : ''
    if (o.attention.includes(rate)) return `Attn${skip}${side}Block2D`
    return o.resnet.includes(rate) ? `Resnet${side}sampleBlock2D` : `${skip}${side}Block2D`
  })
  return { types, resample: kinds.has(true) ? 'resnet' : 'conv' }
}

/** null where UNetMidBlock2D's rule gives as many; see diffusersOptions. */
function middleGroups(o: ResolvedUNetOptions): number | null {
  const { middleNormGroups: groups, useScaleShiftNorm } = o
  const normGroups = groupsOf(levelChannels(o)[o.channelMult.length - 1], o.normGroups)
  if (useScaleShiftNorm) return groups === 0 ? null : groups
  if (groups === 0) throw unsupported('middleNormGroups', describe(normGroups), groups)
  return groups === normGroups ? null : groups
}

/** Channels of a head; undefined for one head at every level. */
function headDim(o: ResolvedUNetOptions): number | undefined {
  if (o.numHeadChannels) return o.numHeadChannels
  const heads = [o.numHeads, ...(o.legacy ? [o.numHeadsUpsample] : [])]
  if (heads.every((n) => n === 1)) return undefined
  const channels = levelChannels(o)
  const attention = [...o.attentionResolutions, ...o.upAttentionResolutions]
  const withAttention = channels.filter((_, level) => attention.includes(2 ** level))
  const dims = new Set(withAttention.flatMap((c) => heads.map((n) => c / n)))
  if (o.middleAttention) dims.add(channels[channels.length - 1] / o.numHeads)
  if (dims.size > 1) throw unsupported('numHeads', 'heads of the same number of channels at every level', o.numHeads)
  return dims.values().next().value
}

/**
 * Weights of a UNet with these options, by UNet2DModel's names. The two layouts have the same modules in the same order; only
 * the attention's `qkv` is three modules there.
 */
export function unet2DWeights(
  o: ResolvedUNetOptions,
  weights: Readonly<Record<string, Float32Array>>,
): Record<string, StoredTensor> {
  const own = new UNet(o).parameters.slots
  const theirs = new UNet({ ...o, layout: 'diffusers', useNewAttentionOrder: false }).parameters.slots
  const result: Record<string, StoredTensor> = Object.create(null)
  let next = 0
  const put = (index: number, data: Float32Array) => {
    const { name, shape } = theirs[index]
    result[name] = { dtype: 'F32', shape, data }
  }
  for (const { name, shape } of own) {
    if (/\.qkv\.(weight|bias)$/.test(name)) {
      const order = o.useNewAttentionOrder ? 'qkv-first' : 'heads-first'
      const parts = splitQkv(weights[name], { channels: shape[0] / 3, dim: headDim(o), order })
      // Weight, then bias of each: to_q.weight, to_q.bias, to_k.weight, ...
      const first = name.endsWith('.weight') ? next : next - 5
      for (const [i, part] of parts.entries()) put(first + 2 * i, part)
      next = name.endsWith('.weight') ? next + 6 : next
    } else put(next++, weights[name])
  }
  return result
}

/** The way back: weights of a UNet in diffusers' layout by the names of the same network in CompVis'. */
export function openaiWeights(
  o: ResolvedUNetOptions,
  weights: Readonly<Record<string, Float32Array>>,
): Record<string, StoredTensor> {
  const theirs = new UNet(o).parameters.slots
  const own = new UNet({ ...o, layout: 'openai' }).parameters.slots
  const result: Record<string, StoredTensor> = Object.create(null)
  let next = 0
  const take = (index: number) => weights[theirs[index].name]
  for (const { name, shape } of own) {
    let data: Float32Array
    if (/\.qkv\.(weight|bias)$/.test(name)) {
      const first = name.endsWith('.weight') ? next : next - 5
      const parts = [take(first), take(first + 2), take(first + 4)]
      data = mergeQkv(parts, { channels: shape[0] / 3, dim: headDim(o) })
      next = name.endsWith('.weight') ? next + 6 : next
    } else data = take(next++)
    result[name] = { dtype: 'F32', shape, data }
  }
  return result
}

/** Rows in the order [head][q k v][channel]. */
function mergeQkv(parts: readonly Float32Array[], o: { channels: number; dim: number | undefined }): Float32Array {
  const { channels, dim = channels } = o
  const block = dim * (parts[0].length / channels)
  const merged = new Float32Array(3 * parts[0].length)
  for (let head = 0; head < channels / dim; head++) {
    for (const [which, part] of parts.entries()) {
      merged.set(part.subarray(head * block, (head + 1) * block), (3 * head + which) * block)
    }
  }
  return merged
}

/** The rows of q, k and v. In `qkv` they are ordered [head][q k v][channel], or with 'qkv-first' [q k v][head][channel]. */
function splitQkv(
  data: Float32Array,
  o: { channels: number; dim: number | undefined; order: 'heads-first' | 'qkv-first' },
): Float32Array[] {
  const { channels, dim = channels } = o
  const columns = data.length / (3 * channels)
  return [0, 1, 2].map((which) => {
    if (o.order === 'qkv-first') return data.slice(which * channels * columns, (which + 1) * channels * columns)
    const part = new Float32Array(channels * columns)
    const block = dim * columns
    for (let head = 0; head < channels / dim; head++) {
      const begin = (3 * head + which) * block
      part.set(data.subarray(begin, begin + block), head * block)
    }
    return part
  })
}

export function unsupported(argument: string, expected: string, value: unknown, owner = 'UNet2DModel'): DiffusionError {
  const received = describe(value)
  const message = `diffusers' ${owner} has no ${argument} of ${received}, only ${expected}`
  return new DiffusionError('unsupported', message, { argument, expected, received })
}
