/** Inputs that coverage-guided fuzzing has found to reach further than others: a file a reader, a base64 line an input. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'

const fileOf = (reader: string) => path.join(__dirname, '..', '..', '..', 'test', 'fuzz', 'corpus', `${reader}.txt`)

/** Empty where there is no file. */
export function readCorpus(reader: string): Buffer[] {
  const file = fileOf(reader)
  if (!existsSync(file)) return []
  const lines = readFileSync(file, 'utf8').split('\n')
  return lines.filter((line) => line !== '').map((line) => Buffer.from(line, 'base64'))
}

export function writeCorpus(reader: string, inputs: readonly Uint8Array[]): void {
  mkdirSync(path.dirname(fileOf(reader)), { recursive: true })
  writeFileSync(fileOf(reader), inputs.map((bytes) => `${Buffer.from(bytes).toString('base64')}\n`).join(''))
}
