/** taming-transformers' VectorQuantizer2 alone: VQModel and VQModelInterface have one of their own. */
import { invalidArgument } from '../errors'
import { Quantizer } from '../nn/autoencoder/quantizer'
import { ParameterTable, Scope } from '../nn/parameters'
import { boolean, integer, number, parseOptions, required, type SchemaOf, value } from '../options'
import type { Shape, Tensor } from '../tensor'
import { Codebook, type QuantizeResult, remapField, type UnknownIndex } from './codebook'
import { checkMap } from './first-stage'
import { Stage, type StageOptions, stageSchema } from './stage'

export interface VectorQuantizer2Options extends StageOptions {
  /** Entries of the codebook. */
  nE: number
  /** Numbers of an entry: channels of z. */
  eDim: number
  /** Weight of the commitment loss; with `legacy` of the codebook's. */
  beta: number
  /** The entries in use: indices are places in this list, in upstream the content of a .npy file. Default: all. */
  remap?: readonly number[]
  /** What entries have as index that `remap` has not: a number, 'extra' for one more, or by default 'random', drawn by `seed`. */
  unknownIndex?: UnknownIndex
  /** Indices have shape [n, h, w]. Default false: flat. */
  saneIndexShape?: boolean
  /** beta is on the wrong term, as in the models that were trained so. Default true, as upstream. */
  legacy?: boolean
}

const schema = {
  ...stageSchema,
  nE: required(integer(undefined, { min: 1, max: 2 ** 24 })),
  eDim: required(integer(undefined, { min: 1, max: 2 ** 14 })),
  beta: required(number()),
  remap: remapField,
  unknownIndex: value<UnknownIndex>(
    "a number of at least 0, 'random' or 'extra'",
    (v) => v === 'random' || v === 'extra' || (Number.isSafeInteger(v) && (v as number) >= 0),
  ),
  saneIndexShape: boolean(false),
  legacy: boolean(true),
} satisfies SchemaOf<VectorQuantizer2Options>

/** A codebook (van den Oord et al. 2017): the parameter `embedding.weight` of shape [nE, eDim]. */
export class VectorQuantizer2 extends Stage {
  readonly nE: number
  readonly eDim: number
  readonly #codebook: Codebook

  /** Throws `invalid-argument`, `unknown-option` and `device-unavailable`. */
  constructor(options: VectorQuantizer2Options) {
    const o = parseOptions('VectorQuantizer2', options, schema)
    const { nE, eDim, beta, legacy, remap, unknownIndex = 'random', saneIndexShape } = o
    if (o.remap === undefined && o.unknownIndex !== undefined) {
      throw invalidArgument('unknownIndex', 'nothing without remap', o.unknownIndex)
    }
    const table = new ParameterTable()
    const quantizer = new Quantizer(new Scope(table), { nE, eDim, beta, legacy })
    super('VectorQuantizer2', table, o)
    this.nE = nE
    this.eDim = eDim
    this.#codebook = new Codebook(this, quantizer, { nE, eDim, remap, unknownIndex, saneIndexShape })
  }

  /** How many numbers indices have. */
  get reEmbed(): number {
    return this.#codebook.reEmbed
  }

  /** The nearest entries of z [n, eDim, h, w]. */
  async forward(z: Tensor): Promise<QuantizeResult> {
    checkMap(z, 'z', this.eDim, 1)
    return this.#codebook.quantize(z)
  }

  /** The entries of int32 `indices`: [n, eDim, h, w] for a `shape` [n, h, w, eDim], else [...shape of indices, eDim]. */
  getCodebookEntry(indices: Tensor, shape?: Shape): Promise<Tensor> {
    return this.#codebook.entries(indices, shape)
  }
}
