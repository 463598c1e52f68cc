/**
 * npm run bench:gpu: milliseconds of a sampling step (CIFAR-10 UNet and posterior step), training steps, and the share of
 * copy bandwidth that the fused posterior step and GroupNorm reach, beside PyTorch on the same GPU with the same weights and
 * inputs. Each measurement has a process of its own; results are compared. Writes <date>-<device>.json and .md.
 * torch.compile takes minutes a shape, and has a call of its own: --compiled measures it, beside the others in bf16, into
 * <date>-<device>-compiled.
 * Options: --quick (a few minutes), --seconds S for each (3), --batches 1,16,128,512, --training 128, --precisions fp32,bf16,
 * --only <text of 'sampling 16 ours bf16'>, --device cuda, --out bench/results, --dry to write nothing. PYTHON is PyTorch's
 * interpreter.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { gpuState } from './gpu-state'
import { bandwidthTable, difference, lastJson, type Report, type Row, table, toleranceOf, writeReport } from './report'
import {
  type Bandwidth,
  bandwidthBatch,
  batches,
  type Kind,
  type Measured,
  peersOf,
  references,
  resultFile,
  trainingBatch,
  writeWorkload,
} from './workload'

const root = path.join(__dirname, '..', '..', '..')
const python = process.env.PYTHON ?? 'python3'
const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    compiled: { type: 'boolean', default: false },
    seconds: { type: 'string' },
    batches: { type: 'string', default: batches.join(',') },
    training: { type: 'string', default: String(trainingBatch) },
    precisions: { type: 'string', default: 'fp32,bf16' },
    only: { type: 'string', default: '' },
    device: { type: 'string', default: 'cuda' },
    out: { type: 'string', default: path.join(root, 'bench', 'results') },
    dry: { type: 'boolean', default: false },
  },
})
const seconds = Number(values.seconds ?? (values.quick ? 1 : 3))
const numbers = (text: string) => text.split(',').filter(Boolean).map(Number)

/** Of one measurement. */
const deadlineMs = values.compiled ? 600_000 : 240_000

function child<T>(file: string, args: readonly string[]): T {
  const { stdout, stderr, error, signal } = spawnSync(file, args, {
    encoding: 'utf8',
    timeout: deadlineMs,
    maxBuffer: 1 << 26,
  })
  if (error) throw error
  if (signal) throw new Error(`ended by ${signal}`)
  return lastJson<T>(`${stderr}\n${stdout}`)
}

const ours = <T>(kind: Kind | 'device', batch: number, precision: string, folder: string): T =>
  child(process.execPath, [
    ...[path.join(__dirname, 'one.js'), kind, String(batch), precision, String(seconds), values.device, folder],
  ])

function readResult(file: string): Float32Array {
  const bytes = new Uint8Array(readFileSync(file))
  return new Float32Array(bytes.buffer, 0, bytes.length / 4)
}

/** All peers of one workload; the reference is PyTorch in fp32, or we in fp32 where that is not there. */
function compare(kind: Row['kind'], batch: number, peers: readonly string[], folder: string): Row[] {
  const rows: Row[] = []
  for (const peer of peers) {
    if (!`${kind} ${batch} ${peer}`.includes(values.only)) continue
    process.stdout.write(`${kind} step, batch ${batch}, ${peer} ... `)
    const [who, variant] = peer.split(' ')
    let row: Row
    try {
      const { medianMs, minMs, version } =
        who === 'ours'
          ? ours<Measured>(kind, batch, variant, folder)
          : child<Measured>(python, [
              ...[
                path.join(root, 'bench', 'gpu', 'unet_gpu.py'),
                kind,
                String(batch),
                variant,
                String(seconds),
                folder,
              ],
            ])
      row = { kind, batch, peer, medianMs, minMs, version: version || undefined }
      console.log(`${medianMs.toFixed(3)} ms`)
    } catch (error) {
      row = { kind, batch, peer, problem: (error as Error).message.replaceAll(/[\n|]/g, ' ') }
      console.log(row.problem)
    }
    rows.push(row)
  }
  const file = (peer: string) => resultFile(folder, peer, kind, batch)
  const reference = references.find((peer) => existsSync(file(peer)))
  if (!reference) return rows
  const expected = readResult(file(reference))
  return rows.map((row) => {
    if (row.medianMs === undefined) return row
    if (row.peer === reference) return { ...row, reference }
    const off = difference(readResult(file(row.peer)), expected)
    const problem = off <= toleranceOf(row.peer) ? row.problem : `not the result of ${reference}`
    return { ...row, difference: off, reference, problem }
  })
}

async function main(): Promise<number> {
  let device: Report['device']
  try {
    device = ours<Report['device']>('device', 0, '', '')
  } catch (error) {
    console.error(`bench:gpu needs a GPU. ${(error as Error).message}`)
    return 1
  }
  console.log(`${device.name} (${device.isa}), ${(device.memoryBytes / 2 ** 30).toFixed(0)} GiB; ${device.libraries}\n`)
  const torch = spawnSync(python, ['-c', 'import torch; assert torch.cuda.is_available()'], { encoding: 'utf8' })
  if (torch.status !== 0) console.log(`PyTorch is not measured: ${python} has no torch that finds the GPU\n`)
  const peers = peersOf({
    precisions: values.precisions.split(','),
    torch: torch.status === 0,
    compiled: values.compiled,
  })
  const folder = mkdtempSync(path.join(os.tmpdir(), 'ddpm-gpu-'))
  try {
    const sizes = numbers(values.batches)
    await writeWorkload(folder, Math.max(...sizes, ...numbers(values.training)))
    const report: Report = {
      date: new Date().toISOString(),
      command: `npm run bench:gpu -- ${process.argv.slice(2).join(' ')}`.replace(/ -- $/, ''),
      device,
      node: process.version,
      seconds,
      gpuBefore: gpuState(values.device),
      gpuAfter: '',
      rows: [],
      bandwidth: [],
    }
    // After each workload: what is measured stays where the rest is cut off.
    const keep = () => {
      report.gpuAfter = gpuState(values.device)
      return values.dry ? [] : writeReport(report, values.out, values.compiled ? '-compiled' : '')
    }
    for (const batch of sizes) {
      report.rows.push(...compare('sampling', batch, peers, folder))
      keep()
    }
    for (const batch of numbers(values.training)) {
      report.rows.push(...compare('training', batch, peers, folder))
      keep()
    }
    if (!values.compiled && 'bandwidth'.includes(values.only)) {
      process.stdout.write('bandwidth ... ')
      try {
        report.bandwidth.push(...ours<Bandwidth[]>('bandwidth', bandwidthBatch, 'fp32', folder))
        console.log('done')
      } catch (error) {
        console.log((error as Error).message)
      }
    }
    console.log(`\n${table(report.rows)}\n\n${bandwidthTable(report.bandwidth)}`)
    const written = keep()
    if (written.length > 0) console.log(`\nwritten: ${written.join(', ')}`)
    return report.rows.some((row) => row.problem && row.peer.startsWith('ours')) ? 1 : 0
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

main().then((status) => {
  process.exitCode = status
})
