/** A model's results for people. */
import type { Gpu } from './gpus'
import { launchSeconds } from './gpus'
import { layersOf, type StepTime } from './time'

export interface Modelled {
  /** "sampling, batch 16". */
  readonly name: string
  readonly times: readonly StepTime[]
}

const sumOf = (times: readonly { flops: number; bytes: number; launches: number; seconds: number }[]) =>
  times.reduce(
    (a, b) => ({
      flops: a.flops + b.flops,
      bytes: a.bytes + b.bytes,
      launches: a.launches + b.launches,
      seconds: a.seconds + b.seconds,
    }),
    { flops: 0, bytes: 0, launches: 0, seconds: 0 },
  )

/** `| a | b |` lines, the first column to the left. */
export function markdown(rows: readonly (readonly string[])[]): string {
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)))
  const cell = (text: string, i: number) => (i === 0 ? text.padEnd(widths[i]) : text.padStart(widths[i]))
  const line = (row: readonly string[]) => `| ${row.map(cell).join(' | ')} |`
  const rule = `|${widths.map((width, i) => (i === 0 ? '-'.repeat(width + 2) : `${'-'.repeat(width + 1)}:`)).join('|')}|`
  return [line(rows[0]), rule, ...rows.slice(1).map(line)].join('\n')
}

const ms = (seconds: number) => (seconds * 1e3).toFixed(3)

export function overview(results: readonly Modelled[], gpu: Gpu): string {
  const rows = results.map(({ name, times }) => {
    const { flops, bytes, launches, seconds } = sumOf(times)
    const copies = times.filter(({ step }) => step.op === 'Copy')
    const peak = times.reduce((sum, time) => sum + time.peakSeconds, 0)
    const floor = Math.max(peak, bytes / gpu.bandwidth)
    return [
      name,
      `${launches}`,
      (flops / 1e9).toFixed(1),
      (bytes / 1e9).toFixed(3),
      `${copies.length} (${(sumOf(copies).bytes / 1e6).toFixed(0)} MB)`,
      ms(launches * launchSeconds),
      ms(floor),
      ms(seconds),
    ]
  })
  const head = [
    'step of',
    'launches',
    'GFLOP',
    'GB',
    'copies',
    'starts, ms',
    'peak or bandwidth alone, ms',
    'model, ms',
  ]
  return markdown([head, ...rows])
}

/** A kernel's name without namespaces, a tile as its size, and no longer than a table has room for. */
function short(kernel: string): string {
  const text = kernel.replace(/[({]anonymous[^:]*::|ddpm::(cuda::)?|ConvPass::/g, '')
  return text.replace(/MmaShape<(\d+), (\d+)[^>]*>/, '$1x$2').slice(0, 44)
}

export function layerTable({ times }: Modelled, limit: number): string {
  const layers = layersOf(times)
  const row = (name: string, count: number, kernel: string, fill: string[], all: ReturnType<typeof sumOf>) => [
    name,
    kernel,
    `${count}`,
    `${all.launches}`,
    ...fill,
    (all.flops / 1e9).toFixed(2),
    (all.bytes / 1e6).toFixed(2),
    (all.seconds * 1e6).toFixed(1),
  ]
  const rows = layers.slice(0, limit).map((layer) => {
    const fill = [`${layer.blocks}`, layer.waves.toFixed(2), `${Math.round(100 * layer.full)} %`]
    return row(layer.name, layer.count, short(layer.main?.kernel ?? 'nothing'), fill, layer)
  })
  const rest = layers.slice(limit)
  if (rest.length > 0) {
    const count = rest.reduce((n, layer) => n + layer.count, 0)
    rows.push(row(`${rest.length} more`, count, '', ['', '', ''], sumOf(rest)))
  }
  const head = ['layer', 'largest kernel', 'steps', 'launches', 'blocks', 'waves', 'full', 'GFLOP', 'MB', 'us']
  return markdown([head, ...rows])
}
