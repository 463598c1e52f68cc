/**
 * What predicts the noise (or the clean image): a network that becomes part of the graph, or a function of the user's
 * that is called between two programs. Both offer the same three things, so that nobody else tells them apart:
 * `build` adds the output's value to a graph, `bindings` is what that graph then needs at run time, `check` says
 * whether a shape is possible.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import type { Device } from '../../device'
import { DiffusionError, describe, invalidArgument } from '../../errors'
import type { Graph, Value } from '../../graph'
import type { NativeBuffer } from '../../native'
import type { Conditioning, Network, Prepared } from '../../nn/network'
import { Weights } from '../../nn/weights'
import type { Seed } from '../../options'
import type { TablePlace } from '../../parameter-slot'
import type { Bindings } from '../../program'
import { type Shape, sameShape, sizeOf, Tensor } from '../../tensor'
import { type Condition, type ConditionKind, conditionBindings, conditionInputs, type MadeCondition } from './condition'
import type { Times } from './timesteps'
import { besideOf, type TrainedBeside } from './trained-beside'

/**
 * x [n, c, h, w] and t [n] to the prediction, of x's shape; with a learned variance that comes after it on the channels,
 * [n, 2c, h, w]. With every parameterization x is the state of the variance preserving process, sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar)
 * noise, and t the timestep: int32, but float32 where a sampler's noise level lies between two timesteps (as with k-diffusion's
 * DiscreteEpsDDPMDenoiser and its quantize=False). x is only lent: it can't be used after the call.
 */
export type DenoiserFunction = (x: Tensor, t: Tensor) => Tensor | Promise<Tensor>

/** What a graph of the denoiser depends on. */
export interface DenoiserMode {
  /** With dropout. */
  readonly train: boolean
  readonly condition: ConditionKind
  /** In place of an input. */
  readonly made?: MadeCondition
  /** What the condition's inputs are called: those of the negative one, of guidance, begin with 'negative.'. Default 'given'. */
  readonly of?: 'given' | 'negative'
  /** What the network need not compute. */
  readonly prepared?: Prepared
}

export interface DenoiserOutput {
  /** Of the noise, x_0 or v. */
  readonly prediction: Value
  /** What a learned variance is made of. */
  readonly variance?: Value
}

export interface Denoiser {
  readonly network?: NetworkDenoiser
  /** Throws unless samples of this shape can be given to it. */
  check(shape: Shape, argument: string): void
  /** x as flat samples [n, 1, 1, d] and t i32 [n, 1, 1, 1] to the output as flat samples. */
  build(graph: Graph, x: Value, t: Value, shape: Shape, mode: DenoiserMode): DenoiserOutput
  /** What `build` needs at run time, beyond x and t. */
  bindings(x: NativeBuffer, t: Times, shape: Shape, condition: Condition): Promise<Bindings>
  /** True where it takes x's values from outside the graph, so that x has to be computed first. */
  readonly external: boolean
  release(): void
}

/** How a network is given maps that are too large for it: in pieces, latent/split-network.ts. */
export interface Pieces {
  /** Of a map [n, c, h, w]: how many, and the shape of each. Throws `invalid-argument` for a map that can't be cut. */
  pieces(shape: Shape): { readonly count: number; readonly shape: Shape }
  /** x [n, h, w, c] to what `apply` makes of each piece, put together. */
  build(
    graph: Graph,
    x: Value,
    conditioning: Conditioning,
    apply: (x: Value, conditioning: Conditioning, piece: number) => Value,
  ): Value
}

/** The input with the random numbers of dropout in a piece. */
export const dropoutInput = (piece: number) => (piece === 0 ? 'dropoutRng' : `dropoutRng.${piece}`)

export class NetworkDenoiser implements Denoiser {
  /** Of the network, then of what is trained beside it. */
  readonly weights: Weights
  /** Where the parameters of that are, in the order in which it was given. */
  readonly beside: readonly TablePlace[]
  readonly external = false
  /** Set before anything is computed. Default: it is given maps whole. */
  split?: Pieces
  /** Which bank stands in for the weights in the current asynchronous context; see `withAverages`. */
  readonly #bank = new AsyncLocalStorage<'weights' | 'ema'>()

  constructor(
    device: Device,
    readonly module: Network,
    seed: Seed,
    /** The second half of the output is a learned variance. */
    readonly learned: boolean,
    beside: readonly TrainedBeside[] = [],
  ) {
    const { inChannels, outChannels } = module
    if (outChannels !== (learned ? 2 : 1) * inChannels) {
      const [expected, why] = learned
        ? [
            `${2 * inChannels} output channels`,
            'twice as many output channels as input channels, for a learned variance',
          ]
        : [`${inChannels} output channels`, "as many output channels as input channels with varianceType 'fixed'"]
      const message = `model: expected ${why}, got ${outChannels} and ${inChannels}`
      throw new DiffusionError('invalid-argument', message, {
        argument: 'model',
        expected,
        received: String(outChannels),
      })
    }
    const { table, places } = besideOf(module.parameters, beside)
    this.weights = new Weights(device, table, seed)
    this.beside = places
  }

  get network(): NetworkDenoiser {
    return this
  }

  /** Runs `fn` with the averaged weights in place of the trained ones, for what `fn` starts and nothing else. */
  withAverages<T>(fn: () => T): T {
    const own = this.module.parameters.count
    const rest = this.weights.table.count - own
    // What is trained beside the network has no averages: ddpm.py's ema_scope leaves it as it is.
    if (rest > 0) this.weights.bank('ema').copyFrom(this.weights.bank('weights'), own, own, rest)
    return this.#bank.run('ema', fn)
  }

