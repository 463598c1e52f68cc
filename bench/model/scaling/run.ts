/**
 * node dist/bench/model/scaling/run.js --gpu H200 --precision bf16 --cifar 1,16,256 --sd 1,4,16 --networks 10gbe,nvlink
 *   --measured bench/results/2026-12-01-amd-epyc.json --output FILE.md
 *
 * How long a training step should take on 1 to 1,024 ranks, of the CIFAR-10 UNet and of Stable Diffusion 1.5's, by a model
 * (exchange.ts): for decisions before there are so many. --measured has a report of npm run bench:peers, for a CPU beside the GPU: the
 * GPU's step, as much longer as was measured. Nothing is executed. Without --output it writes bench/results/<date>-model-scaling.md.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { type Precision, precisions } from '../../../lib/native'
import type { UNetOptions } from '../../../lib/nn/unet/options'
import { cifar10 } from '../../cases/unet'
import type { Report } from '../../peers/report'
import { shapeOf } from '../../stable-diffusion/shape'
import { type Gpu, gpus } from '../gpus'
import { slower, type Timeline } from './exchange'
import { networks } from './networks'
import { pageOf, type Workload } from './page'
import { timelineOf } from './timeline'

const root = path.join(__dirname, '..', '..', '..', '..')

const { values } = parseArgs({
  options: {
    gpu: { type: 'string', default: 'H200' },
    precision: { type: 'string', default: 'bf16' },
    cifar: { type: 'string', default: '1,4,16,64,256,1024,2048' },
    sd: { type: 'string', default: '1,4,16,64,128' },
    networks: { type: 'string', default: Object.keys(networks).join() },
    measured: { type: 'string' },
    output: { type: 'string' },
  },
})

function fail(problem: string): never {
  console.error(`bench/model/scaling: ${problem}`)
  process.exit(2)
}

const listOf = (name: 'cifar' | 'sd' | 'networks') => values[name].split(',').filter((text) => text !== '')

function batches(name: 'cifar' | 'sd'): number[] {
  const all = listOf(name).map((text) => {
    if (!/^[1-9]\d{0,5}$/.test(text)) fail(`--${name} takes integers of at least 1, not '${text}'`)
    return Number(text)
  })
  return all.sort((a, b) => a - b)
}

function timelines(gpu: Gpu, precision: Precision, unet: UNetOptions, sizes: readonly number[]): Map<number, Timeline> {
  return new Map(sizes.map((batch) => [batch, timelineOf(gpu, precision, unet, batch)]))
}

/** Of a report of npm run bench:peers: a training step of 16 images, in seconds, and of what. */
function measured(file: string): { cpu: string; threads: number; seconds: number } {
  const { cpu, threads, rows } = JSON.parse(readFileSync(file, 'utf8')) as Report
  const row = rows?.find(({ workload, peer }) => workload === 'training, batch 16' && peer === 'ours')
  if (!row) fail(`--measured: ${file} has no training of batch 16`)
  return { cpu, threads, seconds: row.medianMs / 1e3 }
}

/** The steps of a GPU, as long as they were measured on a CPU; there, a step is taken to be proportional to its batch. */
function onCpu(file: string, ofGpu: ReadonlyMap<number, Timeline>): Workload {
  const { cpu, threads, seconds } = measured(file)
  const factor = (batch: number, { gradients, update }: Timeline) => (seconds * batch) / 16 / (gradients + update)
  return {
    name: `CIFAR-10 UNet on ${cpu}, ${threads} threads, fp32, of 16 images measured`,
    timelines: new Map([...ofGpu].map(([batch, timeline]) => [batch, slower(timeline, factor(batch, timeline))])),
  }
}

function main(): void {
  const gpu = gpus[values.gpu] ?? fail(`--gpu is one of ${Object.keys(gpus).join(', ')}, not '${values.gpu}'`)
  const precision = precisions.find((name) => name === values.precision) as Precision | undefined
  if (!precision) fail(`--precision is one of ${precisions.join(', ')}, not '${values.precision}'`)
  const chosen = listOf('networks').map(
    (name) => networks[name] ?? fail(`--networks are of ${Object.keys(networks).join(', ')}, not '${name}'`),
  )
  const cifar = timelines(gpu, precision, cifar10, batches('cifar'))
  const sd = timelines(gpu, precision, shapeOf(false).unet, batches('sd'))
  const workloads: Workload[] = [
    { name: `CIFAR-10 UNet on ${gpu.name}, ${precision}`, timelines: cifar },
    ...(values.measured === undefined ? [] : [onCpu(values.measured, cifar)]),
    { name: `Stable Diffusion 1.5's UNet on ${gpu.name}, ${precision}`, timelines: sd },
  ].filter(({ timelines }) => timelines.size > 0)
  if (workloads.length === 0) fail('--cifar or --sd: expected a batch')
  const given = Object.entries(values).filter(([name]) => name !== 'output')
  const command = `node dist/bench/model/scaling/run.js ${given.map(([name, value]) => `--${name} '${value}'`).join(' ')}`
  const date = new Date().toISOString().slice(0, 10)
  const page = pageOf({ date, command, networks: chosen, workloads })
  console.log(page)
  writeFileSync(values.output ?? path.join(root, 'bench', 'results', `${date}-model-scaling.md`), page)
}

main()
