/** A stage that encodes prompts: a tokenizer, and a network from token ids to context tokens. */
import { DiffusionError, invalidArgument } from '../../errors'
import type { Value } from '../../graph'
import type { TextContext, TextNetwork } from '../../nn/text/network'
import type { StateDict } from '../../nn/weights'
import { boolean, integer, type Parsed, parseOptions, type SchemaOf, value } from '../../options'
import { Tensor } from '../../tensor'
import { applyWeights } from '../../text/prompt-weights'
import { type TokenizedText, Tokenizer } from '../../text/tokenizer'
import { Stage, type StageNodes, type StageOptions, stageSchema, type WeightsSource } from '../stage'

/** What every text stage's constructor takes beside the options of its network. */
export interface TextStageOptions extends StageOptions {
  /**
   * A folder with tokenizer.json, or vocab.json and merges.txt, which is read when a prompt is first encoded; or what was read.
   * Default: none, and only ids are taken.
   */
  tokenizer?: string | Tokenizer
}

/** The same with the length of a text. */
export interface CLIPStageOptions extends TextStageOptions {
  /** Tokens of a text, which longer ones are cut to and shorter ones padded. Default: as many as the network knows. */
  maxLength?: number
}

export const textStageSchema = {
  ...stageSchema,
  tokenizer: value<string | Tokenizer>(
    'a folder, or a Tokenizer',
    (v) => (typeof v === 'string' && v !== '') || v instanceof Tokenizer,
  ),
} satisfies SchemaOf<TextStageOptions>

export const clipStageSchema = {
  ...textStageSchema,
  maxLength: integer(undefined, { min: 2 }),
} satisfies SchemaOf<CLIPStageOptions>

/** Prompts, what `tokenize` made of them, or token ids: an int32 Tensor [n, length]. */
export type TextInput = string | readonly string[] | TokenizedText | Tensor

/** Of encode. */
export interface EncodeTextOptions {
  /**
   * Brackets of the prompts weigh words, as in stable-diffusion-webui: "(a cat:1.3)", "((red))", "[blue]", "\(" for the character.
   * States are multiplied by the weights of their tokens, and those of a text then scaled so that their mean stays. Default false.
   */
  promptWeights?: boolean
}

export const encodeTextSchema = { promptWeights: boolean(false) } satisfies SchemaOf<EncodeTextOptions>

/** What a text stage makes of the network's states. */
export interface Encoding {
  /** Names it among the stage's programs. */
  readonly kind: string
  /** Tokens of the result; default: those of the text. */
  readonly length?: number
  /** For what is taken at the end of each text: `rows`, as in statesAt, are there. */
  readonly endOf?: (ids: Int32Array) => number
  /** To [n, 1, length, width]. */
  build(context: TextContext, ids: Value, samples: number, rows?: Value): Value
}

export abstract class TextStage<Network extends TextNetwork = TextNetwork> extends Stage {
  /** @internal */
  readonly network: Network
  /** Tokens of a text. */
  readonly maxLength: number
  readonly #owner: string
  /** What texts are padded with; undefined: what the tokenizer says. */
  readonly #padId?: number
  #tokenizer?: string | Tokenizer | Promise<Tokenizer>
  /** Of the stage, and of the last prompts. */
  #warnings: readonly string[] = []
  #promptWarnings: readonly string[] = []

  protected constructor(
    owner: string,
    network: Network,
    o: Parsed<typeof textStageSchema> & { readonly maxLength?: number; readonly padId?: number },
    source?: WeightsSource,
  ) {
    const { device, precision, weightFormat, seed, deterministic, maxLength = network.maxLength } = o
    if (maxLength > network.maxLength) {
      throw invalidArgument('maxLength', `at most ${network.maxLength}, which the network knows`, maxLength)
    }
    super(owner, network.parameters, { device, precision, weightFormat, seed, deterministic }, source)
    this.#owner = owner
    this.network = network
    this.maxLength = maxLength
    this.#padId = o.padId
    this.#tokenizer = o.tokenizer instanceof Tokenizer ? this.#checked(o.tokenizer) : o.tokenizer
  }

  /** @internal The folder that its tokenizer is from; undefined without one. */
  async tokenizerFolder(): Promise<string | undefined> {
    const tokenizer = await this.#tokenizer
    return tokenizer instanceof Tokenizer ? tokenizer.folder : tokenizer
  }