  /** The banks of the weights that the asynchronous context computes with. */
  get active(): ReturnType<Weights['bindings']> {
    return this.weights.bindings(this.#bank.getStore() ?? 'weights')
  }

  check(shape: Shape, argument: string): void {
    const { inChannels, divisor } = this.module
    const [n, c, h, w] = shape.length === 4 && this.split ? this.split.pieces(shape).shape : shape
    if (shape.length === 4 && n > 0 && c === inChannels && h > 0 && w > 0 && h % divisor === 0 && w % divisor === 0)
      return
    const size = divisor > 1 ? `height and width multiples of ${divisor}` : 'height and width of at least 1'
    const expected = `shape [n, ${inChannels}, height, width], ${size}`
    const received = `[${shape.join(', ')}]`
    throw new DiffusionError('invalid-argument', `${argument}: expected ${expected}, got ${received}`, {
      argument,
      expected,
      received,
    })
  }

  build(
    graph: Graph,
    x: Value,
    t: Value,
    shape: Shape,
    { train, condition, made, of = 'given', prepared }: DenoiserMode,
  ): DenoiserOutput {
    const [, channels, height, width] = shape
    const images = graph.toNhwc(x, { channels, height, width })
    const prefix = of === 'given' ? '' : 'negative.'
    const conditioning = conditionInputs(graph, this.module, { ...condition, shape, prefix, train, made })
    const flat = this.module.selfCondition && graph.input('estimate', x.dims)
    const estimate = flat ? graph.toNhwc(flat, { channels, height, width }) : undefined
    const apply = (piece: Value, told: Conditioning, i = 0) => {
      const rng = train ? graph.input(dropoutInput(i), [1, 1, 1, 4], 'i32') : undefined
      return this.module.build({ graph, train, rng }, piece, t, told, prepared)
    }
    const told = { ...conditioning, estimate }
    const out = graph.toNchw(this.split ? this.split.build(graph, images, told, apply) : apply(images, told))
    return this.learned ? halves(graph, out) : { prediction: out }
  }

  async bindings(_x: NativeBuffer, _t: Times, shape: Shape, condition: Condition): Promise<Bindings> {
    return {
      ...this.active,
      ...(this.module.selfCondition && { estimate: new Float32Array(sizeOf(shape)) }),
      ...(await conditionBindings(this.weights.device, condition)),
    }
  }

  release(): void {
    this.weights.dispose()
  }
}

export class FunctionDenoiser implements Denoiser {
  readonly external = true

  constructor(
    readonly device: Device,
    readonly fn: DenoiserFunction,
    readonly learned: boolean,
  ) {}

  check(shape: Shape, argument: string): void {
    if (shape.length >= 2 && sizeOf(shape) > 0) return
    throw invalidArgument(argument, 'a shape of at least 2 dimensions, samples first', shape)
  }

  build(graph: Graph, { dims: [n, , , d] }: Value): DenoiserOutput {
    if (!this.learned) return { prediction: graph.input('out', [n, 1, 1, d]) }
    return halves(graph, graph.input('out', [n, 1, 1, 2 * d]))
  }

  /** Calls the function. Whatever it does wrong becomes a DiffusionError. */
  async bindings(x: NativeBuffer, t: Times, shape: Shape): Promise<Bindings> {
    const lent = Tensor.onDevice(this.device, x, shape, { owned: false })
    try {
      let out: Tensor
      try {
        out = await this.fn(lent, Tensor.from(t))
      } catch (cause) {
        const reason = cause instanceof Error ? cause.message : String(cause)
        throw new DiffusionError('denoiser-failed', `the denoiser threw: ${reason}`, { argument: 'model', cause })
      }
      const [n, channels, ...rest] = shape
      return { out: await checkOutput(out, this.learned ? [n, 2 * channels, ...rest] : shape) }
    } finally {
      lent.dispose()
    }
  }

  release(): void {}
}

/** Flat samples of twice the channels: the second half of the channels is the second half of the sample. */
function halves(graph: Graph, out: Value): DenoiserOutput {
  const count = out.dims[3] / 2
  return {
    prediction: graph.slice(out, { start: 0, count }),
    variance: graph.slice(out, { start: count, count }),
  }
}

async function checkOutput(out: unknown, shape: Shape): Promise<Float32Array> {
  const expected = `a float32 Tensor of shape [${shape.join(', ')}]`
  if (!(out instanceof Tensor) || !sameShape(out.shape, shape) || out.dtype !== 'float32') {
    const received = describe(out)
    throw new DiffusionError('denoiser-output', `the denoiser returned ${received}, expected ${expected}`, {
      argument: 'model',
      expected,
      received,
    })
  }
  const values = (await out.values()) as Float32Array
  const bad = values.findIndex((v) => !Number.isFinite(v))
  if (bad < 0) return values
  throw new DiffusionError('not-finite', `the denoiser returned ${values[bad]} at element ${bad}`, {
    argument: 'model',
    expected: 'finite numbers',
    received: String(values[bad]),
  })
}

export function isNetwork(model: unknown): model is Network {
  const candidate = model as Partial<Network> | null
  return typeof candidate === 'object' && candidate !== null && typeof candidate.build === 'function'
}
