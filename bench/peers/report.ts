/** The results of a comparison as a table for people and as JSON. */
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'

export interface Row {
  readonly workload: string
  readonly peer: string
  /** The median over the rounds of each process' median. */
  readonly medianMs: number
  readonly minMs: number
  readonly mediansMs: readonly number[]
  /** VmRSS after the last run, the median. */
  readonly residentBytes: number
  /** VmHWM, the largest. */
  readonly peakRssBytes: number
  /** Of the direct algorithm, two operations to a multiply-add. */
  readonly gflops: number
  /** Time by our time. */
  readonly ratio: number
  /** Largest difference of our result, by the largest value; of losses in training. */
  readonly difference?: number
}

/** What every report says of its machine and run. */
export interface Conditions {
  readonly date: string
  readonly cpu: string
  readonly memoryBytes: number
  readonly node: string
  /** Of the machine before it began: above 0, others were using it. */
  readonly loadAverage: number
  readonly threads: number
  readonly seconds: number
  readonly rounds: number
  readonly machine: { readonly isa: string; readonly peakGflops: number }
}

export interface Report extends Conditions {
  readonly rows: Row[]
}

const columns = [
  ...[
    'workload',
    'peer',
    'median',
    'fastest',
    'GFLOP/s',
    'of peak',
    'times ours',
    'difference',
    'resident',
    'peak RSS',
  ],
]
const widths = [20, 20, 11, 11, 7, 7, 10, 10, 9, 9]

export function table({ rows, machine }: Report, { head = true } = {}): string {
  const cells = rows.map((row) => [
    row.workload,
    row.peer,
    `${row.medianMs.toFixed(1)} ms`,
    `${row.minMs.toFixed(1)} ms`,
    row.gflops.toFixed(0),
    `${((100 * row.gflops) / machine.peakGflops).toFixed(0)} %`,
    row.ratio.toFixed(2),
    row.difference?.toExponential(1) ?? '',
    `${(row.residentBytes / 2 ** 20).toFixed(0)} MiB`,
    `${(row.peakRssBytes / 2 ** 20).toFixed(0)} MiB`,
  ])
  return markdownTable({ columns, widths, left: 2 }, cells, head)
}

interface Layout {
  readonly columns: readonly string[]
  readonly widths: readonly number[]
  /** How many of the first columns are flush left; numbers are flush right. */
  readonly left: number
}

/** Markdown that lines up as text too. */
export function markdownTable(
  { columns, widths, left }: Layout,
  cells: readonly (readonly string[])[],
  head: boolean,
): string {
  const line = (texts: readonly string[]) =>
    `| ${texts.map((text, i) => (i < left ? text.padEnd(widths[i]) : text.padStart(widths[i]))).join(' | ')} |`
  const rule = `|${widths.map((width, i) => '-'.repeat(width + (i < left ? 2 : 1)) + (i < left ? '' : ':')).join('|')}|`
  return [...(head ? [line(columns), rule] : []), ...cells.map(line)].join('\n')
}

function page(report: Report): string {
  const { date, cpu, machine, threads, node, loadAverage, seconds, rounds } = report
  return `# ${cpu}, ${date.slice(0, 10)}

CIFAR-10 UNet (35.7 M parameters, 32x32), float32, ${threads} threads, ${machine.isa}. Measured FMA peak:
${machine.peakGflops.toFixed(0)} GFLOP/s. Node.js ${node}. Load average before: ${loadAverage.toFixed(2)}.
Each process ran for at least ${seconds} s after a warm-up, the peers in turn, ${rounds} rounds. GFLOP/s are those of the direct
algorithm. A training step is q_sample, forward, loss, gradients and AdamW. Resident: VmRSS after the last run; peak: VmHWM.
Differences are of outputs, and in training of the first losses, by the peer's largest value.

${table(report)}
`
}

/** Returns the names of the files. */
export const writeReport = (report: Report, folder: string) => writeFiles(report, { folder, page: page(report) })

/** `<date>[-<name>]-<cpu>.json` and `.md`, and returns their names. */
export function writeFiles<R extends Conditions>(
  report: R,
  { folder, name, page }: { readonly folder: string; readonly name?: string; readonly page: string },
): string[] {
  mkdirSync(folder, { recursive: true })
  const cpu = report.cpu.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-')
  const base = path.join(folder, [report.date.slice(0, 10), ...(name ? [name] : []), cpu].join('-'))
  writeFileSync(`${base}.json`, `${JSON.stringify(report, null, 2)}\n`)
  writeFileSync(`${base}.md`, page)
  return [`${base}.json`, `${base}.md`]
}
