import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'

/**
 * Writes tokenizer.json and tokenizer_config.json: every word of the captions is a token, and every letter, by which other words are
 * spelled (BERT's word pieces, longest first).
 */
export function writeTokenizer(folder, captions, maxLength) {
  const words = [...new Set(captions.flatMap((caption) => caption.split(' ')))].sort()
  const letters = [...new Set([...words.join(''), ...'abcdefghijklmnopqrstuvwxyz0123456789'])].sort()
  const special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]']
  const tokens = new Set([...special, ...words, ...letters, ...letters.map((letter) => `##${letter}`)])
  const vocab = Object.fromEntries([...tokens].map((token, id) => [token, id]))
  const json = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: special.map((content) => ({
      id: vocab[content],
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Replace', pattern: { Regex: '[^\\p{L}\\p{N}\\p{M}#*]+' }, content: ' ' },
        {
          type: 'BertNormalizer',
          clean_text: true,
          handle_chinese_chars: true,
          strip_accents: true,
          lowercase: true,
        },
      ],
    },
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
  const config = {
    tokenizer_class: 'BertTokenizer',
    do_lower_case: true,
    model_max_length: maxLength,
    unk_token: '[UNK]',
    pad_token: '[PAD]',
    cls_token: '[CLS]',
    sep_token: '[SEP]',
  }
  mkdirSync(folder, { recursive: true })
  writeFileSync(path.join(folder, 'tokenizer.json'), `${JSON.stringify(json)}\n`)
  writeFileSync(path.join(folder, 'tokenizer_config.json'), `${JSON.stringify(config, null, 2)}\n`)
  return tokens.size
}
