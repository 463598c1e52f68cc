/** Quantization by a codebook, and the numbers of its entries as others see them: taming-transformers' VectorQuantizer2. */
import { DiffusionError, describe, invalidArgument } from '../errors'
import type { Graph } from '../graph'
import type { Quantizer } from '../nn/autoencoder/quantizer'
import { value } from '../options'
import { below, Purpose, words } from '../rng'
import { type Shape, sizeOf, Tensor } from '../tensor'
import type { Stage } from './stage'

export interface QuantizeResult {
  /** The entries nearest to z, of its shape. */
  readonly quant: Tensor
  /** Codebook and commitment loss, the mean over all elements. */
  readonly loss: number
  /** int32 numbers of the entries: [n h w], with `remap` [n h w, 1], with `saneIndexShape` [n, h, w]. */
  readonly indices: Tensor
}

/** What stands for an entry that `remap` does not have; 'extra': one more number, behind the others. */
export type UnknownIndex = 'random' | 'extra' | number

export interface CodebookSettings {
  readonly nE: number
  readonly eDim: number
  readonly remap?: readonly number[]
  readonly unknownIndex: UnknownIndex
  readonly saneIndexShape: boolean
}

export const remapField = value<readonly number[]>(
  'numbers of entries',
  (v) => Array.isArray(v) && v.length > 0 && v.every((code) => Number.isSafeInteger(code) && code >= 0),
)

export class Codebook {
  /** How many numbers indices have: all entries, or those of `remap` and perhaps one more. */
  readonly reEmbed: number
  readonly #numberOf?: ReadonlyMap<number, number>
  #draws = 0

  /** A codebook within a stage, whose program and weights it uses. Throws `invalid-argument`. */
  constructor(
    private readonly stage: Stage,
    private readonly quantizer: Quantizer,
    private readonly o: CodebookSettings,
  ) {
    const { remap, nE, unknownIndex } = o
    const beyond = remap?.find((code) => code >= nE)
    if (beyond !== undefined) throw invalidArgument('remap', `numbers of entries below ${nE}`, beyond)
    this.reEmbed = remap ? remap.length + (unknownIndex === 'extra' ? 1 : 0) : nE
    // Of an entry that is there twice, the first.
    if (remap) this.#numberOf = new Map([...remap.entries()].reverse().map(([number, code]) => [code, number]))
  }

  async quantize(z: Tensor): Promise<QuantizeResult> {
    const [n, channels, height, width] = z.shape
    const build = (graph: Graph) => {
      const map = graph.toNhwc(graph.input('z', [n, 1, 1, channels * height * width]), { channels, height, width })
      const { quant, number, loss } = this.quantizer.quantize({ graph, train: false }, map)
      return { quant: graph.toNchw(quant), number, loss }
    }
    const inputs = { z: await z.binding(this.stage.device) }
    const { quant, number, loss } = await this.stage.compute('quantize', { n, height, width }, build, inputs)
    const { remap, saneIndexShape } = this.o
    const shape = saneIndexShape ? [n, height, width] : remap ? [number.length, 1] : [number.length]
    const codes = Int32Array.from(number)
    return {
      quant: Tensor.wrap(quant, z.shape),
      loss: loss.reduce((sum, term) => sum + term, 0) / n,
      indices: Tensor.wrap(remap ? this.#used(codes) : codes, shape),
    }
  }

  /** The entries of `indices`, as [n, c, h, w] for a `shape` [n, h, w, c], else [...shape of indices, c]. */
  async entries(indices: Tensor, shape: Shape | undefined): Promise<Tensor> {
    checkIndices(indices)
    const { eDim, remap } = this.o
    if (!shape && remap) throw invalidArgument('shape', '[n, height, width, channels], where there is a remap', shape)
    if (shape && !(shape.length === 4 && shape[3] === eDim && sizeOf(shape) === indices.size * eDim)) {
      throw invalidArgument('shape', `[n, height, width, ${eDim}] of ${indices.size} entries`, shape)
    }
    const [n, height, width] = shape ?? [indices.size, 1, 1]
    const given = (await indices.values()) as Int32Array
    const index = remap ? this.#all(given) : given
    const build = (graph: Graph) => {
      const numbers = graph.input('indices', [n, height, width, 1], 'i32')
      const entries = this.quantizer.entries({ graph, train: false }, numbers)
      return { y: shape ? graph.toNchw(entries) : entries }
    }
    const key = { n, height, width, map: shape !== undefined }
    const { y } = await this.stage.compute('entries', key, build, { indices: index })
    return Tensor.wrap(y, shape ? [n, eDim, height, width] : [...indices.shape, eDim])
  }

  /** All entries, [nE, eDim]. */
  async all(): Promise<Tensor> {
    const { nE, eDim } = this.o
    const build = (graph: Graph) => ({
      y: this.quantizer.entries({ graph, train: false }, graph.input('indices', [nE, 1, 1, 1], 'i32')),
    })
    const { y } = await this.stage.compute('codebook', {}, build, {
      indices: Int32Array.from({ length: nE }, (_, i) => i),
    })
    return Tensor.wrap(y, [nE, eDim])
  }

  /** remap_to_used. */
  #used(codes: Int32Array): Int32Array {
    const { unknownIndex, remap } = this.o
    const drawn = unknownIndex === 'random' && words(this.stage.seed, Purpose.latent, 0, ++this.#draws, codes.length)
    const unknown = (i: number) => {
      if (drawn) return below(drawn[i], this.reEmbed)
      return unknownIndex === 'extra' ? remap!.length : Number(unknownIndex)
    }
    return codes.map((code, i) => this.#numberOf!.get(code) ?? unknown(i))
  }

  /** unmap_to_all: the extra number is the first of the used. */
  #all(numbers: Int32Array): Int32Array {
    const used = this.o.remap!
    return numbers.map((number) => {
      if (number < 0 || number >= this.reEmbed) throw invalidArgument('indices', `below ${this.reEmbed}`, number)
      return used[number < used.length ? number : 0]
    })
  }
}

function checkIndices(indices: unknown): asserts indices is Tensor {
  if (indices instanceof Tensor && indices.dtype === 'int32' && indices.size > 0) return
  const [expected, received] = ['an int32 Tensor', describe(indices)]
  const message = `indices: expected ${expected}, got ${received}`
  throw new DiffusionError('invalid-argument', message, { argument: 'indices', expected, received })
}
