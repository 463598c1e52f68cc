/**
 * Learned perceptual similarity (Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", eq. 1):
 * two images as VGG16's five relu maps see them.
 */
import type { Graph, Value } from '../../graph'
import { Conv2d, type Layer } from '../layers'
import type { BuildContext } from '../network'
import { ones, type Parameter, ParameterTable, Scope } from '../parameters'

/** torchvision's numbers of VGG16's convolutions in `features`, up to each of the five maps; a pool is before each but the first. */
export const slices: readonly (readonly number[])[] = [
  [0, 2],
  [5, 7],
  [10, 12, 14],
  [17, 19, 21],
  [24, 26, 28],
]

/** Channels of images, as VGG16 was trained. */
const colours = 3
/** lpips' ScalingLayer: ImageNet's means and deviations for images from -1 to 1. */
const shift = [-0.03, -0.088, -0.188]
const scale = [0.458, 0.448, 0.45]

export class LpipsNetwork {
  /**
   * Convolutions by torchvision's names, 'features.0.weight'; and 'lin0', the roots of the first linear layer's weights: the distance
   * is then the squared one of scaled features.
   */
  readonly parameters = new ParameterTable()
  readonly #convs: readonly (readonly Layer[])[]
  readonly #roots: readonly Parameter[]

  /** Channels of each of the five maps: VGG16's are [64, 128, 256, 512, 512]. */
  constructor(readonly channels: readonly number[]) {
    const features = new Scope(this.parameters, 'features')
    let before = colours
    this.#convs = slices.map((numbers, i) =>
      numbers.map((number) => {
        const conv = new Conv2d(features.at(String(number)), before, channels[i], { kernel: 3, padding: 1 })
        before = channels[i]
        return conv
      }),
    )
    this.#roots = channels.map((count, i) => this.parameters.add(`lin${i}`, [count], ones))
  }

  /** The distance of each image of x from that of y, both [n, h, w, c] from -1 to 1, c 1 or 3: [n, 1, 1, 1]. */
  build(graph: Graph, x: Value, y: Value): Value {
    const [ofX, ofY] = [x, y].map((image) => this.#maps(graph, image))
    const distances = ofX.map((map, i) => {
      // The mean over the channels, of features whose squares sum up to c times the weights.
      return graph.loss(this.#scaled(graph, map, i), this.#scaled(graph, ofY[i], i), { type: 'l2' })
    })
    return distances.reduce((sum, distance) => graph.add(sum, distance))
  }

  #scaled(graph: Graph, map: Value, i: number): Value {
    return graph.rmsNorm(map, graph.parameter(this.#roots[i]), { eps: 1e-10 })
  }

  #maps(graph: Graph, image: Value): Value[] {
    const context: BuildContext = { graph, train: false }
    const maps: Value[] = []
    let value = standardized(graph, image.dims[3] === 1 ? graph.concat([image, image, image]) : image)
    for (const [i, convs] of this.#convs.entries()) {
      if (i > 0) value = halvedByMaximum(graph, value)
      for (const conv of convs) value = graph.relu(conv.build(context, value))
      maps.push(value)
    }
    return maps
  }
}

/** (x - shift) / scale by channel. */
function standardized(graph: Graph, x: Value): Value {
  const [n] = x.dims
  const each = [...scale.map((s) => 1 / s - 1), ...scale.map((s, c) => -shift[c] / s)] // scaleShift adds 1
  const all = Float32Array.from({ length: n * 2 * colours }, (_, i) => each[i % (2 * colours)])
  return graph.scaleShift(x, graph.constant(all, [n, 1, 1, 2 * colours]))
}

/** MaxPool2d(2), with a gradient: the largest of the four maps of every other pixel. An odd last row or column is dropped. */
function halvedByMaximum(graph: Graph, x: Value): Value {
  const [, height, width] = x.dims
  const places = [0, 1].flatMap((top) =>
    [0, 1].map((left) => {
      // From (top, left) on, as many as there are pairs.
      const padding = [-top, -left, top - 1 - (height % 2), left - 1 - (width % 2)]
      return graph.firResample(x, { taps: [1], down: 2, padding })
    }),
  )
  return places.reduce((largest, place) => {
    return graph.add(largest, graph.relu(graph.add(place, graph.divSample(largest, -1))))
  })
}
