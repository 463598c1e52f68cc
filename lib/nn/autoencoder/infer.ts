/** The options of latent-diffusion's autoencoders by the names and shapes of their state dicts. */
import { ShapeReader, type Shapes } from '../shapes'
import type { AutoencoderConfig } from './options'

export interface InferredAutoencoder {
  readonly ddconfig: AutoencoderConfig
  readonly embedDim: number
  /** Entries of the codebook; undefined for an AutoencoderKL. */
  readonly nEmbed?: number
}

/** `resolution` of published configurations: no shape says it. */
const resolution = 256

/** `what` begins messages. Throws `unsupported` where something does not follow. */
export function inferAutoencoder(shapes: Shapes, what: string): InferredAutoencoder {
  const s = new ShapeReader(shapes, what)
  const [ch, inChannels] = s.of('encoder.conv_in.weight', 4)
  const [outCh] = s.of('decoder.conv_out.weight', 4)
  const [, zChannels] = s.of('decoder.conv_in.weight', 4)
  const [, embedDim] = s.of('post_quant_conv.weight', 4)
  const levels = s.count((level) => `encoder.down.${level}.block.0.conv1.weight`)
  const blocks = Array.from({ length: levels }, (_, level) =>
    s.count((i) => `encoder.down.${level}.block.${i}.conv1.weight`),
  )
  if (new Set(blocks).size !== 1) throw s.unknown('its levels have different numbers of blocks')
  const attended = blocks.map((_, level) => s.has(`encoder.down.${level}.attn.0.q.weight`))
  const isVQ = s.has('quantize.embedding.weight')
  return {
    ddconfig: {
      ch,
      outCh,
      chMult: blocks.map((_, level) => s.of(`encoder.down.${level}.block.0.conv1.weight`, 4)[0] / ch),
      numResBlocks: blocks[0],
      attnResolutions: attended.flatMap((has, level) => (has ? [resolution / 2 ** level] : [])),
      inChannels,
      resolution,
      zChannels,
      doubleZ: !isVQ,
      attnType: s.has('encoder.mid.attn_1.q.weight') ? 'vanilla' : 'none',
      resampWithConv: levels === 1 || s.has('encoder.down.0.downsample.conv.weight'),
    },
    embedDim,
    ...(isVQ && { nEmbed: s.of('quantize.embedding.weight', 2)[0] }),
  }
}
