/**
 * Building blocks of the networks. A layer registers its parameters when it is constructed, in the order of PyTorch's
 * state_dict, and appends its nodes to a graph each time `build` is called.
 */
import { DiffusionError, invalidArgument } from '../errors'
import type { Value } from '../graph'
import type { BuildContext } from './network'
import {
  normalOf,
  ones,
  type Parameter,
  type ParameterTable,
  type Scope,
  standardNormal,
  uniformFanIn,
  zeros,
} from './parameters'

/** A node of one input, named by `scope` in the reports to `BuildContext.observe`. */
export interface Layer {
  build(context: BuildContext, x: Value): Value
}

/** Tells whoever watches the build what the module of this name computed; see BuildContext.observe. */
export function observed(context: BuildContext, name: string, value: Value): Value {
  context.observe?.(name, value)
  return value
}

/** torch.nn.Conv2d. padding: on all four sides, or [top, left, bottom, right]. */
export class Conv2d implements Layer {
  readonly #weight: Parameter
  readonly #bias?: Parameter

  constructor(
    readonly scope: Scope,
    inChannels: number,
    outChannels: number,
    private readonly o: {
      kernel: number
      stride?: number
      padding?: number | readonly number[]
      zero?: boolean
      bias?: boolean
    },
  ) {
    const init = o.zero ? zeros : uniformFanIn(inChannels * o.kernel ** 2)
    this.#weight = scope.parameter('weight', [outChannels, inChannels, o.kernel, o.kernel], init, 'conv2d')
    if (o.bias ?? true) this.#bias = scope.parameter('bias', [outChannels], init)
  }

  build({ graph }: BuildContext, x: Value): Value {
    const { stride = 1, padding = 0 } = this.o
    return graph.conv2d(x, graph.parameter(this.#weight), this.#bias && graph.parameter(this.#bias), {
      stride,
      padding: typeof padding === 'number' ? [padding, padding, padding, padding] : padding,
    })
  }
}

/**
 * torch.nn.Linear on the channels of every pixel. `conv1d`: its weight has the shape of a torch.nn.Conv1d, [out, in, 1];
 * `conv2d`: of a torch.nn.Conv2d, [out, in, 1, 1]. `std`: weights are normal at first and the bias 0.
 * `adaptable` false: no low-rank update is of it.
 */
export class Linear implements Layer {
  readonly slots: { readonly weight: Parameter; readonly bias?: Parameter }

  constructor(
    scope: Scope,
    inChannels: number,
    outChannels: number,
    o: { conv1d?: boolean; conv2d?: boolean; zero?: boolean; bias?: boolean; std?: number; adaptable?: boolean } = {},
  ) {
    const init = o.zero ? zeros : o.std === undefined ? uniformFanIn(inChannels) : normalOf(o.std)
    const biasInit = o.std === undefined ? init : zeros
    const shape = [outChannels, inChannels, ...(o.conv1d ? [1] : o.conv2d ? [1, 1] : [])]
    const weight = scope.parameter('weight', shape, init, (o.adaptable ?? true) ? 'linear' : undefined)
    this.slots = (o.bias ?? true) ? { weight, bias: scope.parameter('bias', [outChannels], biasInit) } : { weight }
  }

  build({ graph }: BuildContext, x: Value): Value {
    const { weight, bias } = this.slots
    return graph.linear(x, graph.parameter(weight), bias && graph.parameter(bias))
  }

  /** Has the parameters of layers lie side by side, so that `buildAll` computes them as one. */
  static placeTogether(table: ParameterTable, layers: readonly Linear[]): void {
    table.place(layers.map(({ slots }) => slots.weight))
    table.place(layers.flatMap(({ slots }) => slots.bias ?? []))
  }

  /** What each of the layers makes of x. */
  static buildAll({ graph }: BuildContext, x: Value, layers: readonly Linear[]): Value[] {
    return graph.linears(
      x,
      layers.map(({ slots }) => slots),
    )
  }
}

