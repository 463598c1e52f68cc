/** What InceptionV3 is made of: convolutions with a ReLU behind them, pools, and how they stand together. */
import type { Graph, Value } from '../../graph'
import { type Scope, zeros } from '../parameters'

/** x [n, h, w, c] to another map. */
export type Layer = (graph: Graph, x: Value) => Value

/** One after another. */
export const chain =
  (...layers: readonly Layer[]): Layer =>
  (graph, x) =>
    layers.reduce((value, layer) => layer(graph, value), x)

/** Each of x, beside each other on the channels. */
export const branches =
  (...layers: readonly Layer[]): Layer =>
  (graph, x) =>
    graph.concat(layers.map((layer) => layer(graph, x)))

const everySide = (padding: number) => [padding, padding, padding, padding]

/** The largest of 3x3 pixels, which halves the map. */
export const halvingPool: Layer = (graph, x) => graph.maxPool(x, { kernel: 3, stride: 2, padding: everySide(0) })
/** The same at each pixel. */
export const maxPool: Layer = (graph, x) => graph.maxPool(x, { kernel: 3, stride: 1, padding: everySide(1) })
/** The mean of 3x3 pixels, or at the border of those there are. */
export const meanPool: Layer = (graph, x) => graph.meanPool(x, { kernel: 3, stride: 1, padding: everySide(1) })

export interface ConvOptions {
  /** Default 1. */
  readonly kernel?: number | readonly [rows: number, columns: number]
  /** Default 1. */
  readonly stride?: number
  /** 'same' keeps the size of the map, 'valid' has no padding. Default 'same'. */
  readonly padding?: 'same' | 'valid'
}

/** Of the network's input, at any width. */
export const imageChannels = 3

/** Where the convolutions of a block register their parameters. Channels are said as those of the whole network. */
export class Convolutions {
  constructor(
    private readonly scope: Scope,
    /** How much of each layer's channels there is. */
    private readonly width: number,
  ) {}

  at(name: string): Convolutions {
    return new Convolutions(this.scope.at(name), this.width)
  }

  /** torchvision's BasicConv2d with its norm folded into weight and bias: fold.ts. */
  conv(name: string, [inChannels, outChannels]: readonly [number, number], o: ConvOptions = {}): Layer {
    const { kernel = 1, stride = 1, padding = 'same' } = o
    const [rows, columns] = typeof kernel === 'number' ? [kernel, kernel] : kernel
    const ins = inChannels === imageChannels ? imageChannels : inChannels * this.width
    const outs = outChannels * this.width
    const scope = this.scope.at(name)
    const weight = scope.parameter('conv.weight', [outs, ins, rows, columns], zeros, 'conv2d')
    const bias = scope.parameter('bn.bias', [outs], zeros)
    const [top, left] = padding === 'same' ? [(rows - 1) / 2, (columns - 1) / 2] : [0, 0]
    return (graph, x) => {
      const y = graph.conv2d(x, graph.parameter(weight), graph.parameter(bias), {
        stride,
        padding: [top, left, top, left],
      })
      return graph.relu(y)
    }
  }
}
