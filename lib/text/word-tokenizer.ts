/** A tokenizer of the words that some texts have. */
import path from 'node:path'
import { atomicWrite } from '../checkpoint/atomic-write'
import { makeFolder } from '../make-folder'
import { bertTokens, wordPieceJson } from './bert-json'

const special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]']
const lettersOfAll = 'abcdefghijklmnopqrstuvwxyz0123456789'
/** Words that are tokens of their own: the most frequent. */
const maxWords = 30_000

/** As BERT's without case and accents: what is no letter or digit divides words. */
const normalizer = {
  type: 'Sequence',
  normalizers: [
    { type: 'Replace', pattern: { Regex: '[^\\p{L}\\p{N}\\p{M}]+' }, content: ' ' },
    { type: 'BertNormalizer', clean_text: true, handle_chinese_chars: true, strip_accents: true, lowercase: true },
  ],
}

/** Ideographs, each of which BERT's normalizer makes a word of. */
const ideographs =
  '\\u3400-\\u4dbf\\u4e00-\\u9fff\\uf900-\\ufaff\\u{20000}-\\u{2a6df}\\u{2a700}-\\u{2ceaf}\\u{2f800}-\\u{2fa1f}'
const word = new RegExp(`[${ideographs}]|[^${ideographs}]+`, 'gu')

function wordsOf(text: string): string[] {
  const plain = text
    .normalize('NFD')
    .replace(/\p{Mn}/gu, '')
    .toLowerCase()
  return plain.split(/[^\p{L}\p{N}\p{M}]+/u).flatMap((letters) => letters.match(word) ?? [])
}

/**
 * Writes tokenizer.json and tokenizer_config.json: every word of the texts is a token, and every letter, by which other words are spelled
 * (BERT's word pieces). Texts have room for the longest of these, at most 77 tokens. Throws `io`.
 */
export async function writeWordTokenizer(folder: string, texts: readonly string[]): Promise<void> {
  const counts = new Map<string, number>()
  let longest = 0
  for (const text of texts) {
    const words = wordsOf(text)
    longest = Math.max(longest, words.length)
    for (const word of words) counts.set(word, (counts.get(word) ?? 0) + 1)
  }
  const frequent = [...counts].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1)).slice(0, maxWords)
  const words = frequent.map(([word]) => word).sort()
  const letters = [...new Set([...[...counts.keys()].join(''), ...lettersOfAll])].sort()
  const tokens = new Set([...special, ...words, ...letters, ...letters.map((letter) => `##${letter}`)])
  const vocab = Object.fromEntries([...tokens].map((token, id) => [token, id]))
  const json = wordPieceJson(vocab, normalizer, special)
  const config = {
    tokenizer_class: 'BertTokenizer',
    do_lower_case: true,
    model_max_length: Math.min(77, Math.max(8, longest + 2)),
    unk_token: '[UNK]',
    ...bertTokens,
  }
  await makeFolder(folder)
  await atomicWrite(path.join(folder, 'tokenizer.json'), `${JSON.stringify(json)}\n`)
  await atomicWrite(path.join(folder, 'tokenizer_config.json'), `${JSON.stringify(config, null, 2)}\n`)
}
