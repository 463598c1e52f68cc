/** Inputs that fuzzing has found to reach further than others: a file a reader, a line an input, deflated, in base64. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { deflateRawSync, inflateRawSync } from 'node:zlib'

const fileOf = (reader: string) => path.join(__dirname, '..', '..', '..', 'test', 'fuzz', 'corpus', `${reader}.txt`)

const maxFileBytes = 48 * 2 ** 10

/** Empty where there is no file. */
export function readCorpus(reader: string): Buffer[] {
  const file = fileOf(reader)
  if (!existsSync(file)) return []
  const lines = readFileSync(file, 'utf8').split('\n')
  return lines.filter((line) => line !== '').map((line) => inflateRawSync(Buffer.from(line, 'base64')))
}

/** Of the smallest ones, what fits. */
export function writeCorpus(reader: string, inputs: readonly Uint8Array[]): void {
  const lines = inputs.map((bytes) => `${deflateRawSync(bytes, { level: 9 }).toString('base64')}\n`)
  let left = maxFileBytes
  const kept = lines
    .sort((a, b) => a.length - b.length)
    .filter((line) => {
      left -= line.length
      return left >= 0
    })
  mkdirSync(path.dirname(fileOf(reader)), { recursive: true })
  writeFileSync(fileOf(reader), kept.join(''))
}
