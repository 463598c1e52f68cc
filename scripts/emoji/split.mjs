import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'

/** Copies one of 32 captioned images into `heldOut` and the others into `training`, each with its metadata.jsonl. */
export function splitEmoji(source, training, heldOut) {
  const lines = readFileSync(path.join(source, 'metadata.jsonl'), 'utf8').trim().split('\n')
  const parts = new Map([
    [training, lines.filter((_, i) => i % 32 !== 16)],
    [heldOut, lines.filter((_, i) => i % 32 === 16)],
  ])
  for (const [target, own] of parts) {
    if (existsSync(path.join(target, 'metadata.jsonl'))) continue
    rmSync(target, { recursive: true, force: true })
    for (const line of own) {
      const { file_name: name } = JSON.parse(line)
      mkdirSync(path.dirname(path.join(target, name)), { recursive: true })
      copyFileSync(path.join(source, name), path.join(target, name))
    }
    writeFileSync(path.join(target, 'metadata.jsonl'), `${own.join('\n')}\n`) // last: it says that the folder is whole
  }
  return lines.flatMap((line) => JSON.parse(line).text)
}
