/** From prompts to token ids, by the files that a model's folder brings. */
import { existsSync } from 'node:fs'
import { readFile, rm } from 'node:fs/promises'
import path from 'node:path'
import { atomicWrite } from '../checkpoint/atomic-write'
import { isObject, type JsonObject, readJsonFile } from '../checkpoint/json'
import { DiffusionError, invalidArgument, quote } from '../errors'
import { ioError } from '../file-errors'
import { makeFolder } from '../make-folder'
import { boolean, integer, parseOptions, type SchemaOf } from '../options'
import { bertTokenizerJson, bertTokens, readVocabulary } from './bert-json'
import { clipTokenizerJson, readMerges } from './clip-json'
import { parsePromptWeights, type WeightedText } from './prompt-weights'
import { checkPatterns, vocabularySize } from './tokenizer-json'

/** Of Tokenizer.tokenize. */
export interface TokenizeOptions {
  /** Tokens of each text, start and end included, which longer texts are cut to and shorter ones padded. Default: the tokenizer's. */
  maxLength?: number
  /** What texts are padded with. Default: the tokenizer's pad token. */
  padId?: number
  /** Brackets of the prompts are weights: "(a cat:1.3)", "[a dog]"; see parsePromptWeights. Default false. */
  promptWeights?: boolean
}

const tokenizeSchema = {
  maxLength: integer(undefined, { min: 2, max: 2 ** 20 }),
  padId: integer(undefined, { min: 0, max: 2 ** 20 }),
  promptWeights: boolean(false),
} satisfies SchemaOf<TokenizeOptions>

export interface TokenizedText {
  readonly texts: number
  /** Of each text. */
  readonly length: number
  /** Start, the text, end, padding: [texts, length]. */
  readonly ids: Int32Array
  /** With promptWeights, [texts, length]: 1 of start, end and padding. */
  readonly weights?: Float32Array
  /** What of the prompts had no room. */
  readonly warnings: readonly string[]
}

/** What is used of @huggingface/tokenizers. */
interface Encoder {
  encode(text: string, o: { add_special_tokens: boolean }): { ids: readonly number[] }
  decode(ids: number[]): string
  token_to_id(token: string): number | undefined
}

export class Tokenizer {
  readonly #encoder: Encoder

  private constructor(
    encoder: Encoder,
    /** @internal Where its files are. */
    readonly folder: string,
    /** Ids are below this. */
    readonly vocabSize: number,
    /** Tokens of a text, start and end included; undefined where its files don't say. */
    readonly maxLength: number | undefined,
    readonly startId: number,
    readonly endId: number,
    readonly padId: number,
  ) {
    this.#encoder = encoder
  }

  /**
   * Reads tokenizer.json, or CLIP's vocab.json and merges.txt, or BERT's vocab.txt, with tokenizer_config.json and special_tokens_map.json where they are
   * there. Start and end are bos_token and eos_token, or cls_token and sep_token; CLIP's without any configuration. Throws
   * `not-found`, `io`, `bad-file`, and `unsupported` where @huggingface/tokenizers is not installed.
   */
  static async fromPretrained(folder: string): Promise<Tokenizer> {
    if (typeof folder !== 'string' || folder === '') throw invalidArgument('folder', 'a path', folder)
    const at = (name: string) => path.join(folder, name)
    const [json, vocab, merges, words] = ['tokenizer.json', 'vocab.json', 'merges.txt', 'vocab.txt'].map(at)
    const whole = existsSync(json)
    const isClip = existsSync(vocab) && existsSync(merges)
    if (!whole && !isClip && !existsSync(words)) {
      const expected = 'tokenizer.json, or vocab.json and merges.txt, or vocab.txt'
      throw new DiffusionError('not-found', `${folder} has no tokenizer: expected ${expected}`, {
        argument: 'folder',
        expected,
        received: folder,
      })
    }
    const optional = (name: string) => (existsSync(at(name)) ? readJsonFile(at(name)) : undefined)
    const said = (await optional('tokenizer_config.json')) ?? {}
    const config = whole || isClip ? said : { ...bertTokens, ...said }
    const special = specialTokens(config, await optional('special_tokens_map.json'))
    const description = whole
      ? await readJsonFile(json)
      : isClip
        ? clipTokenizerJson(await readJsonFile(vocab), await readMerges(merges), [special.start, special.end])
        : bertTokenizerJson(await readVocabulary(words), config)
    return Tokenizer.#make(folder, description, config, special)
  }

