/**
 * A model of a program's time on a GPU. A step takes as long as its arithmetic or its bytes, whichever is longer, and the start of
 * each of its kernels. Both count by how well the largest of its grids fills the GPU: arithmetic by whole waves, a block to a
 * multiprocessor (several that share one end no earlier); bytes by the multiprocessors that have a block at all. Not in it: caches,
 * latencies, the overlap of kernels.
 */
import type { KernelLaunch, ProgramStep } from '../../lib/native'
import { type Gpu, launchSeconds } from './gpus'
import { bytesOf, flopsOf, isNarrow } from './work'

export interface StepTime {
  readonly step: ProgramStep
  readonly flops: number
  readonly bytes: number
  readonly launches: number
  /** The largest of its launches. */
  readonly main?: KernelLaunch
  readonly blocks: number
  /** Blocks for each multiprocessor, and how full they are, the last one being whole: 1.5 waves are 75 % full. */
  readonly waves: number
  readonly full: number
  /** Of the arithmetic at the GPU's peak. */
  readonly peakSeconds: number
  readonly seconds: number
}

export const blocksOf = ({ grid: [x, y, z] }: KernelLaunch): number => x * y * z
const threadsOf = (launch: KernelLaunch) => blocksOf(launch) * launch.block[0] * launch.block[1] * launch.block[2]

export function timeOf(step: ProgramStep, gpu: Gpu): StepTime {
  if (!step.launches) throw new Error('a model of time needs a backend that tells what it launches: cuda-host')
  const [flops, bytes] = [flopsOf(step), bytesOf(step)]
  const main = step.launches.reduce<KernelLaunch | undefined>(
    (best, launch) => (best && threadsOf(best) >= threadsOf(launch) ? best : launch),
    undefined,
  )
  const blocks = main ? blocksOf(main) : 0
  const waves = blocks / gpu.multiprocessors
  const full = blocks ? waves / Math.ceil(waves) : 0
  const narrow = isNarrow(step)
  const peakSeconds = flops / (narrow ? gpu.tensorFlops : gpu.floatFlops)
  const arithmetic = peakSeconds / (narrow ? gpu.mmaShare : 1) / full
  const work = blocks ? Math.max(arithmetic, bytes / (gpu.bandwidth * Math.min(1, waves))) : 0
  const launches = step.launches.length
  const seconds = work + launches * launchSeconds
  return { step, flops, bytes, launches, main, blocks, waves, full, peakSeconds, seconds }
}

export interface Layer extends Omit<StepTime, 'step'> {
  readonly name: string
  /** Steps like this; all numbers but blocks and waves are those of all of them. */
  readonly count: number
}

/** "Conv2d 3x3 128 -> 256, 16x16": what tells a step of a network from another, without the batch. */
export function nameOf({ op, tensors: t, algo, splits = 1 }: ProgramStep): string {
  const size = ({ dims: [, h, w] }: { dims: readonly number[] }) => `${h}x${w}`
  const how = `${algo ? ` ${algo}` : ''}${splits > 1 ? ` in ${splits} parts` : ''}`
  const filter = t.w ?? t.dWeight
  if (filter && op.startsWith('Conv2d')) {
    const [k, r, s, c] = filter.dims
    return `${op} ${r}x${s} ${c} -> ${k}, ${size(t.y ?? t.dy)}${how}`
  }
  const shown = t.x ?? t.q ?? t.dy ?? t.pred ?? Object.values(t)[0]
  return `${op}${shown ? ` ${size(shown)} of ${shown.dims[3]}` : ''}`
}

/** Steps of one name, kernel and size together, the longest first. */
export function layersOf(times: readonly StepTime[]): Layer[] {
  const layers = new Map<string, Layer>()
  for (const { step, ...time } of times) {
    const name = nameOf(step)
    const key = `${name} ${time.main?.kernel} ${time.blocks} ${time.bytes}`
    const same = layers.get(key)
    const sum = (field: 'flops' | 'bytes' | 'launches' | 'seconds') => time[field] + (same?.[field] ?? 0)
    layers.set(key, {
      ...time,
      name,
      count: 1 + (same?.count ?? 0),
      flops: sum('flops'),
      bytes: sum('bytes'),
      launches: sum('launches'),
      seconds: sum('seconds'),
    })
  }
  return [...layers.values()].sort((a, b) => b.seconds - a.seconds)
}
