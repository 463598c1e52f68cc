// A rank of a training of six batches a step. Rank 0 writes what came out as JSON: hashes of weights and averages, losses in the order
// of the batches, bytes sent.
import { createHash } from 'node:crypto'
import { setTimeout } from 'node:timers/promises'
import { DDPM, type DeviceName, type StateDict, Tensor, world } from '../../lib/index'
import { type Distributed, World } from '../../lib/world'
import { Random } from '../support/random'
import { smallUNet } from '../support/small-unet'

const [steps, batches, precision = 'fp32', shards = 'whole', distributed = 'auto', device = 'auto', late] =
  process.argv.slice(2)
/** Kernels of a GPU take their time on the CPU. */
const isSlow = device.startsWith('cuda')
const size = isSlow ? 4 : 8
const shape = [isSlow ? 1 : 2, 3, size, size]
const unetConfig = isSlow
  ? {
      imageSize: size,
      inChannels: 3,
      outChannels: 3,
      modelChannels: 32,
      channelMult: [1],
      numResBlocks: 1,
      attentionResolutions: [],
    }
  : smallUNet

async function hash(dict: StateDict): Promise<string> {
  const all = createHash('sha256')
  for (const name of Object.keys(dict).sort()) {
    const data = await dict[name].data()
    all.update(name).update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
  }
  return all.digest('hex').slice(0, 16)
}

async function main(): Promise<void> {
  const own = process.env.OMPI_COMM_WORLD_RANK ?? process.env.PMI_RANK
  if (late !== undefined && own === late) await setTimeout(1000) // before it joins
  const together = World.of(distributed as Distributed, device as DeviceName)
  const { rank, size: ranks } = world
  const accumulate = Number(batches) / ranks
  const ddpm = new DDPM({
    unetConfig,
    imageSize: size,
    timesteps: 50,
    seed: 3,
    precision: precision as 'fp32',
    shardOptimizer: shards === 'shards',
    emaSigmaRels: [0.1],
    distributed: distributed as Distributed,
    device: device as DeviceName,
  })
  ddpm.configureOptimizers({ lr: 1e-3, maxGradNorm: 1 })
  const losses: number[] = []
  const norms: number[] = []
  for (let step = 0; step < Number(steps); step++) {
    const own: number[] = []
    for (let i = 0; i < accumulate; i++) {
      const batch = rank * accumulate + i
      const images = new Random(1000 * step + batch).normals(shape.reduce((a, b) => a * b))
      const result = await ddpm.trainBatch(Tensor.from(images, shape), { accumulate, update: i === accumulate - 1 })
      own.push(result.loss)
      if (result.gradNorm !== undefined) norms.push(result.gradNorm)
    }
    losses.push(...(together ? (await together.gather(own)).flat() : own))
  }
  const mean = async (own: number) =>
    together ? (await together.gather([own])).flat().reduce((a, b) => a + b) / ranks : own
  const inUse = await mean(ddpm.device.memoryInfo().inUse)
  const bytesSent = together?.bytesSent ?? 0
  await ddpm.gatherShards()
  const { weights, ema, powerEmas, m, v } = await ddpm.trainingState()
  const hashes = [await hash(weights), await hash(ema!), await hash(powerEmas![0]), await hash(m), await hash(v!)]
  const sent = await mean(bytesSent) // what is not divisible is some rank's
  const all = together ? await together.gather(hashes.map((text) => Number.parseInt(text.slice(0, 12), 16))) : []
  const isSame = all.every((other) => String(other) === String(all[0]))
  if (rank === 0)
    console.log(
      JSON.stringify({
        ranks,
        weights: hashes[0],
        averages: hashes.slice(1, 3),
        moments: hashes.slice(3),
        inUse,
        losses,
        norms,
        isSame,
        sent,
        parameters: ddpm.parameterCount,
      }),
    )
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
