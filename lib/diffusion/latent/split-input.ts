/**
 * ddpm.py's split_input_params: what is too large to be computed at once is cut into patches that overlap, and put together again
 * as their weighted mean. Sizes are [height, width].
 */
import { invalidArgument } from '../../errors'
import { array, boolean, integer, number, parseOptions, required, type SchemaOf } from '../../options'
import { Tensor } from '../../tensor'

export interface SplitInputParams {
  /** Height and width of a patch: of latents, and in encoding of pixels. Needed. */
  ks: readonly number[]
  /** From one patch to the next, [down, right]. Needed. */
  stride: readonly number[]
  /** Pixels of an edge for each of the latent's: how much the first stage's decoder enlarges. Default 1. */
  vqf?: number
  /** Encode and decode by patches, too. Default false. */
  patchDistributedVq?: boolean
  /** Patches at the border of the whole count less. The name is upstream's. Default false. */
  tieBraker?: boolean
  /** Bounds of a pixel's weight, which is its distance from the nearest border of its patch in parts of the patch. Default 0.01. */
  clipMinWeight?: number
  /** Default 0.5. */
  clipMaxWeight?: number
  /** Bounds of a patch's weight with tieBraker. Default 0.01. */
  clipMinTieWeight?: number
  /** Default 0.5. */
  clipMaxTieWeight?: number
}

const side = integer(undefined, { min: 1, max: 2 ** 16 })
const weight = (fallback: number) => number(fallback, { min: 0 })

export const splitSchema = {
  ks: required(array(side)),
  stride: required(array(side)),
  vqf: integer(1, { min: 1, max: 64 }),
  patchDistributedVq: boolean(false),
  tieBraker: boolean(false),
  clipMinWeight: weight(0.01),
  clipMaxWeight: weight(0.5),
  clipMinTieWeight: weight(0.01),
  clipMaxTieWeight: weight(0.5),
} satisfies SchemaOf<SplitInputParams>

export type ParsedSplit = Required<SplitInputParams>

/** Throws `invalid-argument` and `unknown-option`. */
export function parseSplit(params: SplitInputParams): ParsedSplit {
  const o = parseOptions('splitInputParams', params, splitSchema) as ParsedSplit
  for (const name of ['ks', 'stride'] as const) {
    if (o[name].length !== 2) throw invalidArgument(name, 'height and width', o[name])
  }
  return o
}

/** `up`: what comes out of a patch is so many times as large; `down`: so many times smaller. One of them is 1. */
export interface PatchScale {
  readonly up?: number
  readonly down?: number
}

/** Where patches of a map lie, and what each of their pixels counts for. */
export class Patches {
  /** How many lie below and beside each other. */
  readonly grid: readonly [number, number]
  /** [1, 1, kh, kw, patches]: get_fold_unfold's weighting. */
  readonly weighting: Tensor
  /** [1, 1, h, w]: the sum of all weights at a pixel. 0 where no patch lies, so that what is folded is NaN there. */
  readonly normalization: Tensor

  readonly #weights: Float32Array
  readonly #sums: Float32Array
  readonly #out: { readonly size: Pair; readonly kernel: Pair; readonly stride: Pair }

