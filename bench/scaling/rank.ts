/**
 * A rank of npm run bench:scaling: training steps of the CIFAR-10 UNet, with others where a launcher started several. The first prints a
 * line of JSON. node rank.js <batch> <seconds>
 */
import { DDPM } from '../../lib/diffusion/models/ddpm'
import { Tensor } from '../../lib/tensor'
import { World } from '../../lib/world'
import { cifar10 } from '../cases/unet'
import { median } from '../peers/compare'
import { processMemory } from '../peers/memory'

/** What ranks have measured together. */
export interface Ranked {
  readonly library: string
  /** Of a step, of the first rank: all end it together. */
  readonly medianMs: number
  readonly minMs: number
  readonly samples: number
  /** That a rank has sent to others in a step, the most. */
  readonly sentBytes: number
  /** Of the gradients over the ranks, alone, while nothing is computed. */
  readonly sumMs: number
  /** VmHWM, the largest. */
  readonly peakRssBytes: number
}

async function times(count: number, run: () => Promise<unknown>): Promise<number[]> {
  const all: number[] = []
  for (let i = 0; i < count; i++) {
    const start = performance.now()
    await run()
    all.push(performance.now() - start)
  }
  return all
}

async function main([batch, seconds]: number[]): Promise<void> {
  const world = World.of()
  using ddpm = new DDPM({ unetConfig: cifar10, imageSize: 32, device: 'cpu', useEma: false, seed: 1 })
  ddpm.configureOptimizers({ lr: 1e-4 })
  const images = Tensor.from(new Float32Array(batch * 3 * 32 * 32), [batch, 3, 32, 32])
  const step = () => ddpm.trainBatch(images)
  const [, warm] = await times(2, step)
  // Of the first rank: all have to take as many steps.
  const [[longest]] = world ? await world.gather([warm]) : [[warm]]
  const count = Math.max(3, Math.ceil((1000 * seconds) / longest))
  const before = world?.bytesSent ?? 0
  const steps = await times(count, step)
  const sentBytes = ((world?.bytesSent ?? 0) - before) / count
  const bank = ddpm.device.allocate(ddpm.parameterCount)
  const sums = world ? await times(count, () => world.sumBanks([bank], 1)) : [0]
  bank.release()
  const own = [sentBytes, processMemory().peakBytes]
  const all = world ? await world.gather(own) : [own]
  if (world && world.rank > 0) return
  const result: Ranked = {
    library: world?.library ?? '',
    medianMs: median(steps),
    minMs: Math.min(...steps),
    samples: count,
    sentBytes: Math.max(...all.map(([sent]) => sent)),
    sumMs: median(sums),
    peakRssBytes: Math.max(...all.map(([, peak]) => peak)),
  }
  console.log(JSON.stringify(result))
}

main(process.argv.slice(2).map(Number)).catch((error) => {
  console.error(error)
  process.exit(1)
})
