/** vocab.json and merges.txt of CLIP's tokenizer as the tokenizer.json that transformers makes of them (CLIPConverter). */

import type { JsonObject } from '../checkpoint/json'
import { withSource } from '../checkpoint/source'

/** Words are made of bytes, which merges join; what is between them is left out. */
const words = "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"

export function clipTokenizerJson(
  vocab: JsonObject,
  merges: readonly string[],
  special: readonly string[],
): JsonObject {
  const added = special.filter((content) => Object.hasOwn(vocab, content))
  return {
    added_tokens: added.map((content) => ({ id: vocab[content], content, special: true })),
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'NFC' },
        { type: 'Replace', pattern: { Regex: '\\s+' }, content: ' ' },
        { type: 'Lowercase' },
      ],
    },
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: words }, behavior: 'Removed', invert: true },
        { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
      ],
    },
    post_processor: null,
    decoder: { type: 'ByteLevel' },
    model: {
      type: 'BPE',
      unk_token: special[1],
      continuing_subword_prefix: '',
      end_of_word_suffix: '</w>',
      vocab,
      merges,
    },
  }
}

/** The lines after "#version", each two parts with a space between. Throws `not-found`, `io` and `bad-file`. */
export function readMerges(path: string): Promise<string[]> {
  return withSource(path, 'list of merges', async (source) => {
    source.budget.memory(4 * source.size)
    const bytes = new Uint8Array(source.size)
    await source.read(bytes, 0)
    const lines = new TextDecoder().decode(bytes).split(/\r?\n/)
    const merges = lines.filter((line, i) => line !== '' && !(i === 0 && line.startsWith('#version')))
    const wrong = merges.findIndex((line) => !/^\S+ \S+$/.test(line))
    if (wrong >= 0) throw source.bad(`merge ${wrong + 1} is not two parts with a space between`)
    return merges
  })
}
