/**
 * npm run bench:scaling: a training step of the CIFAR-10 UNet by one process with two threads beside two of one thread, which mpirun
 * starts, and one of one thread; as many images in all. In turn, each time in new processes. Writes
 * bench/results/<date>-scaling-<cpu>.json and .md.
 * Options: --batch N images of a step (16), --seconds S for each (10), --rounds R (3), --dry to write no results.
 */
import { execFileSync } from 'node:child_process'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { childJson, conditions, median } from '../peers/compare'
import { type Conditions, markdownTable, writeFiles } from '../peers/report'
import type { Ranked } from './rank'

const { values } = parseArgs({
  options: {
    batch: { type: 'string', default: '16' },
    seconds: { type: 'string', default: '10' },
    rounds: { type: 'string', default: '3' },
    dry: { type: 'boolean', default: false },
  },
})

function fail(problem: string): never {
  console.error(`bench:scaling: ${problem}`)
  process.exit(2)
}

const [batch, seconds, rounds] = (['batch', 'seconds', 'rounds'] as const).map((name) => {
  if (!/^[1-9]\d*$/.test(values[name])) fail(`--${name} takes an integer of at least 1, not '${values[name]}'`)
  return Number(values[name])
})
if (batch % 2) fail(`--batch is of two ranks, not ${batch}`)

interface Way {
  readonly ranks: number
  readonly threads: number
}

const ways: readonly Way[] = [
  { ranks: 1, threads: 1 },
  { ranks: 1, threads: 2 },
  { ranks: 2, threads: 1 },
]
const nameOf = ({ ranks, threads }: Way) =>
  `${ranks} rank${ranks > 1 ? 's' : ''} of ${threads} thread${threads > 1 ? 's' : ''}`

interface Row extends Way, Ranked {
  readonly mediansMs: readonly number[]
  readonly imagesPerSecond: number
}

interface Report extends Conditions {
  readonly batch: number
  readonly rows: readonly Row[]
}

function once({ ranks, threads }: Way): Ranked {
  const script = [path.join(__dirname, 'rank.js'), String(batch / ranks), String(seconds)]
  if (ranks === 1) return childJson(process.execPath, script, threads)
  // Open MPI counts cores and ties processes to them; others know neither option.
  const version = execFileSync('mpirun', ['--version'], { encoding: 'utf8' })
  const own = /open mpi|open-mpi/i.test(version) ? ['--oversubscribe', '--bind-to', 'none'] : []
  return childJson('mpirun', [...own, '-n', String(ranks), process.execPath, ...script], threads)
}

function rowOf(way: Way, runs: readonly Ranked[]): Row {
  const of = (name: 'medianMs' | 'sumMs') => median(runs.map((run) => run[name]))
  return {
    ...way,
    ...runs[0],
    medianMs: of('medianMs'),
    minMs: Math.min(...runs.map(({ minMs }) => minMs)),
    mediansMs: runs.map(({ medianMs }) => medianMs),
    sumMs: of('sumMs'),
    peakRssBytes: Math.max(...runs.map(({ peakRssBytes }) => peakRssBytes)),
    imagesPerSecond: (1000 * batch) / of('medianMs'),
  }
}

function table({ rows }: Report): string {
  const columns = [
    '',
    'median',
    'fastest',
    'images/s',
    'times 1 of 2',
    'sent a step',
    'sum alone',
    'peak RSS of a rank',
  ]
  const one = rows.find(({ ranks, threads }) => ranks === 1 && threads === 2)!
  const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`
  const cells = rows.map((row) => [
    nameOf(row),
    `${row.medianMs.toFixed(1)} ms`,
    `${row.minMs.toFixed(1)} ms`,
    row.imagesPerSecond.toFixed(2),
    (row.medianMs / one.medianMs).toFixed(3),
    mib(row.sentBytes),
    row.ranks > 1 ? `${row.sumMs.toFixed(1)} ms` : '',
    mib(row.peakRssBytes),
  ])
  return markdownTable({ columns, widths: [20, 11, 11, 8, 12, 11, 10, 18], left: 1 }, cells, true)
}

function page(report: Report): string {
  const { date, cpu, machine, node, loadAverage } = report
  const library = report.rows.at(-1)!.library
  return `# Ranks of ${cpu}, ${date.slice(0, 10)}

Training steps of the CIFAR-10 UNet (35.7 M parameters, 32x32), float32, ${machine.isa}, ${batch} images a step in all, without an average.
Node.js ${node}, ${library}. Load average before: ${loadAverage.toFixed(2)}. Each ran for at least ${seconds} s after a warm-up, in turn, ${rounds} rounds.
Sent: by a rank, of the gradients; the sum alone: of as many numbers while nothing is computed. Peak: VmHWM.

${table(report)}
`
}

function main(): void {
  const head = conditions({ threads: 2, seconds, rounds })
  const runs = ways.map(() => [] as Ranked[])
  for (let round = 0; round < rounds; round++) for (const [i, way] of ways.entries()) runs[i].push(once(way))
  const report: Report = { ...head, batch, rows: ways.map((way, i) => rowOf(way, runs[i])) }
  console.log(page(report))
  const folder = path.join(__dirname, '..', '..', '..', 'bench', 'results')
  if (!values.dry)
    console.log(`written: ${writeFiles(report, { folder, name: 'scaling', page: page(report) }).join(', ')}`)
}

main()
