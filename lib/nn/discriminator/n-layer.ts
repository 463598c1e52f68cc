/**
 * taming-transformers' NLayerDiscriminator, pix2pix's PatchGAN (Isola et al. 2017, section 3.2.2): a logit for each patch of an image,
 * which says whether it is real. Built for training alone: norms take the statistics of the batch.
 */
import { invalidArgument } from '../../errors'
import type { Graph, Value } from '../../graph'
import { normalOf, type Parameter, ParameterTable, Scope, uniformFanIn } from '../parameters'
import { ActNorm, BatchNorm, type PatchNorm } from './norms'

export interface DiscriminatorShape {
  readonly inChannels: number
  /** Channels after the first convolution; each further one doubles them, up to 8 times. */
  readonly ndf: number
  /** Convolutions that halve the map. */
  readonly nLayers: number
  /** ActNorm in place of batch norm. */
  readonly useActnorm: boolean
}

/** pytorch's weights_init of pix2pix, which taming's module applies. */
const initial = normalOf(0.02)
const kernel = 4

interface PatchConv {
  readonly weight: Parameter
  readonly bias?: Parameter
  readonly stride: 1 | 2
  readonly norm?: PatchNorm
}

export class NLayerDiscriminator {
  readonly parameters = new ParameterTable()
  readonly #convs: readonly PatchConv[]

  constructor(readonly shape: DiscriminatorShape) {
    const { inChannels, ndf, nLayers, useActnorm } = shape
    const main = new Scope(this.parameters, 'main')
    const channels = [inChannels, ...Array.from({ length: nLayers + 1 }, (_, i) => ndf * Math.min(2 ** i, 8)), 1]
    let module = 0 // its number in the nn.Sequential
    this.#convs = channels.slice(1).map((out, i) => {
      const isInner = i > 0 && i <= nLayers
      const fanIn = channels[i] * kernel ** 2
      const scope = main.at(String(module))
      const weight = scope.parameter('weight', [out, channels[i], kernel, kernel], initial, 'conv2d')
      const hasBias = !isInner || useActnorm // a batch norm takes it out again
      const bias = hasBias ? scope.parameter('bias', [out], uniformFanIn(fanIn)) : undefined
      const norm = isInner ? new (useActnorm ? ActNorm : BatchNorm)(main.at(String(module + 1)), out) : undefined
      module += isInner ? 3 : 2
      return { weight, ...(bias && { bias }), stride: i < nLayers ? 2 : 1, ...(norm && { norm }) }
    })
  }

  /** In order. */
  get norms(): readonly PatchNorm[] {
    return this.#convs.flatMap(({ norm }) => norm ?? [])
  }

  /** Pixels that a norm takes the statistics of, in all images of a batch [n, c, h, w]. */
  pixelsAt(norm: PatchNorm, [n, , height, width]: readonly number[]): number {
    let [h, w] = [height, width]
    for (const { norm: own, stride } of this.#convs) {
      ;[h, w] = stride === 2 ? [Math.floor(h / 2), Math.floor(w / 2)] : [h - 1, w - 1]
      if (own === norm) break
    }
    return n * h * w
  }

  /** The least height and width of an image. */
  get leastSize(): number {
    return 3 * 2 ** this.shape.nLayers
  }

  /** Throws `invalid-argument` for images of which no patch would be left. */
  check(height: number, width: number): void {
    if (Math.min(height, width) >= this.leastSize) return
    const expected = `fewer, for images of ${height}x${width}: ${this.shape.nLayers} need ${this.leastSize} pixels each way`
    throw invalidArgument('discNumLayers', expected, this.shape.nLayers)
  }

  /** Images [n, h, w, c] to logits [n, h', w', 1]. `observe` is told what each norm is given. */
  build(graph: Graph, x: Value, observe?: (norm: PatchNorm, value: Value) => void): Value {
    const last = this.#convs.length - 1
    return this.#convs.reduce((value, { weight, bias, stride, norm }, i) => {
      const padding = [1, 1, 1, 1]
      const y = graph.conv2d(value, graph.parameter(weight), bias && graph.parameter(bias), { stride, padding })
      if (norm) observe?.(norm, y)
      return i === last ? y : leakyRelu(graph, norm?.build(graph, y) ?? y)
    }, x)
  }
}

/** max(x, 0.2 x). */
function leakyRelu(graph: Graph, x: Value): Value {
  const four = graph.relu(graph.divSample(x, 0.25))
  return graph.divSample(graph.add(x, four), 5)
}