  /** What its user should know; of prompts, what of those of the last `encode` had no room. */
  warnings(): readonly string[] {
    return [...this.#warnings, ...this.#promptWarnings]
  }

  /** Adds to the warnings of the stage. */
  protected warn(warnings: readonly string[]): void {
    this.#warnings = [...this.#warnings, ...warnings]
  }

  /**
   * Ids of prompts: start, the text, end, padding. Throws `invalid-argument` for what is no string, for a tokenizer whose vocabulary
   * is larger than the network's, and without any; what reading it throws.
   */
  async tokenize(prompts: string | readonly string[], o: EncodeTextOptions = {}): Promise<TokenizedText> {
    const tokenizer = await this.#open()
    return tokenizer.tokenize(prompts, { maxLength: this.maxLength, padId: this.#padId, ...o })
  }

  /**
   * Context tokens [n, length, width]. Throws `invalid-argument` for what is neither text nor ids of the network, for more than it
   * knows, and what `tokenize` throws.
   */
  async encode(text: TextInput, options: EncodeTextOptions = {}): Promise<Tensor> {
    return this.run(text, parseOptions('encode', options, encodeTextSchema), this.encoding())
  }

  /** What `encode` gives. */
  protected abstract encoding(): Encoding

  /** @internal `encode` as part of a graph. */
  async nodes(text: TextInput): Promise<StageNodes> {
    return this.#nodesOf(await this.#tokens(text, {}), this.encoding())
  }

  #nodesOf({ texts, length, ids, warnings }: TokenizedText, { kind, endOf, build }: Encoding): StageNodes {
    this.#promptWarnings = warnings
    if (length > this.network.maxLength) {
      throw invalidArgument('ids', `at most ${this.network.maxLength} tokens a text`, length)
    }
    return {
      key: `${kind} of ${texts} texts of ${length} tokens`,
      bindings: { ids, ...(endOf && { rows: rowsOf(ids, texts, endOf) }) },
      build: (context) => {
        const tokens = context.graph.input('ids', [texts * length, 1, 1, 1], 'i32')
        const rows = endOf && context.graph.input('rows', [texts, 1, 1, 1], 'i32')
        return build(context, tokens, texts, rows)
      },
    }
  }

  protected async run(text: TextInput, o: EncodeTextOptions, encoding: Encoding): Promise<Tensor> {
    const tokens = await this.#tokens(text, o)
    const { texts, length, weights } = tokens
    const nodes = this.#nodesOf(tokens, encoding)
    const shape = [texts, encoding.length ?? length, this.network.width]
    return this.call(async () => {
      const program = await this.program(encoding.kind, { key: nodes.key }, (graph) => {
        return { states: nodes.build({ graph, train: false }) }
      })
      const bindings = { ...this.weights.bindings('weights'), ...nodes.bindings }
      if (weights?.some((weight) => weight !== 1)) {
        if (encoding.length !== undefined)
          throw invalidArgument('promptWeights', 'false: this is one state a text', true)
        const { states } = await program.run(bindings)
        applyWeights(states, weights, texts)
        return Tensor.wrap(states, shape)
      }
      const states = this.device.allocate(shape.reduce((a, b) => a * b))
      await program.run({ ...bindings, states })
      return Tensor.onDevice(this.device, states, shape, { owned: true })
    })
  }

  async #tokens(text: TextInput, o: EncodeTextOptions): Promise<TokenizedText> {
    if (text instanceof Tensor) {
      const [texts, length, ...more] = text.shape
      if (text.dtype !== 'int32' || !(texts > 0 && length > 0) || more.length > 0) {
        throw invalidArgument('ids', 'an int32 Tensor of shape [n, length]', text)
      }
      return { texts, length, ids: (await text.values()) as Int32Array, warnings: [] }
    }
    if (typeof text === 'object' && text !== null && 'ids' in text && text.ids instanceof Int32Array) return text
    return this.tokenize(text as string | readonly string[], o)
  }

  async #open(): Promise<Tokenizer> {
    if (this.#tokenizer === undefined) {
      throw new DiffusionError('not-configured', `${this.#owner} has no tokenizer, and takes token ids only`, {
        argument: 'tokenizer',
        expected: 'a folder, or a Tokenizer',
      })
    }
    if (typeof this.#tokenizer === 'string') {
      const folder = this.#tokenizer
      const opening = Tokenizer.fromPretrained(folder).then((tokenizer) => this.#checked(tokenizer))
      this.#tokenizer = opening
      opening.catch(() => {
        this.#tokenizer = folder
      })
    }
    return this.#tokenizer
  }

  #checked(tokenizer: Tokenizer): Tokenizer {
    const { vocabSize } = this.network
    if (tokenizer.vocabSize <= vocabSize) return tokenizer
    throw invalidArgument(
      'tokenizer',
      `a vocabulary of at most ${vocabSize}, which the network knows`,
      tokenizer.vocabSize,
    )
  }
}

function rowsOf(ids: Int32Array, texts: number, endOf: (ids: Int32Array) => number): Int32Array {
  const length = ids.length / texts
  return Int32Array.from({ length: texts }, (_, n) => n * length + endOf(ids.subarray(n * length, (n + 1) * length)))
}

/** Without what transformers' files have beside the weights: the numbers of the positions. */
export function withoutPositions(dict: StateDict): StateDict {
  return Object.fromEntries(Object.entries(dict).filter(([name]) => !name.endsWith('embeddings.position_ids')))
}
