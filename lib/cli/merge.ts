/** `ddpm merge`: what shards have made as one file. */
import { mergeParts, openParts } from '../data/parts/merge-parts'
import type { Part } from '../data/parts/part-file'
import { type Command, type OptionTable, UsageError } from './args'
import { outputFile, overwriteOption, tellRenamed } from './free-name'
import { createOutput, type Output, stderr, warn } from './output'
import { Progress } from './progress'
import { stoppable } from './stop'

const options = {
  out: { kind: 'string', short: 'o', value: 'file', help: 'what they become' },
  ...overwriteOption,
} as const satisfies OptionTable

export const merge: Command<typeof options> = {
  name: 'merge',
  summary:
    'Puts what the shards of a sampling have drawn into one file, which has the bytes that one process would have written.',
  usage: '<part>... --out <file>',
  positionals: Number.POSITIVE_INFINITY,
  options,
  notes: `
Parts are what --npz with --shard writes. All have to be there, of the same command, and each is checked before the file is written.

  ddpm merge samples-1-of-2.npz samples-2-of-2.npz --out samples.npz`,

  async run({ out, overwrite, json }, files) {
    if (files.length === 0) throw new UsageError('the parts are missing, such as samples-1-of-2.npz samples-2-of-2.npz')
    if (out === undefined) throw new UsageError('--out <file> is missing: what do the parts become?')
    const output = createOutput(json === true)
    const { exitCode } = await stoppable(async (signal) => {
      const parts = await openParts(files)
      const file = await outputFile(out, { overwrite })
      tellDevices(output, parts)
      const bar = new Progress(stderr, { label: 'merge', total: 100, rate: false, lines: true })
      try {
        await mergeParts(parts, file, {
          signal,
          onProgress: ({ done, total }) =>
            bar.update(Math.floor((100 * done) / total), done < total / 2 ? 'checking' : 'writing'),
        })
      } finally {
        bar.clear()
      }
      const count = parts.reduce((sum, part) => sum + part.count, 0)
      output.say(`${count} images of ${parts.length} ${parts.length === 1 ? 'part' : 'parts'}: ${file}`)
      tellRenamed(output, out, file)
      output.event('done', { count, parts: parts.length, file })
    })
    return exitCode
  },
}

/** Whose bits may differ. */
function tellDevices(output: Output, parts: readonly Part[]): void {
  const devices = [...new Set(parts.map(({ device }) => device))]
  if (devices.length < 2) return
  warn(
    output,
    `the parts were computed by different devices (${devices.join('; ')}): the last bits may differ from those of one`,
  )
}
