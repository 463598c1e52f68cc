/** The results of npm run bench:gpu as a table for people and as JSON. */
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import type { Bandwidth, Kind } from './workload'

export interface Row {
  readonly kind: Exclude<Kind, 'bandwidth'>
  readonly batch: number
  readonly peer: string
  /** Of a step; not there where it was not measured. */
  readonly medianMs?: number
  readonly minMs?: number
  readonly version?: string
  /** Largest difference from the reference's result (of its largest value), and who the reference is. */
  readonly difference?: number
  readonly reference?: string
  /** Why it was not measured, or that its results are not those of the reference. */
  readonly problem?: string
}

export interface Report {
  readonly date: string
  readonly command: string
  readonly device: {
    readonly name: string
    readonly isa: string
    readonly memoryBytes: number
    readonly libraries: string
  }
  readonly node: string
  readonly seconds: number
  /** Driver, clocks, power and temperature: see gpuState. */
  readonly gpuBefore: string
  gpuAfter: string
  readonly rows: Row[]
  readonly bandwidth: Bandwidth[]
}

export function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** max |a - b| / max |b|; NaN where one of them is not finite. */
export function difference(actual: Float32Array, expected: Float32Array): number {
  if (actual.length !== expected.length || actual.length === 0) {
    throw new Error(`${actual.length} numbers, expected ${expected.length}`)
  }
  let [worst, largest] = [0, 0]
  for (let i = 0; i < actual.length; i++) {
    if (!Number.isFinite(actual[i]) || !Number.isFinite(expected[i])) return Number.NaN
    worst = Math.max(worst, Math.abs(actual[i] - expected[i]))
    largest = Math.max(largest, Math.abs(expected[i]))
  }
  return worst / largest
}

/** What results may differ by: float32 sums in another order; bfloat16 operands through 60 layers. */
export const toleranceOf = (peer: string): number => (peer.includes('fp32') ? 1e-3 : 5e-2)

/** The last line of a process's output that is JSON. Throws with what it says went wrong, or with its last words. */
export function lastJson<T>(output: string): T {
  for (const line of output.trim().split('\n').reverse()) {
    if (!/^[[{]/.test(line)) continue
    let value: T & { error?: string }
    try {
      value = JSON.parse(line)
    } catch {
      continue
    }
    if (value.error !== undefined) throw new Error(value.error)
    return value
  }
  throw new Error(output.trim().split('\n').slice(-3).join(' ').slice(-300) || 'it printed nothing')
}

function markdown(head: readonly string[], rows: readonly (readonly string[])[], textColumns: number): string {
  const widths = head.map((name, i) => Math.max(name.length, ...rows.map((row) => row[i].length)))
  const line = (cells: readonly string[]) =>
    `| ${cells.map((text, i) => (i < textColumns ? text.padEnd(widths[i]) : text.padStart(widths[i]))).join(' | ')} |`
  const rule = `|${widths.map((width, i) => (i < textColumns ? '-'.repeat(width + 2) : `${'-'.repeat(width + 1)}:`)).join('|')}|`
  return [line(head), rule, ...rows.map(line)].join('\n')
}

const short = (text = '') => (text.length > 80 ? `${text.slice(0, 77)}...` : text)

/** A line a measurement; `times` is its time by that of our fastest in the same workload. */
export function table(rows: readonly Row[]): string {
  const cells = rows.map((row) => {
    const ours = rows.filter((r) => r.kind === row.kind && r.batch === row.batch && r.peer.startsWith('ours'))
    const fastest = Math.min(...ours.map((r) => r.medianMs ?? Number.POSITIVE_INFINITY))
    const workload = `${row.kind} step, batch ${row.batch}`
    const difference =
      row.difference === undefined ? (row.peer === row.reference ? 'reference' : '') : row.difference.toExponential(1)
    if (row.medianMs === undefined) return [workload, row.peer, '', '', '', '', '', short(row.problem)]
    return [
      workload,
      row.peer,
      row.medianMs.toFixed(row.medianMs < 10 ? 3 : 1),
      row.minMs?.toFixed(row.minMs < 10 ? 3 : 1) ?? '',
      (1000 / row.medianMs).toFixed(1),
      Number.isFinite(fastest) ? (row.medianMs / fastest).toFixed(2) : '',
      difference,
      short(row.problem),
    ]
  })
  const head = ['workload', 'peer', 'ms a step', 'fastest', 'steps/s', 'times ours', 'difference', 'problem']
  return markdown(head, cells, 2)
}

export function bandwidthTable(all: readonly Bandwidth[]): string {
  const copy = all.find(({ name }) => name === 'copy')?.gigabytesPerSecond
  const cells = all.map(({ name, gigabytesPerSecond }) => [
    name,
    gigabytesPerSecond.toFixed(0),
    copy ? `${((100 * gigabytesPerSecond) / copy).toFixed(0)} %` : '',
  ])
  return markdown(['memory', 'GB/s', 'of a copy'], cells, 1)
}

function page(report: Report): string {
  const { date, command, device, node, seconds, gpuBefore, gpuAfter, rows, bandwidth } = report
  const versions = new Set(rows.filter((row) => row.version).map((row) => row.version))
  return `# ${device.name} (${device.isa}), ${date.slice(0, 10)}

\`${command}\`, ${date}. CIFAR-10 UNet (35.7 M parameters, 32x32), the same weights and inputs for all, each measurement in
a process of its own for at least ${seconds} s after a warm-up. Node.js ${node}${versions.size > 0 ? `, PyTorch ${[...versions].join(', ')}` : ''}.
A sampling step is the network and the posterior step with its noise; a training step is q_sample, forward, loss, gradients
and AdamW. Ours are timed through the public API (\`sample\`, \`trainBatch\`). Images and noise are on the device before a step is
timed, on both sides; a sampling, which is 50 or 20 steps, ends with its images on the host. Differences are of one step's result and of the
first losses, by the reference's largest value. Bandwidths count what must be read and written, once each.

Libraries: ${device.libraries || 'none'}. Before: ${gpuBefore}. After: ${gpuAfter}.

${table(rows)}

${bandwidthTable(bandwidth)}
`
}

/** Returns the names of the files, which end in `suffix`. */
export function writeReport(report: Report, folder: string, suffix = ''): string[] {
  mkdirSync(folder, { recursive: true })
  const name = report.device.name.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-')
  const base = path.join(folder, `${report.date.slice(0, 10)}-${name}${suffix}`)
  writeFileSync(`${base}.json`, `${JSON.stringify(report, null, 2)}\n`)
  writeFileSync(`${base}.md`, page(report))
  return [`${base}.json`, `${base}.md`]
}