/** torch.nn.Embedding: labels i32 [n, 1, 1, 1] to [n, 1, 1, dim]. */
export class Embedding implements Layer {
  readonly #weight: Parameter

  constructor(scope: Scope, entries: number, dim: number) {
    this.#weight = scope.parameter('weight', [entries, dim], standardNormal)
  }

  build({ graph }: BuildContext, index: Value): Value {
    return graph.embedding(index, graph.parameter(this.#weight))
  }
}

export interface NormOptions {
  readonly groups: number
  readonly eps: number
}

export class GroupNorm implements Layer {
  readonly #gamma: Parameter
  readonly #beta: Parameter

  constructor(
    readonly scope: Scope,
    channels: number,
    private readonly o: NormOptions,
  ) {
    if (channels % o.groups !== 0) {
      throw new DiffusionError(
        'invalid-argument',
        `${scope.prefix}: ${channels} channels can't be split into ${o.groups} groups for normalization`,
        {
          argument: 'modelChannels',
          expected: `channels that are multiples of ${o.groups}`,
          received: String(channels),
        },
      )
    }
    this.#gamma = scope.parameter('weight', [channels], ones)
    this.#beta = scope.parameter('bias', [channels], zeros)
  }

  build(context: BuildContext, x: Value): Value {
    const { graph } = context
    const y = graph.groupNorm(x, graph.parameter(this.#gamma), graph.parameter(this.#beta), this.o)
    return observed(context, this.scope.prefix, y)
  }
}

/** torch.nn.LayerNorm of the channels of every pixel. */
export class LayerNorm implements Layer {
  readonly #gamma: Parameter
  readonly #beta: Parameter

  constructor(
    scope: Scope,
    channels: number,
    private readonly o: { readonly eps: number } = { eps: 1e-5 },
  ) {
    this.#gamma = scope.parameter('weight', [channels], ones)
    this.#beta = scope.parameter('bias', [channels], zeros)
  }

  build({ graph }: BuildContext, x: Value): Value {
    return graph.layerNorm(x, graph.parameter(this.#gamma), graph.parameter(this.#beta), this.o)
  }
}

/** `layer` is unique among the dropouts of a network: it tells their masks apart. */
export class Dropout implements Layer {
  constructor(private readonly o: { readonly p: number; readonly layer: number }) {}

  build({ graph, train, rng }: BuildContext, x: Value): Value {
    if (!train || this.o.p === 0) return x
    if (!rng) throw invalidArgument('rng', 'a value, since the network has dropout and is built for training', rng)
    return graph.dropout(x, rng, this.o)
  }
}

/** Halves the map: a 3x3 convolution of stride 2, or without `conv` the mean of 2x2. */
export class Downsample implements Layer {
  readonly #conv?: Conv2d

  /** padding 1: on all sides; 0: one row and column at the bottom and right (diffusers' Downsample2D). */
  constructor(scope: Scope, channels: number, o: { conv: boolean; name: string; padding: 0 | 1 }) {
    const padding = o.padding === 1 ? 1 : [0, 0, 1, 1]
    if (o.conv) this.#conv = new Conv2d(scope.at(o.name), channels, channels, { kernel: 3, stride: 2, padding })
  }

  build(context: BuildContext, x: Value): Value {
    return this.#conv ? this.#conv.build(context, x) : context.graph.avgPool(x, { kernel: 2 })
  }
}

/** Doubles the map by repeating pixels, then a 3x3 convolution if `conv`. */
export class Upsample implements Layer {
  readonly #conv?: Conv2d

  constructor(scope: Scope, channels: number, o: { conv: boolean }) {
    if (o.conv) this.#conv = new Conv2d(scope.at('conv'), channels, channels, { kernel: 3, padding: 1 })
  }

  build(context: BuildContext, x: Value): Value {
    const y = context.graph.upsampleNearest(x, { factor: 2 })
    return this.#conv ? this.#conv.build(context, y) : y
  }
}