  static async #make(folder: string, json: JsonObject, config: JsonObject, special: SpecialTokens): Promise<Tokenizer> {
    const bad = (problem: string, cause?: unknown) =>
      new DiffusionError('bad-file', `${folder} is not a tokenizer: ${problem}`, { argument: 'folder', cause })
    const vocabSize = vocabularySize(json, bad)
    for (const part of [json.normalizer, json.pre_tokenizer, json.decoder]) checkPatterns(part, bad)
    const { Tokenizer: Package } = await tokenizersPackage(`the tokenizer of ${folder} needs a package`)
    let encoder: Encoder
    try {
      encoder = new Package(json, config)
    } catch (cause) {
      throw bad(cause instanceof Error ? cause.message : String(cause), cause)
    }
    const idOf = (token: string) => {
      const id = encoder.token_to_id(token)
      if (id === undefined) throw bad(`its vocabulary lacks ${quote(token)}`)
      return id
    }
    const { model_max_length: length } = config
    // transformers writes 1e30 for "no limit".
    const maxLength = Number.isSafeInteger(length) && Number(length) >= 2 ? Number(length) : undefined
    const [start, end, pad] = [special.start, special.end, special.pad].map(idOf)
    return new Tokenizer(encoder, folder, vocabSize, maxLength, start, end, pad)
  }

  /**
   * A text's own ids, without start and end. Throws `invalid-argument` for what is no string, and `bad-file` where its files are at
   * fault.
   */
  ids(text: string): number[] {
    if (typeof text !== 'string') throw invalidArgument('prompt', 'a string', text)
    const bad = (problem: string, cause?: unknown) =>
      new DiffusionError('bad-file', `the tokenizer fails on ${quote(text)}: ${problem}`, {
        argument: 'tokenizer',
        cause,
      })
    let ids: readonly number[]
    try {
      ids = [...this.#encoder.encode(text, { add_special_tokens: false }).ids]
    } catch (cause) {
      throw bad(cause instanceof Error ? cause.message : String(cause), cause)
    }
    const wrong = ids.findIndex((id) => !Number.isInteger(id) || id < 0 || id >= this.vocabSize)
    if (wrong >= 0) throw bad('it has no token for a part of it')
    return [...ids]
  }

  /** Texts of one length. Throws `invalid-argument` for what is no string, and without any length. */
  tokenize(prompts: string | readonly string[], options: TokenizeOptions = {}): TokenizedText {
    const o = parseOptions('Tokenizer.tokenize', options, tokenizeSchema)
    const texts = Array.isArray(prompts) ? (prompts as readonly string[]) : [prompts as string]
    if (texts.length === 0) throw invalidArgument('prompt', 'a string, or an array of at least one', prompts)
    const { maxLength: length = this.maxLength, padId = this.padId, promptWeights } = o
    if (length === undefined) throw invalidArgument('maxLength', 'an integer of at least 2', length)
    const ids = new Int32Array(texts.length * length).fill(padId)
    const weights = promptWeights ? new Float32Array(ids.length).fill(1) : undefined
    const warnings: string[] = []
    texts.forEach((text, n) => {
      const tokens = this.#weighted(text, promptWeights)
      const kept = tokens.slice(0, length - 2)
      const row = n * length
      ids.set([this.startId, ...kept.map(({ id }) => id), this.endId], row)
      weights?.set(
        kept.map(({ weight }) => weight),
        row + 1,
      )
      if (kept.length < tokens.length) warnings.push(this.#cut(text, tokens.slice(kept.length), length))
    })
    return { texts: texts.length, length, ids, weights, warnings }
  }

  #weighted(text: string, promptWeights: boolean): { id: number; weight: number }[] {
    if (typeof text !== 'string') throw invalidArgument('prompt', 'a string', text)
    const parts: readonly WeightedText[] = promptWeights ? parsePromptWeights(text) : [{ text, weight: 1 }]
    return parts.flatMap((part) => this.ids(part.text).map((id) => ({ id, weight: part.weight })))
  }

  #cut(text: string, left: readonly { id: number }[], length: number): string {
    const rest = this.#encoder.decode(left.map(({ id }) => id))
    return `the prompt ${quote(text)} is cut to ${length} tokens: ${left.length} are left out, ${quote(rest.trim())}`
  }
}

