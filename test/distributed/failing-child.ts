// A rank of a training that goes wrong in the way that the argument says.
import { setTimeout } from 'node:timers/promises'
import { DDPM, type StateDict, Tensor, world } from '../../lib/index'
import { Random } from '../support/random'
import { smallUNet } from '../support/small-unet'

const [mode] = process.argv.slice(2)
const shape = [1, 3, 8, 8]

/** Weights that differ from all others' by one bit. */
async function other(ddpm: DDPM): Promise<StateDict> {
  const dict = await ddpm.stateDict()
  const name = Object.keys(dict).find((key) => key.startsWith('model.'))!
  const data = Float32Array.from(await dict[name].data())
  new Uint32Array(data.buffer)[0] ^= 1
  return { ...dict, [name]: Tensor.from(data, dict[name].shape) }
}

async function main(): Promise<void> {
  const own = process.env.OMPI_COMM_WORLD_RANK ?? process.env.PMI_RANK
  if (mode === 'absent' && own === '1') await setTimeout(60_000)
  const { rank, size } = world
  const isLast = rank === size - 1
  const timestepSampler = mode === 'losses' ? 'loss-second-moment' : 'uniform'
  const seed = mode === 'seed' && isLast ? 1 : 0
  const ddpm = new DDPM({ unetConfig: smallUNet, imageSize: 8, timesteps: 50, timestepSampler, seed })
  ddpm.configureOptimizers({ lr: mode === 'rate' && isLast ? 2e-3 : 1e-3 })
  const images = Tensor.from(new Random(rank).normals(192), shape)
  const accumulate = (mode === 'accumulate' && isLast) || mode === 'sizes' ? 2 : 1
  if (mode === 'sizes') await ddpm.trainBatch(new Float32Array(384), { accumulate, update: false })
  const steps = mode === 'endless' ? Number.POSITIVE_INFINITY : mode === 'diverged' ? 101 : 3
  for (let step = 0; step < steps; step++) {
    if (mode === 'endless') console.log(`step ${step}`)
    if (step === 1 && isLast) {
      if (mode === 'diverged') await ddpm.loadStateDict(await other(ddpm))
      if (mode === 'late') await setTimeout(60_000)
      if (mode === 'killed') process.kill(process.pid, 'SIGKILL')
      if (mode === 'throws') throw new Error('no such luck')
    }
    for (let i = 0; i < accumulate; i++) await ddpm.trainBatch(images, { accumulate, update: i === accumulate - 1 })
  }
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
