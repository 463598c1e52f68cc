/**
 * Coverage-guided fuzzing of one reader: `node dist/test/fuzz/guided.js READER SECONDS SEED [--save]`. Inputs that run code of
 * the library which none ran before are kept and changed further. Prints a line of JSON, or the input (base64) that was neither
 * read nor refused, that took longer than a minute, or 2 GiB. `--save` makes what was kept the reader's corpus.
 */
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { Random } from '../support/random'
import { readCorpus, writeCorpus } from './corpus'
import { Coverage } from './coverage'
import { mutate } from './mutate'

/** Inputs between two looks at the coverage. */
const batchSize = 16
const maxInputBytes = 2 ** 18
const maxSeconds = 60
const maxResidentBytes = 2 * 2 ** 30

interface Job {
  readonly name: string
  readonly seconds: number
  readonly seed: number
  readonly save: boolean
  /** What is being read, so that the main thread can say it of an input that never ends: length, bytes. */
  readonly current: SharedArrayBuffer
}

export interface Report {
  readonly name: string
  readonly inputs: number
  readonly read: number
  readonly corpus: number
  /** Characters of dist/lib that ran. */
  readonly covered: number
  readonly slowestMs: number
}

async function fuzz({ name, seconds, seed, save, current }: Job): Promise<Report> {
  const coverage = new Coverage()
  // Loaded here, when its coverage is counted.
  const { readers, outcome }: typeof import('./readers') = require('./readers')
  const reader = await readers[name]()
  const random = new Random(seed)
  const [length, bytesNow] = [new Int32Array(current, 0, 1), new Uint8Array(current, 4)]
  let [inputs, read, slowestMs] = [0, 0, 0]
  const run = async (bytes: Uint8Array) => {
    bytesNow.set(bytes)
    Atomics.store(length, 0, bytes.length)
    parentPort!.postMessage(++inputs)
    const start = performance.now()
    if ((await outcome(reader, bytes)) === 'read') read++
    slowestMs = Math.max(slowestMs, performance.now() - start)
  }

  const kept: Uint8Array[] = []
  const keepNew = async (candidates: readonly Uint8Array[]) => {
    for (const bytes of candidates) {
      await run(bytes)
      if (coverage.take(true) > 0) kept.push(bytes)
    }
  }
  try {
    await keepNew([...reader.seeds, ...readCorpus(name)])
    if (kept.length === 0) kept.push(reader.seeds[0])
    const pick = () => kept[Math.floor(random.uniform() * kept.length)]
    const end = performance.now() + 1000 * seconds
    while (performance.now() < end) {
      const batch = Array.from({ length: batchSize }, () => {
        return mutate(pick(), reader.snippets, random).subarray(0, maxInputBytes)
      })
      for (const bytes of batch) await run(bytes)
      if (coverage.take(false) > 0) await keepNew(batch)
    }
    const own = kept.filter((bytes) => !reader.seeds.includes(bytes))
    if (save) writeCorpus(name, own)
    return { name, inputs, read, corpus: own.length, covered: coverage.covered(), slowestMs: Math.round(slowestMs) }
  } finally {
    await reader.dispose?.()
    coverage.close()
  }
}

function main([name, seconds = '60', seed = '1', save]: string[]): void {
  const current = new SharedArrayBuffer(4 + maxInputBytes)
  const job: Job = { name, seconds: Number(seconds), seed: Number(seed), save: save === '--save', current }
  let since = performance.now()
  const fail = (problem: string, details = '') => {
    const bytes = Buffer.from(new Uint8Array(current, 4, new Int32Array(current, 0, 1)[0]).slice())
    process.stderr.write(`${name}: ${problem}: ${bytes.toString('base64')}\n${details}\n`)
    process.exit(1)
  }
  const worker = new Worker(__filename, { workerData: job })
  worker.on('message', (message: number | Report) => {
    if (typeof message === 'number') since = performance.now()
    else process.stdout.write(`${JSON.stringify(message)}\n`)
  })
  worker.on('error', (error) => fail('neither read nor refused', error.stack))
  worker.on('exit', (code) => process.exit(code))
  setInterval(() => {
    if (performance.now() - since > 1000 * maxSeconds) fail(`not done after ${maxSeconds} seconds`)
    if (process.memoryUsage.rss() > maxResidentBytes) fail('more than 2 GiB resident')
  }, 200)
}

if (!isMainThread && workerData) {
  void fuzz(workerData as Job).then((report) => parentPort!.postMessage(report))
} else if (require.main === module) main(process.argv.slice(2))
