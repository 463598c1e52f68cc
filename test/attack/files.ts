/**
 * Hostile files for every reader: each is read or refused, with a DiffusionError of a code that says so, within 64 MB and twice the
 * file's size of memory and ten seconds of processor time, images within what lib/data/image-limits.ts adds to that.
 */
import { lstatSync, mkdirSync, readdirSync, rmSync, statSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { maxDecodeBytes, maxDecodeSeconds } from '../../lib/data/image-limits'
import { mutate } from '../fuzz/mutate'
import { commandLines, openByCommand } from './cli-reader'
import * as configs from './corpus/configs'
import { dataCorpus } from './corpus/data'
import { imageCorpus } from './corpus/images'
import { corpusOf } from './corpus/models'
import * as safetensors from './corpus/safetensors'
import { specials } from './corpus/specials'
import * as text from './corpus/text'
import * as torch from './corpus/torch'
import { readers } from './readers'
import type { Attack, Figures, Part } from './support/attack'
import { type Corpus, type Input, type Seed, splice, truncate } from './support/input'
import { MiB } from './support/memory'
import { type Answer, type Bounds, ReaderPool } from './support/pool'
import { makeTiny } from './support/tiny'

const maxMessage = 4000
const childScript = path.join(__dirname, 'files-child.js')

/** What a file can be refused with. */
const refusals = new Set([
  ...['bad-file', 'state-mismatch', 'unsupported', 'invalid-argument', 'unknown-option'],
  ...['not-found', 'empty-dataset', 'not-finite'],
])
/** What is no regular file, or a run's own file, may be refused so too. */
const alsoRefusals: Readonly<Record<string, readonly string[]>> = {
  special: ['io', 'busy'],
  lock: ['busy'],
  'run: names of checkpoints that are files': ['io'],
}

/** What decodes or scales images. */
const imageReaders = ['image', 'image-folder', 'npy', 'npz', 'cifar', 'idx', 'tar', 'parquet', 'manifest']
const isImage = (reader: string) => imageReaders.includes(reader)
/** Beyond twice the file. */
const allowance = (reader: string) => 64 * MiB + (isImage(reader) ? maxDecodeBytes : 0)
/** Of all threads together. */
const maxProcessorMs = (reader: string) =>
  10_000 + (isImage(reader) ? 1000 * maxDecodeSeconds * availableParallelism() : 0)
/** Of the clock: a process that waits takes no processor time. */
const hang = (reader: string) => 25_000 + (isImage(reader) ? 1000 * maxDecodeSeconds : 0)

interface Tally {
  inputs: number
  read: number
  refused: number
  memory: number
  slowest: number
}

class Files {
  readonly tallies = new Map<string, Tally>()
  readonly #pool = new ReaderPool(childScript)
  /** What a command takes for a good file: the library itself, for the most part. */
  readonly #baselines = new Map<string, number>()
  #folders = 0

  constructor(readonly attack: Attack) {}

  async measureCommands(good: string): Promise<void> {
    for (const name of Object.keys(commandLines)) {
      const answer = await openByCommand(name, good, path.join(this.attack.folder, 'converted'), {
        memory: 0,
        hang: hang(name),
      })
      if (answer.outcome !== 'read') throw new Error(`ddpm ${name} of a good model: ${answer.message}`)
      this.#baselines.set(`ddpm ${name}`, answer.memory)
    }
  }

  async open(name: string, reader: string, input: Pick<Input, 'write' | 'light'>): Promise<void> {
    const folder = path.join(this.attack.folder, String(this.#folders++))
    mkdirSync(folder)
    try {
      const target = await input.write(folder)
      const size = sizeOf(target)
      const bounds = { memory: allowance(reader) + 2 * size, hang: hang(reader) }
      const answer = reader.startsWith('ddpm ')
        ? await openByCommand(reader.slice(5), target, path.join(folder, 'target'), bounds)
        : await this.#pool.open(reader, target, bounds, (input.light ? 24 : 8) * MiB)
      const baseline = this.#baselines.get(reader) ?? 0
      this.#check(name, reader, answer, { ...bounds, memory: bounds.memory + baseline }, target.length)
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  }

  #check(name: string, reader: string, answer: Answer, { memory }: Bounds, pathLength: number): void {
    const tally = this.tallies.get(reader) ?? { inputs: 0, read: 0, refused: 0, memory: 0, slowest: 0 }
    this.tallies.set(reader, tally)
    tally.inputs++
    if (answer.outcome !== 'died') {
      tally.memory = Math.max(tally.memory, answer.memory)
      tally.slowest = Math.max(tally.slowest, answer.milliseconds)
      if (answer.outcome === 'read') tally.read++
      if (answer.outcome === 'refused') tally.refused++
    }
    for (const problem of problems(name, reader, answer, memory, pathLength)) this.attack.fail(name, problem)
  }

  [Symbol.dispose](): void {
    this.#pool[Symbol.dispose]()
  }
}

function* problems(
  name: string,
  reader: string,
  answer: Answer,
  memory: number,
  pathLength: number,
): Generator<string> {
  if (answer.outcome === 'died') return yield answer.message
  if (answer.outcome === 'thrown') yield `not a DiffusionError: ${short(answer.message)}`
  const allowed = alsoRefusals[name.split(' > ')[0]] ?? alsoRefusals[name.split(':')[0]] ?? []
  if (answer.outcome === 'refused' && !refusals.has(answer.code!) && !allowed.includes(answer.code!))
    yield `refused with '${answer.code}': ${short(answer.message)}`
  if ((answer.message?.length ?? 0) > maxMessage + 2 * pathLength)
    yield `a message of ${answer.message!.length} characters`
  if (answer.memory > memory) yield `${mb(answer.memory)} MiB of memory, ${mb(memory)} allowed`
  if (answer.milliseconds > maxProcessorMs(reader))
    yield `${(answer.milliseconds / 1000).toFixed(1)} s of processor time`
}

const mb = (bytes: number) => Math.round(bytes / MiB)
const short = (text = '') => JSON.stringify(text.length > 300 ? `${text.slice(0, 300)}...` : text)

/** Of a file or of all files in a folder; what takes no room on the disk, such as the hole of a sparse file, does not count. */
function sizeOf(target: string): number {
  const stats = lstatSync(target, { throwIfNoEntry: false })
  if (!stats) return 0
  if (!stats.isDirectory()) return stats.isFile() ? Math.min(stats.size, 512 * stats.blocks) : 0
  return readdirSync(target, { recursive: true, encoding: 'utf8' })
    .map((name) => statSync(path.join(target, name)))
    .reduce((sum, { size }) => sum + size, 0)
}

/** Which commands open what a reader opens. */
const commands: Readonly<Record<string, readonly string[]>> = {
  model: ['ddpm info', 'ddpm convert', 'ddpm sample'],
  checkpoint: ['ddpm info'],
  pretrained: ['ddpm convert'],
  safetensors: ['ddpm info'],
}

/** A damaged seed: cut short, spliced with another of its kind, or changed here and there. */
function damaged(seed: Seed, others: readonly Seed[], snippets: readonly string[], attack: Attack, name: string) {
  const random = attack.random(name)
  const how = random.uniform()
  if (how < 0.2) return truncate(seed.bytes, random)
  const other = others[Math.floor(random.uniform() * others.length)]
  if (how < 0.35) return splice(seed.bytes, other.bytes, random)
  return mutate(seed.bytes, snippets, random)
}

async function run(attack: Attack): Promise<readonly Figures[]> {
  using files = new Files(attack)
  const tiny = await makeTiny(path.join(attack.folder, 'tiny'))
  await files.measureCommands(tiny.model)
  const corpora: Corpus[] = [
    safetensors.corpus,
    torch.corpus,
    configs.corpus,
    corpusOf(tiny),
    await imageCorpus(),
    dataCorpus,
    text.corpus,
  ]

  const short = attack.remaining < 60_000
  const bombs = [...corpora.flatMap(({ bombs }) => bombs), ...specials(Object.keys(readers))]
  // Those of a kind of their own first: of the thousands that are alike, as many as there is time for.
  const own = bombs.filter((input) => !input.light && !(short && input.slow))
  const alike = bombs.filter((input) => input.light)
  const forBombs = attack.within(0.7)
  let opened = 0
  let done = 0
  for (const input of [...attack.shuffled(own), ...attack.shuffled(alike)]) {
    if (forBombs.over) break
    done++
    for (const reader of [...input.readers, ...input.readers.flatMap((reader) => commands[reader] ?? [])]) {
      const name = `${input.name} > ${reader}`
      if (!attack.wants(name)) continue
      await files.open(name, reader, input)
      if (++opened % 200 === 0) attack.log(`${done} of ${bombs.length} bombs`)
    }
  }
  if (done < bombs.length) attack.log(`${done} of ${bombs.length} bombs: no time for the others`)
  const bombCount = opened

  const seeds = corpora.flatMap(({ seeds, snippets }) => seeds.map((seed) => ({ seed, others: seeds, snippets })))
  for (let round = 0; !attack.over && round < 1e6; round++) {
    for (const { seed, others, snippets } of seeds) {
      for (const reader of seed.readers) {
        const name = `${seed.name}, damage ${round} > ${reader}`
        if (attack.over) break
        if (!attack.wants(name)) continue
        const bytes = damaged(seed, others, snippets, attack, name)
        await files.open(name, reader, { light: true, write: (folder) => seed.write(folder, bytes) })
        if (++opened % 1000 === 0) attack.log(`${opened - bombCount} damaged files`)
      }
    }
    // One case alone is found, or there is none of that name.
    if (!attack.wants('') && round > 100_000) break
  }
  return [...files.tallies].sort().map(([reader, tally]) => ({
    reader,
    inputs: tally.inputs,
    read: tally.read,
    refused: tally.refused,
    'MiB at most': mb(tally.memory),
    's at most': (tally.slowest / 1000).toFixed(2),
  }))
}

export const files: Part = { name: 'files', share: 6, run }
