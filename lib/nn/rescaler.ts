/** The network of ldm's SpatialRescaler: maps resampled in stages, then perhaps a 1x1 convolution. */
import type { Graph, Value } from '../graph'
import { boolean, integer, number, oneOf, parseOptions, type SchemaOf } from '../options'
import { Conv2d } from './layers'
import { ParameterTable, Scope } from './parameters'
import { type ResamplingMethod, resampledSize, resamplingMatrix, resamplingMethods } from './resampling'

/** Of SpatialRescaler, with ldm's defaults. */
export interface RescalerOptions {
  /** How often a map is resampled. Default 1. */
  nStages?: number
  /** 'area' is the mean of the pixels that an output pixel covers; bicubic has a = -0.75. Default 'bilinear'. */
  method?: ResamplingMethod
  /** What height and width become times this in each stage, rounded down. Default 0.5. */
  multiplier?: number
  /** Default 3. */
  inChannels?: number
  /** With it, a 1x1 convolution to so many channels comes last. Default: none. */
  outChannels?: number
  /** Of the convolution. Default false. */
  bias?: boolean
}

export const rescalerSchema = {
  nStages: integer(1, { min: 0, max: 64 }),
  method: oneOf<ResamplingMethod>(resamplingMethods, 'bilinear'),
  multiplier: number(0.5, { min: 2 ** -16, max: 2 ** 16 }),
  inChannels: integer(3, { min: 1, max: 2 ** 16 }),
  outChannels: integer(undefined, { min: 1, max: 2 ** 16 }),
  bias: boolean(false),
} satisfies SchemaOf<RescalerOptions>

export type ResolvedRescalerOptions = Readonly<
  Required<Omit<RescalerOptions, 'outChannels'>> & Pick<RescalerOptions, 'outChannels'>
>

export class Rescaler {
  readonly options: ResolvedRescalerOptions
  readonly parameters = new ParameterTable()
  readonly #mapper?: Conv2d

  /** Throws `invalid-argument` and `unknown-option`. */
  constructor(options: RescalerOptions = {}) {
    const o = parseOptions('SpatialRescaler', options, rescalerSchema)
    this.options = Object.freeze(o)
    if (o.outChannels === undefined) return
    const scope = new Scope(this.parameters, 'channel_mapper')
    this.#mapper = new Conv2d(scope, o.inChannels, o.outChannels, { kernel: 1, bias: o.bias })
  }

  get outChannels(): number {
    return this.options.outChannels ?? this.options.inChannels
  }

  /** Height or width of what a map of this one becomes. Throws `invalid-argument` where nothing would be left. */
  sizeOf(size: number): number {
    for (let i = 0; i < this.options.nStages; i++) size = resampledSize(size, this.options.multiplier)
    return size
  }

  /** x [n, h, w, inChannels] to [n, sizeOf(h), sizeOf(w), outChannels]. */
  build(graph: Graph, x: Value): Value {
    for (let i = 0; i < this.options.nStages; i++) x = this.#resample(graph, x)
    return this.#mapper ? this.#mapper.build({ graph, train: false }, x) : x
  }

  /** A product with each axis as the channels. */
  #resample(graph: Graph, x: Value): Value {
    const { method, multiplier } = this.options
    const [n, height, width, channels] = x.dims
    const times = (y: Value, size: number) => {
      const matrix = resamplingMatrix(method, size, multiplier)
      return graph.linear(y, graph.constant(matrix, [matrix.length / size, 1, 1, size]))
    }
    const rows = graph.reshape(graph.toNchw(x), [n, 1, channels * height, width])
    const narrow = times(rows, width)
    const newWidth = narrow.dims[3]
    const columns = graph.reshape(graph.toNchw(narrow), [n, 1, newWidth * channels, height])
    const small = times(columns, height)
    return graph.reshape(graph.toNchw(small), [n, small.dims[3], newWidth, channels])
  }
}
