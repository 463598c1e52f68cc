/**
 * npm run bench:peers: the CIFAR-10 UNet forward and in training beside ONNX Runtime and PyTorch, with the same weights on
 * the same inputs. Each measurement has a process of its own, the peers take turns, results are compared. Writes
 * bench/results/<date>-<cpu>.json and .md.
 * Options: --seconds S for each process (5), --rounds R (3), --threads T (all cores), --only <text> of 'forward 16', or
 * --only sd for Stable Diffusion's shape, which needs 10 GB of temporary files and 16 of memory (with --small neither; --weight-format int8 and others: what our weights are held in; --precision bf16: what we compute in), --install to install ONNX Runtime and do nothing else, --dry to write no results. PYTHON is PyTorch's interpreter.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import type { Precision, WeightFormat } from '../../lib/native'
import { cifar10Flops } from '../cases/unet'
import { childJson, conditions, differenceOf, median } from './compare'
import { loadOrt, peersFolder } from './ort'
import { type Report, type Row, table, writeReport } from './report'
import { writeReport as writeStableDiffusion } from './stable-diffusion/report'
import { compareStableDiffusion } from './stable-diffusion/run'
import { type Kind, type Measured, resultFile, writeWorkload } from './workload'

const python = process.env.PYTHON ?? '/usr/bin/python3'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '5' },
    rounds: { type: 'string', default: '3' },
    threads: { type: 'string', default: String(os.availableParallelism()) },
    only: { type: 'string', default: '' },
    small: { type: 'boolean', default: false },
    'weight-format': { type: 'string', default: 'fp32' },
    precision: { type: 'string', default: 'fp32' },
    install: { type: 'boolean', default: false },
    dry: { type: 'boolean', default: false },
  },
})

const settings = {
  seconds: Number(values.seconds),
  rounds: Number(values.rounds),
  threads: Number(values.threads),
}
const results = path.join(peersFolder, '..', 'results')

const workloads: { kind: Kind; batch: number; peers: string[] }[] = [
  ...[1, 4, 16].map((batch) => ({ kind: 'forward' as const, batch, peers: ['ours', 'onnxruntime', 'pytorch'] })),
  { kind: 'training', batch: 16, peers: ['ours', 'pytorch'] },
]

function install(): void {
  if (loadOrt()) return
  console.log('Installing ONNX Runtime into bench/peers ...')
  const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm'
  execFileSync(npm, ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], { cwd: peersFolder, stdio: 'inherit' })
}

function measureOnce(peer: string, kind: Kind, batch: number, folder: string): Measured {
  const args = [kind, String(batch), values.seconds, values.threads, folder]
  return peer === 'pytorch'
    ? childJson(python, [path.join(peersFolder, 'unet_torch.py'), ...args], settings.threads)
    : childJson(process.execPath, [path.join(__dirname, 'one.js'), peer, ...args], settings.threads)
}

/** The largest difference from the peer's result, of the peer's largest value. */
function difference(folder: string, peer: string, kind: Kind, batch: number): number {
  const { largest, of } = differenceOf(resultFile(folder, 'ours', kind, batch), resultFile(folder, peer, kind, batch))
  return largest / of
}

/** All peers in turn, round after round. */
function compare({ kind, batch, peers }: (typeof workloads)[number], folder: string): Row[] {
  const measured = new Map<string, Measured[]>(peers.map((peer) => [peer, []]))
  for (let round = 0; round < settings.rounds; round++) {
    for (const [peer, list] of measured) list.push(measureOnce(peer, kind, batch, folder))
  }
  const medianOf = (peer: string) => median(measured.get(peer)!.map(({ medianMs }) => medianMs))
  const flops = (kind === 'training' ? 3 : 1) * batch * cifar10Flops
  return peers.map((peer) => {
    const runs = measured.get(peer)!
    const medianMs = medianOf(peer)
    return {
      workload: `${kind}, batch ${batch}`,
      peer: `${peer} ${runs[0].version}`.trim(),
      medianMs,
      minMs: Math.min(...runs.map(({ minMs }) => minMs)),
      mediansMs: runs.map((run) => run.medianMs),
      residentBytes: median(runs.map(({ residentBytes }) => residentBytes)),
      peakRssBytes: Math.max(...runs.map(({ peakRssBytes }) => peakRssBytes)),
      gflops: flops / medianMs / 1e6,
      ratio: medianMs / medianOf('ours'),
      ...(peer === 'ours' ? {} : { difference: difference(folder, peer, kind, batch) }),
    }
  })
}

async function stableDiffusion(): Promise<void> {
  const report = await compareStableDiffusion({
    ...settings,
    small: values.small,
    // Checked where the model is opened.
    weightFormat: values['weight-format'] as WeightFormat,
    precision: values.precision as Precision,
  })
  if (!values.dry) console.log(`\nwritten: ${writeStableDiffusion(report, results).join(', ')}`)
}

async function main(): Promise<void> {
  install()
  if (values.install) return
  if (values.only === 'sd') return stableDiffusion()
  const torch = spawnSync(python, ['-c', 'import torch'], { encoding: 'utf8' })
  const missing = torch.status === 0 ? [] : ['pytorch']
  if (missing.length > 0) console.log(`PyTorch is not measured: ${python} can't import torch (Debian: python3-torch)\n`)
  const folder = mkdtempSync(path.join(os.tmpdir(), 'ddpm-peers-'))
  try {
    const report: Report = { ...conditions(settings), rows: [] }
    await writeWorkload(folder)
    console.log(table(report))
    for (const workload of workloads) {
      if (!`${workload.kind} ${workload.batch}`.includes(values.only)) continue
      const peers = workload.peers.filter((peer) => !missing.includes(peer))
      const rows = compare({ ...workload, peers }, folder)
      console.log(table({ ...report, rows }, { head: false }))
      report.rows.push(...rows)
    }
    if (!values.dry) console.log(`\nwritten: ${writeReport(report, results).join(', ')}`)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

void main()
