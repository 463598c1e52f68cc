/** What the model says, for people. */
import { markdown } from '../table'
import { bytesKept, stepOf, type Timeline } from './exchange'
import type { Network } from './networks'

export interface Workload {
  /** "CIFAR-10 UNet on an H200 SXM, bf16". */
  readonly name: string
  /** By the batch of a rank, from small to large. */
  readonly timelines: ReadonlyMap<number, Timeline>
}

export const rankCounts = Array.from({ length: 11 }, (_, i) => 2 ** i)
const summed = [2, 8, 64, 1024]

const mega = (bytes: number) => `${(bytes / 1e6).toFixed(0)} MB`
const percent = (share: number) => `${(100 * share).toFixed(1)} %`

const connects = ({ ranks = Number.POSITIVE_INFINITY }: Network, count: number) => count <= ranks

function networkTable(all: readonly Network[]): string {
  const micro = (seconds: number) => (seconds * 1e6).toFixed(1)
  const rows = all.map(({ name, bandwidth, latency, message }) => [
    name,
    (bandwidth / 1e9).toFixed(2),
    micro(latency),
    micro(message),
  ])
  const sources = all.map(({ name, source }) => `- ${name}: ${source}.`)
  return [markdown([['network', 'GB/s each way', 'latency, us', 'a message, us'], ...rows]), '', ...sources].join('\n')
}

/** Time of a step and its efficiency, by ranks. */
function stepTable(timeline: Timeline, all: readonly Network[]): string {
  const rows = rankCounts.map((ranks) => [
    `${ranks}`,
    ...all.map((network) => {
      if (!connects(network, ranks)) return ''
      const { seconds, efficiency } = stepOf(timeline, ranks, network)
      return `${(seconds * 1e3).toFixed(1)} ms, ${percent(efficiency)}`
    }),
  ])
  return markdown([['ranks', ...all.map(({ name }) => name)], ...rows])
}

/** The largest share of the ranks' arithmetic that a network leaves unused, by the batch of a rank. */
function lossTable({ timelines }: Workload, all: readonly Network[]): string {
  const lost = (timeline: Timeline, network: Network) =>
    1 - Math.min(...rankCounts.filter((n) => connects(network, n)).map((n) => stepOf(timeline, n, network).efficiency))
  const rows = all.map((network) => [
    network.name,
    ...[...timelines.values()].map((timeline) => percent(lost(timeline, network))),
  ])
  return markdown([['network', ...[...timelines.keys()].map((batch) => `batch ${batch}`)], ...rows])
}

/** The smallest batch of a rank, of those computed, at which this much of the arithmetic is used. */
function smallest({ timelines }: Workload, ranks: number, network: Network, least: number): string {
  for (const [batch, timeline] of timelines) if (stepOf(timeline, ranks, network).efficiency >= least) return `${batch}`
  return `> ${Math.max(...timelines.keys())}`
}

function batchTable(workload: Workload, all: readonly Network[]): string {
  const rows = all.map((network) => [
    network.name,
    ...summed.map((ranks) => {
      const of = (least: number) => smallest(workload, ranks, network, least)
      return connects(network, ranks) ? `${of(0.9)}; ${of(0.5)}` : ''
    }),
  ])
  return markdown([['network', ...summed.map((ranks) => `${ranks} ranks`)], ...rows])
}

function section(workload: Workload, all: readonly Network[]): string[] {
  const [batch, timeline] = [...workload.timelines].at(-1)!
  const { count, gradients, update } = timeline
  const ms = (seconds: number) => (seconds * 1e3).toFixed(1)
  return [
    `## ${workload.name}`,
    '',
    `${(count / 1e6).toFixed(1)} M parameters, ${mega(4 * count)} of gradients. A step of ${batch} images alone: ${ms(gradients)} ms until`,
    `the last gradient, ${ms(update)} ms for the update. Together, and what of the ranks' arithmetic is used:`,
    '',
    stepTable(timeline, all),
    '',
    `At most so much is lost, of 1 to ${rankCounts.at(-1)} ranks:`,
    '',
    lossTable(workload, all),
    '',
    'The smallest batch of a rank at which 90 % are used, and 50 %:',
    '',
    batchTable(workload, all),
    '',
  ]
}

/** What a rank keeps, by how many ranks share moments and average. */
function memoryTable(workloads: readonly Workload[]): string {
  const counts = new Map(
    workloads.map(({ name, timelines }) => [[...timelines.values()][0].count, name.split(' on ')[0]]),
  )
  const rows = rankCounts.map((ranks) => [
    `${ranks}`,
    ...[...counts.keys()].map((count) => mega(bytesKept(count, ranks))),
  ])
  return markdown([['shards', ...counts.values()], ...rows])
}

export function pageOf(o: {
  date: string
  command: string
  networks: readonly Network[]
  workloads: readonly Workload[]
}): string {
  return [
    `# A training step on 1 to ${rankCounts.at(-1)} ranks, ${o.date}: a model`,
    '',
    `Device: none, a model. \`${o.command}\``,
    '',
    'Each rank has a batch of its own, so that n ranks at 100 % take as long as one. A rank sends 2 (n - 1) / n of its gradients,',
    'in pieces, each as soon as the backward pass has it; the update waits for the last. Ranks are equally fast, links are not shared.',
    'Not in it: copies between a GPU and its host, what of a step is not on the GPU. A CPU has the steps of the GPU, as much longer as a',
    'measured one is, and in proportion to the batch.',
    '',
    networkTable(o.networks),
    '',
    ...o.workloads.flatMap((workload) => section(workload, o.networks)),
    '## What a rank keeps',
    '',
    'Weights and gradients whole, of the moments of AdamW and the average one of so many shards:',
    '',
    memoryTable(o.workloads),
    '',
  ].join('\n')
}
