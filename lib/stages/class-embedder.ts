/** ldm's ClassEmbedder (modules/encoders/modules.py): a class label as one context token. */
import type { JsonObject } from '../checkpoint/json'
import { invalidArgument } from '../errors'
import type { Graph, Value } from '../graph'
import { Embedding } from '../nn/layers'
import { ParameterTable, Scope } from '../nn/parameters'
import { integer, parseOptions, required, type SchemaOf, string } from '../options'
import { Tensor } from '../tensor'
import { Stage, type StageNodes, type StageOptions, stageSchema, type WeightsSource } from './stage'

/** Of ClassEmbedder. */
export interface ClassEmbedderOptions extends StageOptions {
  /** Channels of the token. */
  embedDim: number
  /** Labels are below this. Default 1000. */
  nClasses?: number
  /** The batch's entry that has the labels. Default 'class'. */
  key?: string
}

const schema = {
  embedDim: required(integer(undefined, { min: 1, max: 2 ** 16 })),
  nClasses: integer(1000, { min: 1, max: 2 ** 24 }),
  key: string('class'),
  ...stageSchema,
} satisfies SchemaOf<ClassEmbedderOptions>

/** Labels from 0 to nClasses - 1, of each sample. */
export type ClassInput = readonly number[] | Int32Array | Tensor

/** Its weights, 'embedding.weight', are trained. */
export class ClassEmbedder extends Stage {
  readonly embedDim: number
  readonly nClasses: number
  readonly key: string
  /** It is trained with the diffusion model. */
  readonly trainable = true
  readonly #embedding: Embedding

  /** `source`: where the weights are read from; they are drawn without. Throws `invalid-argument`, `unknown-option`. */
  constructor(options: ClassEmbedderOptions, source?: WeightsSource) {
    const o = parseOptions('ClassEmbedder', options, schema)
    const parameters = new ParameterTable()
    const embedding = new Embedding(new Scope(parameters, 'embedding'), o.nClasses, o.embedDim)
    super('ClassEmbedder', parameters, o, source)
    this.embedDim = o.embedDim
    this.nClasses = o.nClasses
    this.key = o.key
    this.#embedding = embedding
  }

  /** What makes it again, as plain JSON: `kind`, its class, and its options but for device, seed and precision. */
  get config(): JsonObject {
    const { embedDim, nClasses, key } = this
    return { kind: 'ClassEmbedder', embedDim, nClasses, key }
  }

  /** @internal Appends it: labels i32 [n, 1, 1, 1] to [n, 1, 1, embedDim]. */
  build(graph: Graph, labels: Value): Value {
    return this.#embedding.build({ graph, train: false }, labels)
  }

  /** @internal `encode` as part of a graph. */
  async nodes(labels: ClassInput): Promise<StageNodes> {
    const y = await this.#labels(labels)
    return {
      key: `${y.length} labels`,
      bindings: { stageLabels: y },
      build: ({ graph }) => this.build(graph, graph.input('stageLabels', [y.length, 1, 1, 1], 'i32')),
    }
  }

  /** One token a label: [n, 1, embedDim]. Throws `invalid-argument` for what is no label. */
  async encode(labels: ClassInput): Promise<Tensor> {
    const { key, bindings, build } = await this.nodes(labels)
    const { length: n } = bindings.stageLabels as Int32Array
    return this.call(async () => {
      const program = await this.program('embed', { key }, (graph) => ({ tokens: build({ graph, train: false }) }))
      const tokens = this.device.allocate(n * this.embedDim)
      await program.run({ ...this.weights.bindings('weights'), ...bindings, tokens })
      return Tensor.onDevice(this.device, tokens, [n, 1, this.embedDim], { owned: true })
    })
  }

  async #labels(given: ClassInput): Promise<Int32Array> {
    const expected = `at least one integer from 0 to ${this.nClasses - 1}`
    if (!(given instanceof Tensor || given instanceof Int32Array || Array.isArray(given))) {
      throw invalidArgument(this.key, expected, given)
    }
    const list = given instanceof Tensor ? await given.values() : given
    for (const label of list) {
      if (!Number.isInteger(label) || label < 0 || label >= this.nClasses) {
        throw invalidArgument(this.key, expected, label)
      }
    }
    if (list.length === 0) throw invalidArgument(this.key, expected, given)
    return Int32Array.from(list)
  }
}