/** What a tokenizer may be read from. */
const tokenizerFiles = [
  ...['tokenizer.json', 'vocab.json', 'merges.txt', 'vocab.txt', 'tokenizer_config.json', 'special_tokens_map.json'],
]

/**
 * Copies the files of a tokenizer; those of another that was there go. `padId`: what texts are to be padded with; else as they say. Throws `not-found`, `io`, and `bad-file`
 * where they have no token for it.
 */
export async function copyTokenizer(from: string, to: string, padId?: number): Promise<void> {
  await makeFolder(to)
  for (const name of tokenizerFiles) {
    const source = path.join(from, name)
    if (!existsSync(source)) {
      await rm(path.join(to, name), { force: true })
      continue
    }
    const bytes = await readFile(source).catch((error) => {
      throw ioError(`cannot read ${source}`, error, { path: source })
    })
    await atomicWrite(path.join(to, name), bytes)
  }
  if (padId === undefined) return
  const pad = { pad_token: await tokenOf(from, padId) }
  for (const name of ['tokenizer_config.json', 'special_tokens_map.json']) {
    const file = path.join(to, name)
    const json = existsSync(file) ? await readJsonFile(file) : {}
    await atomicWrite(file, `${JSON.stringify({ ...json, ...pad }, null, 2)}\n`)
  }
}

async function tokenOf(folder: string, id: number): Promise<string> {
  const whole = path.join(folder, 'tokenizer.json')
  const { model } = existsSync(whole) ? await readJsonFile(whole) : {}
  const vocab = isObject(model) ? model.vocab : await readJsonFile(path.join(folder, 'vocab.json'))
  const found = Object.entries(isObject(vocab) ? vocab : {}).find(([, value]) => value === id)
  if (found) return found[0]
  throw new DiffusionError('bad-file', `${folder} has no token ${id}`, { argument: 'tokenizer', received: folder })
}

interface SpecialTokens {
  readonly start: string
  readonly end: string
  readonly pad: string
}

const clipTokens = { start: '<|startoftext|>', end: '<|endoftext|>' }

/**
 * As transformers takes them: special_tokens_map.json goes before tokenizer_config.json, which is older where it has no
 * added_tokens_decoder. (Stable Diffusion 2 pads with '!' in the one and with the end token in the other.)
 */
function specialTokens(config: JsonObject, map: JsonObject = {}): SpecialTokens {
  const [first, second] = 'added_tokens_decoder' in config ? [config, map] : [map, config]
  const named = (...names: readonly string[]) => {
    for (const name of names) {
      for (const object of [first, second]) {
        const token = Object.hasOwn(object, name) ? object[name] : undefined
        const content = isObject(token) ? token.content : token
        if (typeof content === 'string' && content !== '') return content
      }
    }
    return undefined
  }
  const start = named('bos_token', 'cls_token') ?? clipTokens.start
  const end = named('eos_token', 'sep_token') ?? clipTokens.end
  return { start, end, pad: named('pad_token') ?? end }
}

/** The package, which is loaded when it is needed. */
async function tokenizersPackage(message: string) {
  return import('@huggingface/tokenizers').catch((cause: unknown) => {
    throw new DiffusionError('unsupported', `${message}: npm install @huggingface/tokenizers`, { cause })
  })
}
