/** The posterior of a first stage. */
import { invalidArgument } from '../errors'
import { boolean, parseOptions, type SchemaOf, type Seed, seed, value } from '../options'
import { normal, Purpose } from '../rng'
import { checkTensor, type Shape, sameShape, sizeOf, Tensor } from '../tensor'

/** Of DiagonalGaussianDistribution.from. */
export interface PosteriorOptions {
  /** A distribution without any deviation: its sample is its mean. Default false. */
  deterministic?: boolean
}

const posteriorSchema = { deterministic: boolean(false) } satisfies SchemaOf<PosteriorOptions>

/** Of DiagonalGaussianDistribution's `sample`. */
export interface PosteriorSampleOptions {
  /** Normal numbers of the mean's shape. Default: drawn by `seed`. */
  noise?: Tensor
  /** Of the noise, which is the same for sample i in any batch. Default 0. */
  seed?: Seed
}

export const posteriorSampleSchema = {
  noise: value<Tensor>('a Tensor', (v) => v instanceof Tensor),
  seed: seed(0),
} satisfies SchemaOf<PosteriorSampleOptions>

/** Log variances are clamped to this. */
const [low, high] = [-30, 20]

/**
 * A normal distribution for each number of a latent: distributions.py's class of this name. It is on the host; `mean`, `logvar`
 * (clamped to [-30, 20]), `std` and `var` have shape [n, c, h, w]. With `deterministic` std and var are 0.
 */
export class DiagonalGaussianDistribution {
  readonly mean: Tensor
  readonly logvar: Tensor
  readonly std: Tensor
  readonly var: Tensor
  readonly #parts: { readonly mean: Float32Array; readonly logvar: Float32Array; readonly var: Float32Array }

  private constructor(
    /** Means, then log variances as they came, [n, 2c, h, w]. */
    readonly parameters: Tensor,
    values: Float32Array,
    readonly deterministic: boolean,
  ) {
    const [n, channels, ...rest] = parameters.shape
    const shape = [n, channels / 2, ...rest]
    const size = sizeOf(shape.slice(1))
    const half = (which: number) => {
      const part = new Float32Array(n * size)
      for (let i = 0; i < n; i++)
        part.set(values.subarray((2 * i + which) * size, (2 * i + which + 1) * size), i * size)
      return part
    }
    const mean = half(0)
    const logvar = half(1).map((l) => Math.min(Math.max(l, low), high))
    const scaled = (factor: number) => logvar.map((l) => (deterministic ? 0 : Math.exp(factor * l)))
    this.#parts = { mean, logvar, var: scaled(1) }
    this.mean = Tensor.wrap(mean, shape)
    this.logvar = Tensor.wrap(logvar, shape)
    this.std = Tensor.wrap(scaled(0.5), shape)
    this.var = Tensor.wrap(this.#parts.var, shape)
  }

  /** Of moments [n, 2c, h, w], as AutoencoderKL's encoder puts them out. Throws `invalid-argument`. */
  static async from(parameters: Tensor, options: PosteriorOptions = {}): Promise<DiagonalGaussianDistribution> {
    const { deterministic } = parseOptions('from', options, posteriorSchema)
    checkTensor(parameters, 'parameters')
    if (parameters.shape.length !== 4 || parameters.shape[1] % 2 !== 0) {
      throw invalidArgument('parameters', 'a shape [n, 2c, h, w]', parameters.shape)
    }
    const values = (await parameters.values()) as Float32Array
    return new DiagonalGaussianDistribution(parameters, values, deterministic)
  }

  /** mean + std noise. */
  async sample(options: PosteriorSampleOptions = {}): Promise<Tensor> {
    const o = parseOptions('sample', options, posteriorSampleSchema)
    const { shape } = this.mean
    if (o.noise) checkTensor(o.noise, 'noise', shape)
    const noise = o.noise ? await o.noise.values() : posteriorNoise(shape, o.seed)
    const std = await this.std.values()
    return Tensor.wrap(
      this.#parts.mean.map((mean, i) => mean + std[i] * noise[i]),
      shape,
    )
  }

  mode(): Tensor {
    return this.mean
  }

  /**
   * The divergence from `other`, default N(0, 1), in nats, summed over a sample: [n]. A deterministic one gives [0], of one number,
   * as upstream.
   */
  kl(other?: DiagonalGaussianDistribution): Tensor {
    if (this.deterministic) return Tensor.from([0])
    const { mean, logvar, var: own } = this.#parts
    if (!other) return this.#sums((i) => mean[i] ** 2 + own[i] - 1 - logvar[i])
    if (!sameShape(other.mean.shape, this.mean.shape)) {
      throw invalidArgument('other', `one of shape [${this.mean.shape.join(', ')}]`, other.mean.shape)
    }
    const o = other.#parts
    return this.#sums((i) => ((mean[i] - o.mean[i]) ** 2 + own[i]) / o.var[i] - 1 - logvar[i] + o.logvar[i])
  }

  /** -log of the density at `sample`, of the mean's shape, summed over `dims` (default [1, 2, 3]); [0] of a deterministic one. */
  async nll(sample: Tensor, dims: readonly number[] = [1, 2, 3]): Promise<Tensor> {
    if (this.deterministic) return Tensor.from([0])
    checkTensor(sample, 'sample', this.mean.shape)
    const rank = this.mean.shape.length
    if (!Array.isArray(dims) || dims.length === 0 || !dims.every((d) => Number.isInteger(d) && d >= 0 && d < rank)) {
      throw invalidArgument('dims', `axes from 0 to ${rank - 1}`, dims)
    }
    const x = await sample.values()
    const { mean, logvar, var: own } = this.#parts
    return this.#sums((i) => Math.log(2 * Math.PI) + logvar[i] + (x[i] - mean[i]) ** 2 / own[i], dims)
  }

  /** Half the sum of a term of each element over `dims`. */
  #sums(term: (i: number) => number, dims: readonly number[] = [1, 2, 3]): Tensor {
    const { shape } = this.mean
    const kept = shape.flatMap((_, axis) => (dims.includes(axis) ? [] : [axis]))
    const out = kept.map((axis) => shape[axis])
    const sums = new Float64Array(sizeOf(out))
    const strides = shape.map((_, axis) => sizeOf(shape.slice(axis + 1)))
    for (let i = 0; i < sizeOf(shape); i++) {
      const place = kept.reduce((at, axis) => at * shape[axis] + (Math.floor(i / strides[axis]) % shape[axis]), 0)
      sums[place] += 0.5 * term(i)
    }
    return Tensor.wrap(Float32Array.from(sums), out)
  }
}

/** The noise of sample i of a seed is the same in any batch. */
export function posteriorNoise(shape: Shape, of: Seed): Float32Array {
  const size = sizeOf(shape.slice(1))
  const noise = new Float32Array(shape[0] * size)
  for (let i = 0; i < shape[0]; i++) noise.set(normal(of, Purpose.latent, i, 0, size), i * size)
  return noise
}
