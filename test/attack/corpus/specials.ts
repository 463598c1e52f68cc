/** What is no regular file, for every reader. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import type { Input } from '../support/input'

/** The name that a reader expects, as far as it does. */
const fileNames: Readonly<Record<string, string>> = {
  metrics: 'metrics.jsonl',
  lock: 'lock',
  image: 'x.png',
  'image-folder': 'x.png',
  model: 'x.safetensors',
  source: 'x.safetensors',
}

const kinds: Readonly<Record<string, (file: string) => void>> = {
  'a pipe': (file) => void execFileSync('mkfifo', [file]),
  'a folder': (file) => void mkdirSync(file),
  'a link to itself': (file) => symlinkSync(path.basename(file), file),
  'a link to nowhere': (file) => symlinkSync('nowhere', file),
  'a link to zeros without end': (file) => symlinkSync('/dev/zero', file),
  'a link to nothing': (file) => symlinkSync('/dev/null', file),
  nothing: () => {},
  'an empty file': (file) => writeFileSync(file, ''),
  'a sparse file of 1 GiB': (file) => {
    writeFileSync(file, '')
    truncateSync(file, 2 ** 30)
  },
}

export function specials(readers: readonly string[]): Input[] {
  return readers.flatMap((reader) =>
    Object.entries(kinds).map(([kind, make]) => ({
      name: `special: ${kind} for ${reader}`,
      readers: [reader],
      write: (folder) => {
        const file = path.join(folder, fileNames[reader] ?? 'x')
        make(file)
        return file
      },
    })),
  )
}
