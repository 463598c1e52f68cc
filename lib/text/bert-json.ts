/** vocab.txt of BERT's tokenizer as the tokenizer.json that transformers makes of it (BertConverter). */
import type { JsonObject } from '../checkpoint/json'
import { withSource } from '../checkpoint/source'

/** BertTokenizer's own, where tokenizer_config.json does not say them. */
export const bertTokens = { cls_token: '[CLS]', sep_token: '[SEP]', pad_token: '[PAD]' }
const special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']

export function bertTokenizerJson(tokens: readonly string[], config: JsonObject): JsonObject {
  const vocab: Record<string, number> = Object.create(null)
  for (const [id, token] of tokens.entries()) vocab[token] = id
  const added = special.filter((content) => Object.hasOwn(vocab, content))
  const normalizer = {
    type: 'BertNormalizer',
    clean_text: true,
    handle_chinese_chars: config.tokenize_chinese_chars !== false,
    strip_accents: config.strip_accents ?? null,
    lowercase: config.do_lower_case !== false,
  }
  return wordPieceJson(vocab, normalizer, added)
}

/** A tokenizer.json of BERT's word pieces, longest first; `added` are tokens that no text is cut through. */
export function wordPieceJson(
  vocab: Readonly<Record<string, number>>,
  normalizer: JsonObject,
  added: readonly string[],
): JsonObject {
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added.map((content) => ({ id: vocab[content], content, ...flags })),
    normalizer,
    pre_tokenizer: { type: 'BertPreTokenizer' },
    post_processor: null,
    decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
    model: {
      type: 'WordPiece',
      unk_token: '[UNK]',
      continuing_subword_prefix: '##',
      max_input_chars_per_word: 100,
      vocab,
    },
  }
}

/** A token a line. Throws `not-found`, `io` and `bad-file`. */
export function readVocabulary(path: string): Promise<string[]> {
  return withSource(path, 'vocabulary', async (source) => {
    source.budget.memory(8 * source.size)
    const bytes = new Uint8Array(source.size)
    await source.read(bytes, 0)
    const tokens = new TextDecoder().decode(bytes).split(/\r?\n/)
    if (tokens[tokens.length - 1] === '') tokens.pop()
    if (tokens.length === 0 || new Set(tokens).size !== tokens.length)
      throw source.bad('a line is there twice, or none')
    return tokens
  })
}
