/**
 * npm run bench:peers -- --only sd: a step of Stable Diffusion 1.5's UNet (860 M parameters, 64x64 latents, a prompt of 77 tokens and none)
 * and its decoder at 512x512, with random weights, beside ONNX Runtime. Each measurement has a process of its own.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import type { Precision, WeightFormat } from '../../../lib/native'
import { childJson, conditions, differenceOf, median } from '../compare'
import { fileOf, type Measured, type Part, type Prepared, parts, type Size } from './parts'
import { type Report, type Row, rowsTable } from './report'

export interface StableDiffusionOptions extends Size {
  readonly seconds: number
  readonly rounds: number
  readonly threads: number
  /** Of our weights. Default 'fp32'. */
  readonly weightFormat?: WeightFormat
  /** What we compute in. Default 'fp32'. */
  readonly precision?: Precision
}

const peers = ['ours', 'onnxruntime']

/** 8 GB of temporary files and as much memory as either takes; with `small` seconds and little. */
export async function compareStableDiffusion(
  o: StableDiffusionOptions,
  say: (text: string) => void = console.log,
): Promise<Report> {
  const { weightFormat = 'fp32', precision = 'fp32' } = o
  const folder = mkdtempSync(path.join(os.tmpdir(), 'ddpm-peers-sd-'))
  const flags = o.small ? ['--small'] : []
  const run = <T>(file: string, ...args: string[]) =>
    childJson<T>(process.execPath, [path.join(__dirname, file), ...args, ...flags], o.threads)
  try {
    const report: Report = { ...conditions(o), small: o.small, weightFormat, precision, rows: [] }
    say('Writing weights ...')
    const prepared = run<Prepared>('prepare.js', folder)
    say(rowsTable(report, { rows: [] }))
    for (const part of parts) {
      const measured: Record<string, Measured[]> = Object.fromEntries(peers.map((peer) => [peer, []]))
      for (let round = 0; round < o.rounds; round++) {
        for (const peer of peers) {
          const how = [String(o.seconds), String(o.threads), folder, weightFormat, precision]
          measured[peer].push(run('one.js', peer, part, ...how))
        }
      }
      const rows = peers.map((peer) => rowOf(part, peer, measured, { folder, prepared }))
      say(rowsTable(report, { rows, head: false }))
      report.rows.push(...rows)
    }
    return report
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function rowOf(
  part: Part,
  peer: string,
  measured: Readonly<Record<string, readonly Measured[]>>,
  { folder, prepared }: { folder: string; prepared: Prepared },
): Row {
  const of = (name: string, key: Exclude<keyof Measured, 'version'>) => median(measured[name].map((m) => m[key]))
  const medianMs = of(peer, 'medianMs')
  const files = fileOf(folder)
  const { largest, of: largestValue } = differenceOf(files.result('ours', part), files.result(peer, part))
  return {
    part,
    parameters: prepared.parameters[part],
    peer: `${peer} ${measured[peer][0].version}`.trim(),
    ...{ openMs: of(peer, 'openMs'), firstMs: of(peer, 'firstMs'), medianMs },
    minMs: Math.min(...measured[peer].map(({ minMs }) => minMs)),
    mediansMs: measured[peer].map((m) => m.medianMs),
    residentBytes: of(peer, 'residentBytes'),
    peakBytes: Math.max(...measured[peer].map(({ peakBytes }) => peakBytes)),
    gflops: prepared.flops[part] / medianMs / 1e6,
    ratio: medianMs / of('ours', 'medianMs'),
    ...(peer !== 'ours' && { difference: largest, largestValue }),
  }
}
