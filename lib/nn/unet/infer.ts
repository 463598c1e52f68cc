/** The options of openaimodel's UNet by the names and shapes of its state dict. */
import { ShapeReader, type Shapes } from '../shapes'
import type { UNetOptions } from './options'

interface Level {
  readonly channels: number
  blocks: number
  attends: boolean
  depth: number
}

/**
 * Of what shapes don't say, what Stable Diffusion has: 8 heads, and with linear projections heads of 64 channels. `what` begins messages.
 * Throws `unsupported` where something else does not follow.
 */
export function inferUNetOptions(shapes: Shapes, imageSize: number, what: string): UNetOptions {
  const s = new ShapeReader(shapes, what)
  const [modelChannels, inChannels] = s.of('input_blocks.0.0.weight', 4)
  const [outChannels] = s.of('out.2.weight', 4)
  const levels = levelsOf(s)
  const counts = new Set(levels.map(({ blocks }) => blocks))
  if (counts.size !== 1) throw s.unknown('its levels have different numbers of blocks')
  const depths = new Set(levels.filter(({ attends }) => attends).map(({ depth }) => depth))
  if (depths.size > 1) throw s.unknown('its transformers have different numbers of blocks')
  const [first] = levels
  const rows = s.of('input_blocks.1.0.emb_layers.1.weight', 2)[0]
  const middle = 'middle_block.1.transformer_blocks.0.attn2.to_k.weight'
  const isLinear = s.has('middle_block.1.proj_in.weight') && shapes['middle_block.1.proj_in.weight'].shape.length === 2
  return {
    imageSize,
    inChannels,
    outChannels,
    modelChannels,
    channelMult: levels.map(({ channels }) => channels / modelChannels),
    numResBlocks: first.blocks,
    attentionResolutions: levels.flatMap(({ attends }, level) => (attends ? [2 ** level] : [])),
    useScaleShiftNorm: rows === 2 * first.channels,
    legacy: false,
    ...(s.has('label_emb.weight') && { numClasses: s.of('label_emb.weight', 2)[0] }),
    ...(s.has('label_emb.0.0.weight') && {
      vectorDim: s.of('label_emb.0.0.weight', 2)[1],
      vectorEmbedding: 'mlp' as const,
    }),
    ...(s.has(middle) && {
      useSpatialTransformer: true,
      contextDim: s.of(middle, 2)[1],
      transformerDepth: s.count((i) => `middle_block.1.transformer_blocks.${i}.norm1.weight`),
      useLinearInTransformer: isLinear,
    }),
    ...(isLinear ? { numHeadChannels: 64 } : { numHeads: 8 }),
  }
}

/** Residual blocks up to a convolution that halves the map, which ends a level. */
function levelsOf(s: ShapeReader): Level[] {
  const levels: Level[] = []
  let level: Level | undefined
  for (let i = 1; s.has(`input_blocks.${i}.0.in_layers.2.weight`) || s.has(`input_blocks.${i}.0.op.weight`); i++) {
    const block = `input_blocks.${i}`
    if (s.has(`${block}.0.op.weight`)) {
      level = undefined
      continue
    }
    const [channels] = s.of(`${block}.0.in_layers.2.weight`, 4)
    if (!level) {
      level = { channels, blocks: 0, attends: false, depth: 0 }
      levels.push(level)
    }
    level.blocks++
    if (s.has(`${block}.1.qkv.weight`)) throw s.unknown('the heads of its attention are in no shape')
    const depth = s.count((n) => `${block}.1.transformer_blocks.${n}.norm1.weight`)
    if (depth > 0) Object.assign(level, { attends: true, depth })
  }
  if (levels.length === 0) throw s.unknown('it has no residual blocks')
  return levels
}
