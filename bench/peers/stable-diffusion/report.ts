/** The results of the comparison of Stable Diffusion's shape as a table for people and as JSON. */
import type { Precision, WeightFormat } from '../../../lib/native'
import { type Conditions, markdownTable, writeFiles } from '../report'
import type { Part } from './parts'

export interface Row {
  readonly part: Part
  readonly parameters: number
  readonly peer: string
  /** Medians over the rounds, each of a process. */
  readonly openMs: number
  readonly firstMs: number
  /** Of each process' median of the steps after the first. */
  readonly medianMs: number
  readonly minMs: number
  readonly mediansMs: readonly number[]
  /** VmRSS after the last step, the median. */
  readonly residentBytes: number
  /** VmHWM, the largest. */
  readonly peakBytes: number
  /** Of the direct algorithms, two operations to a multiply-add. */
  readonly gflops: number
  /** Median step by ours. */
  readonly ratio: number
  /** Largest difference from our output, and the largest number of the peer's. */
  readonly difference?: number
  readonly largestValue?: number
}

export interface Report extends Conditions {
  readonly small: boolean
  /** Of our weights. */
  readonly weightFormat: WeightFormat
  /** What we computed in. */
  readonly precision: Precision
  readonly rows: Row[]
}

const columns = [
  ...['', 'peer', 'open', 'first', 'step', 'fastest', 'GFLOP/s', 'of peak', 'times ours', 'difference', 'resident'],
  'peak',
]
const widths = [8, 18, 8, 8, 8, 8, 7, 7, 10, 10, 9, 9]

const seconds = (ms: number) => `${(ms / 1000).toFixed(2)} s`
const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`

export function rowsTable(
  { machine }: Report,
  { rows, head = true }: { rows: readonly Row[]; head?: boolean },
): string {
  const cells = rows.map((row) => [
    ...[row.part, row.peer, seconds(row.openMs), seconds(row.firstMs), seconds(row.medianMs), seconds(row.minMs)],
    row.gflops.toFixed(0),
    `${((100 * row.gflops) / machine.peakGflops).toFixed(0)} %`,
    row.ratio.toFixed(2),
    row.difference?.toExponential(1) ?? '',
    ...[mib(row.residentBytes), mib(row.peakBytes)],
  ])
  return markdownTable({ columns, widths, left: 2 }, cells, head)
}

export function page(report: Report): string {
  const {
    small,
    weightFormat,
    precision,
    date,
    cpu,
    machine,
    threads,
    node,
    loadAverage,
    seconds: s,
    rounds,
    rows,
    memoryBytes,
  } = report
  const options = [
    ...(small ? ['--small'] : []),
    ...(weightFormat === 'fp32' ? [] : [`--weight-format ${weightFormat}`]),
    ...(precision === 'fp32' ? [] : [`--precision ${precision}`]),
  ]
  const ours = [
    ...(weightFormat === 'fp32' ? [] : [`held in ${weightFormat}`]),
    ...(precision === 'fp32' ? [] : [`multiplied in ${precision}`]),
  ]
  const of = (part: Part) => rows.find((row) => row.part === part && row.difference !== undefined)
  const size = (part: Part) => `${((of(part)?.parameters ?? 0) / 1e6).toFixed(0)} M parameters`
  const shape = small
    ? `A tenth of Stable Diffusion 1.5's channels: UNet (${size('unet')}, 32x32 latents, batch 2, 77 tokens) and decoder
(${size('decoder')}, 256x256)`
    : `Stable Diffusion 1.5's shape: UNet (${size('unet')}, 64x64 latents, batch 2, 77 tokens of 768) and decoder
(${size('decoder')}, one image of 512x512)`
  return `# Stable Diffusion's shape beside ONNX Runtime: ${cpu}, ${date.slice(0, 10)}

\`npm run bench:peers -- --only sd${options.map((option) => ` ${option}`).join('')} --seconds ${s} --rounds ${rounds} --threads ${threads}\`

${shape}, float32, random weights${ours.length > 0 ? `, ours ${ours.join(' and ')}` : ''},
${threads} threads, ${machine.isa}, ${(memoryBytes / 2 ** 30).toFixed(0)} GiB of memory. FMA peak measured in the same run: ${machine.peakGflops.toFixed(0)} GFLOP/s.
Node.js ${node}. Load average before: ${loadAverage.toFixed(2)}. Each peer has a process of its own for each of ${rounds} rounds, one after
the other. Open: until a first step could begin, weights read. First: the first step. Step: the median of those after it, at
least three and ${s} s. Resident: VmRSS after them; peak: VmHWM. GFLOP/s are those of the direct algorithms.
The difference is the largest of the outputs', whose largest numbers are ${(of('unet')?.largestValue ?? 0).toPrecision(3)} (unet) and ${(of('decoder')?.largestValue ?? 0).toPrecision(3)} (decoder).

${rowsTable(report, { rows })}
`
}

function nameOf({ small, weightFormat, precision }: Report): string {
  const held = weightFormat === 'fp32' ? '' : `-${weightFormat}`
  const computed = precision === 'fp32' ? '' : `-in-${precision}`
  return `stable-diffusion-peers${small ? '-small' : ''}${held}${computed}`
}

/** Returns the names of the files. */
export const writeReport = (report: Report, folder: string) =>
  writeFiles(report, { folder, name: nameOf(report), page: page(report) })
