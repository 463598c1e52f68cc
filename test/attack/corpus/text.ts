/** Hostile folders of tokenizers and text encoders. */
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import * as good from '../../fuzz/seeds'
import { type Corpus, type Input, type Seed, withHostileValues } from '../support/input'

const fixture = good.fixture('clip_tokenizer')
const own = (file: string) => readFileSync(path.join(fixture, file))

/** CLIP's tokenizer in which one file is other than it should be, or is there beside the others. */
const inFolder = (file: string, content: string | Uint8Array) => (folder: string) => {
  cpSync(fixture, folder, { recursive: true })
  rmSync(path.join(folder, file), { force: true })
  writeFileSync(path.join(folder, file), content)
  return folder
}

const hostile = (reader: string, file: string, value: unknown): Input[] =>
  [...withHostileValues(value)].map(({ name, value }) => ({
    name: `${reader}: ${file}: ${name}`,
    readers: [reader],
    light: true,
    write: inFolder(file, JSON.stringify(value)),
  }))

const tokenizer = (name: string, file: string, content: () => string): Input => ({
  name: `tokenizer: ${file}: ${name}`,
  readers: ['tokenizer'],
  write: (folder) => inFolder(file, content())(folder),
})

const manyTokens = () => JSON.stringify(Object.fromEntries(Array.from({ length: 100_000 }, (_, i) => [`t${i}`, i])))

const seedOf = (file: string): Seed => ({
  name: `tokenizer: ${file}`,
  readers: ['tokenizer'],
  bytes: own(file),
  write: (folder, bytes) => inFolder(file, bytes)(folder),
})

export const corpus: Corpus = {
  bombs: [
    ...hostile('tokenizer', 'tokenizer_config.json', JSON.parse(String(own('tokenizer_config.json')))),
    ...hostile('tokenizer', 'special_tokens_map.json', JSON.parse(String(own('special_tokens_map.json')))),
    ...hostile('tokenizer', 'tokenizer.json', good.bytePairs),
    ...hostile('tokenizer', 'tokenizer.json', good.wordPieces),
    ...hostile('clip', 'config.json', good.clipConfig),
    tokenizer('a hundred thousand tokens', 'vocab.json', manyTokens),
    tokenizer('a hundred thousand merges', 'merges.txt', () => 't h\n'.repeat(100_000)),
    tokenizer('a merge of a megabyte', 'merges.txt', () => `${'t'.repeat(2 ** 20)} h\n`),
    tokenizer('a line without end', 'merges.txt', () => ' '.repeat(2 ** 20)),
  ],
  seeds: ['vocab.json', 'merges.txt', 'tokenizer_config.json', 'special_tokens_map.json'].map(seedOf),
  snippets: ['"', '{', '}', ',', ':', '9', '-1', '1e9', 'null', '\n', ' ', '</w>', '"content"'],
}
