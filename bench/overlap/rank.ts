/**
 * A rank of run.ts: a training step of the CIFAR-10 UNet computed by each rank alone, the sum of the gradients over the ranks alone, and a step
 * that they train together, in turn. Of what the shorter of the first two takes, the part that the last does not take.
 */
import { parseArgs } from 'node:util'
import { DDPM } from '../../lib/diffusion/models/ddpm'
import { Tensor } from '../../lib/tensor'
import { World } from '../../lib/world'
import { cifar10 } from '../cases/unet'

const { values } = parseArgs({
  options: { batch: { type: 'string', default: '2' }, rounds: { type: 'string', default: '5' } },
})

const median = (times: readonly number[]) => [...times].sort((a, b) => a - b)[times.length >> 1]

function modelOf(distributed: 'auto' | 'off'): DDPM {
  const ddpm = new DDPM({ unetConfig: cifar10, imageSize: 32, device: 'cpu', distributed, useEma: false })
  ddpm.configureOptimizers({ lr: 1e-4 })
  return ddpm
}

async function main(): Promise<void> {
  const world = World.of()
  if (!world || world.size < 2) throw new Error('several ranks: node dist/bench/overlap/run.js')
  const batch = Number(values.batch)
  const images = Tensor.from(new Float32Array(batch * 3 * 32 * 32), [batch, 3, 32, 32])
  const [alone, together] = [modelOf('off'), modelOf('auto')]
  const bank = together.device.allocate(together.parameterCount)
  const measured = {
    computing: () => alone.trainBatch(images),
    exchanging: () => world.sumBanks([bank], 1),
    together: () => together.trainBatch(images),
  }
  const times = { computing: [] as number[], exchanging: [] as number[], together: [] as number[] }
  for (let round = 0; round <= Number(values.rounds); round++) {
    for (const name of Object.keys(measured) as (keyof typeof measured)[]) {
      await world.barrier()
      const start = performance.now()
      await measured[name]()
      await world.barrier()
      if (round > 0) times[name].push(performance.now() - start)
    }
  }
  if (world.rank > 0) return
  const [computing, exchanging, both] = [median(times.computing), median(times.exchanging), median(times.together)]
  const hidden = (computing + exchanging - both) / Math.min(computing, exchanging)
  const ms = (time: number) => `${time.toFixed(0)} ms`
  console.log(`${world.size} ranks, batch ${batch} each, ${together.parameterCount} parameters, ${world.library}`)
  console.log(`computing ${ms(computing)}, exchanging ${ms(exchanging)}, together ${ms(both)}`)
  console.log(`hidden: ${(100 * hidden).toFixed(0)} % of the smaller`)
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
