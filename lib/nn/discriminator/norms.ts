/** The norms of a discriminator in training: torch's BatchNorm2d, and taming-transformers' ActNorm. */
import type { Graph, Value } from '../../graph'
import { normalOf, ones, type Parameter, type Scope, type Stored, zeros } from '../parameters'

export interface PatchNorm {
  /** Of its names in the state dict. */
  readonly prefix: string
  readonly channels: number
  /** x [n, h, w, c]. */
  build(graph: Graph, x: Value): Value
}

/** By the mean and the biased variance of each channel over the batch: a group norm of the whole batch as one map. */
export class BatchNorm implements PatchNorm {
  readonly prefix: string
  readonly #gamma: Parameter
  readonly #beta: Parameter

  constructor(
    scope: Scope,
    readonly channels: number,
  ) {
    this.prefix = scope.prefix
    this.#gamma = scope.parameter('weight', [channels], normalOf(0.02, 1))
    this.#beta = scope.parameter('bias', [channels], zeros)
  }

  build(graph: Graph, x: Value): Value {
    const [n, h, w, c] = x.dims
    const whole = graph.reshape(x, [1, n * h, w, c])
    const o = { groups: c, eps: 1e-5 }
    return graph.reshape(graph.groupNorm(whole, graph.parameter(this.#gamma), graph.parameter(this.#beta), o), x.dims)
  }
}

/** scale (x + loc), of which the first batch makes its output's mean 0 and deviation 1 (Kingma & Dhariwal 2018, section 3.1). */
export class ActNorm implements PatchNorm {
  readonly prefix: string
  readonly #loc: Parameter
  readonly #scale: Parameter

  constructor(
    scope: Scope,
    readonly channels: number,
  ) {
    this.prefix = scope.prefix
    // A row, which `embedding` gives to each sample.
    const stored: Stored = { axes: [1, channels, 1, 1], order: [0, 1, 2, 3], graphShape: [1, channels] }
    this.#loc = scope.parameter('loc', [1, channels, 1, 1], zeros, undefined, stored)
    this.#scale = scope.parameter('scale', [1, channels, 1, 1], ones, undefined, stored)
  }

  build(graph: Graph, x: Value): Value {
    const [n] = x.dims
    const first = graph.constant(new Int32Array(n), [n, 1, 1, 1])
    const row = (parameter: Parameter) => graph.embedding(first, graph.parameter(parameter))
    const none = graph.constant(new Float32Array(n * this.channels), [n, 1, 1, this.channels])
    const scale = graph.affine(row(this.#scale), { scale: 1, shift: -1 }) // scaleShift adds 1
    return graph.scaleShift(graph.addSample(x, row(this.#loc)), graph.concat([scale, none]))
  }
}

/** Mean and biased variance of each channel of x [n, h, w, c] over the batch, [c, 1, 1, 1]. No gradient. */
export function batchStatistics(graph: Graph, x: Value): { mean: Value; variance: Value } {
  const [n, h, w, c] = x.dims
  const count = n * h * w
  const filled = (value: number, length: number) => new Float32Array(length).fill(value)
  const rows = graph.reshape(graph.toNchw(graph.reshape(x, [1, n * h, w, c])), [c, 1, 1, count])
  const mean = graph.linear(rows, graph.constant(filled(1 / count, count), [1, 1, 1, count]))
  const each = graph.constant(
    Int32Array.from({ length: c }, (_, i) => i),
    [c, 1, 1, 1],
  )
  const one = graph.constant(filled(1, c), [c, 1, 1, 1])
  const centred = graph.timestepAffine(rows, one, each, graph.constant(filled(-1, count), [1, 1, 1, count]), mean)
  const zero = graph.constant(new Float32Array(c * count), [c, 1, 1, count])
  return { mean, variance: graph.loss(centred, zero, { type: 'l2' }) }
}
