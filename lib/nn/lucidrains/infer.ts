/** The options of a LucidrainsUNet by the names and shapes of its state dict. */
import { DiffusionError, quote } from '../../errors'
import type { LucidrainsUNetOptions } from './options'

type Shapes = Readonly<Record<string, { readonly shape: readonly number[] }>>

/** A name that this Unet alone has, with what is before it in a file. */
export const lucidrainsAnchor = 'init_conv.weight'

/** Of what the file does not say, the defaults. `what` begins the messages. Throws `unsupported` for an older Unet, and `bad-file`. */
export function inferLucidrainsOptions(shapes: Shapes, what: string): LucidrainsUNetOptions {
  const has = (name: string) => Object.hasOwn(shapes, name)
  const shapeOf = (name: string, rank: number): readonly number[] => {
    const shape = has(name) ? shapes[name].shape : []
    if (shape.length === rank && shape.every((extent) => extent > 0)) return shape
    const message = `${what}: its Unet has no ${quote(name)} of ${rank} dimensions`
    throw new DiffusionError('bad-file', message, { argument: 'path', expected: name })
  }
  const isOld = has('downs.0.0.block1.norm.weight') || (has('downs.0.0.block1.proj.weight') && !has('downs.0.2.mem_kv'))
  if (isOld) {
    const message = `${what} is of an older version of denoising-diffusion-pytorch, with other norms or without memory in its attention, which is not available`
    throw new DiffusionError('unsupported', message, { argument: 'path' })
  }
  const [initDim, inChannels] = shapeOf(lucidrainsAnchor, 4)
  const [timeDim, fourierDim] = shapeOf('time_mlp.1.weight', 2)
  const dim = timeDim / 4
  const [outDim] = shapeOf('final_conv.weight', 4)
  const selfCondition = inChannels === 2 * outDim
  const channels = selfCondition ? inChannels / 2 : inChannels
  const levels = Object.keys(shapes).filter((name) => /^downs\.\d{1,2}\.2\.mem_kv$/.test(name)).length
  const attentions = Array.from({ length: levels }, (_, level) => {
    const name = `downs.${level}.2`
    const full = has(`${name}.to_out.weight`)
    const [, heads, first, second] = shapeOf(`${name}.mem_kv`, 4)
    return { full, heads, dimHead: full ? second : first }
  })
  const dimMults = attentions.map((_, level) => {
    const name = has(`downs.${level}.3.1.weight`) ? `downs.${level}.3.1.weight` : `downs.${level}.3.weight`
    return shapeOf(name, 4)[0] / dim
  })
  return {
    architecture: 'lucidrains',
    dim,
    initDim,
    outDim,
    dimMults,
    channels,
    selfCondition,
    randomFourierFeatures: fourierDim !== dim,
    learnedVariance: outDim === 2 * channels,
    attnHeads: attentions.map(({ heads }) => heads),
    attnDimHead: attentions.map(({ dimHead }) => dimHead),
    fullAttn: attentions.map(({ full }) => full),
  }
}
