/** `ddpm merge`: what shards have made as one file. */
import { openRegularFile, readFully } from '../checkpoint/regular-file'
import { mergeParts, openParts } from '../data/parts/merge-parts'
import type { Part } from '../data/parts/part-file'
import type { NamedPart } from '../data/parts/part-set'
import { mergeFiles, openEvaluations } from '../trainer/evaluation-file'
import { type Command, type OptionTable, UsageError } from './args'
import { reportBits } from './evaluate-bits'
import { outputFile, overwriteOption, tellRenamed, writeOutput } from './free-name'
import { createOutput, type Output } from './output'
import { Progress } from './progress'
import { tellDevices } from './shard'
import { stoppable } from './stop'

const options = {
  out: { kind: 'string', short: 'o', value: 'file', help: 'what they become' },
  ...overwriteOption,
} as const satisfies OptionTable

export const merge: Command<typeof options> = {
  name: 'merge',
  summary:
    'Puts what shards have drawn or evaluated into one file, with the bytes that one process would have written.',
  usage: '<part>... --out <file>',
  positionals: Number.POSITIVE_INFINITY,
  options,
  notes: `
Parts are what --npz of ddpm sample and --output of ddpm evaluate write with --shard. All have to be there, of the same command, and
each is checked before the file is written.

  ddpm merge samples-1-of-2.npz samples-2-of-2.npz --out samples.npz
  ddpm merge bits-1-of-2.json bits-2-of-2.json --out bits.json`,

  async run({ out, overwrite, json }, files) {
    if (files.length === 0) throw new UsageError('the parts are missing, such as samples-1-of-2.npz samples-2-of-2.npz')
    if (out === undefined) throw new UsageError('--out <file> is missing: what do the parts become?')
    const output = createOutput(json === true)
    const { exitCode } = await stoppable(async (signal) => {
      const mergeInto = (await someZip(files)) ? mergeImages : mergeBits
      await mergeInto(files, { out, overwrite, output, signal })
    })
    return exitCode
  },
}

/** Whether there is an .npz file among them, whatever its name. */
async function someZip(files: readonly string[]): Promise<boolean> {
  for (const file of files) {
    const { handle } = await openRegularFile(file, 'parts')
    try {
      const head = new Uint8Array(2)
      if ((await readFully(handle, head, 0)) && String.fromCharCode(...head) === 'PK') return true
    } finally {
      await handle.close()
    }
  }
  return false
}

interface Target {
  readonly out: string
  readonly overwrite?: boolean
  readonly output: Output
  readonly signal: AbortSignal
}

async function mergeImages(files: readonly string[], { out, overwrite, output, signal }: Target): Promise<void> {
  const parts = await openParts(files)
  const file = await outputFile(out, { overwrite })
  await writeMerged(parts, file, { output, signal })
  const count = parts.reduce((sum, part) => sum + part.count, 0)
  output.say(`${count} images of ${partsText(parts)}: ${file}`)
  tellRenamed(output, out, file)
  output.event('done', { count, parts: parts.length, file })
}

/** Parts in order as one file, which replaces what is there. Throws what mergeParts throws. */
export async function writeMerged(
  parts: readonly Part[],
  file: string,
  { output, signal }: { readonly output: Output; readonly signal: AbortSignal },
): Promise<void> {
  tellDevices(output, parts)
  const bar = new Progress(output.progress, { label: 'merge', total: 100, rate: false, lines: true })
  try {
    await mergeParts(parts, file, {
      signal,
      onProgress: ({ done, total }) =>
        bar.update(Math.floor((100 * done) / total), done < total / 2 ? 'checking' : 'writing'),
    })
  } finally {
    bar.clear()
  }
}

async function mergeBits(files: readonly string[], { out, overwrite, output }: Target): Promise<void> {
  const parts = await openEvaluations(files)
  const file = await outputFile(out, { overwrite })
  tellDevices(output, parts)
  const evaluation = mergeFiles(parts)
  for (const line of reportBits(evaluation)) output.say(line)
  const written = await writeOutput(file, `${JSON.stringify(evaluation, null, 2)}\n`, overwrite)
  output.say('')
  output.say(`${partsText(parts)}: ${written}`)
  tellRenamed(output, out, written)
  output.event('done', { ...evaluation, parts: parts.length, file: written })
}

function partsText({ length }: readonly NamedPart[]): string {
  return `${length} ${length === 1 ? 'part' : 'parts'}`
}