  /** Of maps of `size`; ddpm.py's get_fold_unfold. With a scale the kernel of what is folded is square: ks[0] scaled. */
  constructor(
    readonly size: Pair,
    readonly params: ParsedSplit,
    { up = 1, down = 1 }: PatchScale = {},
  ) {
    const [ks, stride] = [params.ks, params.stride]
    if (ks.some((k, i) => k > size[i])) {
      throw invalidArgument('ks', `at most the size of the map, ${size.join(' x ')}`, ks)
    }
    const count = (i: 0 | 1) => Math.floor((size[i] - ks[i]) / stride[i]) + 1
    this.grid = [count(0), count(1)]
    const scaled = (v: number) => Math.floor((v * up) / down)
    const kernel = up === 1 && down === 1 ? ([ks[0], ks[1]] as const) : ([scaled(ks[0]), scaled(ks[0])] as const)
    this.#out = {
      size: [scaled(size[0]), scaled(size[1])],
      kernel,
      stride: [scaled(stride[0]), scaled(stride[1])],
    }
    this.#weights = this.#weigh(kernel)
    this.weighting = Tensor.wrap(this.#weights, [1, 1, ...kernel, this.count])
    this.#sums = new Float32Array(this.#out.size[0] * this.#out.size[1])
    this.#eachPixel((patch, inner, outer) => {
      this.#sums[outer] += this.#weights[inner * this.count + patch]
    })
    this.normalization = Tensor.wrap(this.#sums, [1, 1, ...this.#out.size])
  }

  get count(): number {
    return this.grid[0] * this.grid[1]
  }

  /** Whether some patch lies on each pixel. */
  get covers(): boolean {
    return this.#sums.every((sum) => sum > 0)
  }

  /** Top and left of a patch in the map that is cut. */
  corner(patch: number): Pair {
    return this.#corner(patch, this.params.stride)
  }

  /** Of maps that keep their size: what part of the mean each pixel of a patch is, [kh kw]. */
  shares(patch: number): Float32Array {
    const [kh, kw] = this.params.ks
    const [top, left] = this.corner(patch)
    return Float32Array.from({ length: kh * kw }, (_, i) => {
      const outer = (top + Math.floor(i / kw)) * this.size[1] + left + (i % kw)
      return this.#weights[i * this.count + patch] / this.#sums[outer]
    })
  }

  /** x [n, c, h, w] to the patches, [n, c, kh, kw] each, row by row. */
  async unfold(x: Tensor): Promise<Tensor[]> {
    const [n, c, h, w] = x.shape
    const values = await x.data()
    const [kh, kw] = this.params.ks
    const patches: Tensor[] = []
    for (let patch = 0; patch < this.count; patch++) {
      const [top, left] = this.corner(patch)
      const data = new Float32Array(n * c * kh * kw)
      for (let plane = 0, to = 0; plane < n * c; plane++) {
        for (let y = 0; y < kh; y++, to += kw) {
          const from = (plane * h + top + y) * w + left
          data.set(values.subarray(from, from + kw), to)
        }
      }
      patches.push(Tensor.wrap(data, [n, c, kh, kw]))
    }
    return patches
  }

  /** The weighted mean of what became of the patches, [n, c, h, w]. */
  async fold(patches: readonly Tensor[]): Promise<Tensor> {
    const { size, kernel } = this.#out
    const [n, c] = patches[0].shape
    const area = size[0] * size[1]
    const inside = kernel[0] * kernel[1]
    const sums = new Float32Array(n * c * area)
    const all = await Promise.all(patches.map((patch) => patch.data()))
    for (let plane = 0; plane < n * c; plane++) {
      this.#eachPixel((patch, inner, outer) => {
        sums[plane * area + outer] += all[patch][plane * inside + inner] * this.#weights[inner * this.count + patch]
      })
    }
    return Tensor.wrap(
      sums.map((sum, i) => sum / this.#sums[i % area]),
      [n, c, ...size],
    )
  }

  /** What a gradient of what is folded, [n, c, h, w], is to each of the patches that `fold` is given. */
  async foldGradient(gradient: Tensor): Promise<Tensor[]> {
    const { size, kernel } = this.#out
    const [n, c] = gradient.shape
    const area = size[0] * size[1]
    const inside = kernel[0] * kernel[1]
    const values = await gradient.data()
    const parts = Array.from({ length: this.count }, () => new Float32Array(n * c * inside))
    for (let plane = 0; plane < n * c; plane++) {
      this.#eachPixel((patch, inner, outer) => {
        const share = this.#weights[inner * this.count + patch] / this.#sums[outer]
        parts[patch][plane * inside + inner] = share * values[plane * area + outer]
      })
    }
    return parts.map((part) => Tensor.wrap(part, [n, c, ...kernel]))
  }

  /** The gradient of what was unfolded: the sum of those of the patches at each pixel, [n, c, h, w]. */
  async unfoldGradient(gradients: readonly Tensor[]): Promise<Tensor> {
    const [n, c, kh, kw] = gradients[0].shape
    const [h, w] = this.size
    const sums = new Float32Array(n * c * h * w)
    for (const [patch, gradient] of gradients.entries()) {
      const [top, left] = this.corner(patch)
      const values = await gradient.data()
      for (let i = 0; i < values.length; i++) {
        const [plane, y, x] = [Math.floor(i / (kh * kw)), Math.floor(i / kw) % kh, i % kw]
        sums[(plane * h + top + y) * w + left + x] += values[i]
      }
    }
    return Tensor.wrap(sums, [n, c, h, w])
  }

  /** A pixel within a patch, and where it lies in what is folded. */
  #eachPixel(visit: (patch: number, inner: number, outer: number) => void): void {
    const { size, kernel, stride } = this.#out
    for (let patch = 0; patch < this.count; patch++) {
      const [top, left] = this.#corner(patch, stride)
      for (let y = 0; y < kernel[0]; y++) {
        for (let x = 0; x < kernel[1]; x++) visit(patch, y * kernel[1] + x, (top + y) * size[1] + left + x)
      }
    }
  }

  #corner(patch: number, stride: readonly number[]): Pair {
    return [Math.floor(patch / this.grid[1]) * stride[0], (patch % this.grid[1]) * stride[1]]
  }

  /** ddpm.py's get_weighting. */
  #weigh(kernel: Pair): Float32Array {
    const { clipMinWeight, clipMaxWeight, tieBraker, clipMinTieWeight, clipMaxTieWeight } = this.params
    const own = borderDistances(kernel).map((v) => clip(v, clipMinWeight, clipMaxWeight))
    const ties = tieBraker && borderDistances(this.grid).map((v) => clip(v, clipMinTieWeight, clipMaxTieWeight))
    const weights = new Float32Array(own.length * this.count)
    for (let i = 0; i < weights.length; i++) {
      weights[i] = own[Math.floor(i / this.count)] * (ties ? ties[i % this.count] : 1)
    }
    return weights
  }
}

export type Pair = readonly [number, number]

const clip = (v: number, min: number, max: number) => Math.min(Math.max(v, min), max)

/** ddpm.py's delta_border: from 0 at the border to 0.5 in the middle; NaN, as there, where a side has one pixel. */
export function borderDistances([h, w]: Pair): Float32Array {
  const distances = new Float32Array(h * w)
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      const [down, right] = [y / (h - 1), x / (w - 1)]
      distances[y * w + x] = Math.min(down, right, 1 - down, 1 - right)
    }
  }
  return distances
}

/** The parameters with patches no larger than the map, as ddpm.py's first stage takes them. */
export function within(params: ParsedSplit, [h, w]: Pair): ParsedSplit {
  const cut = ([a, b]: readonly number[]) => [Math.min(a, h), Math.min(b, w)]
  return { ...params, ks: cut(params.ks), stride: cut(params.stride) }
}
