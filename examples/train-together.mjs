// Several processes train one model, each on batches of its own; alone, it is as any training. The same weights come out of four
// processes of one batch a step, two of two, and one of four: mpirun -n 4 node examples/train-together.mjs <folder> [model] [steps] [batches]
import { Dataset, DDPM, world } from 'ddpm-native'

const [folder, out = 'together', steps = '1000', batches = '4'] = process.argv.slice(2)
if (!folder) {
  console.error('mpirun -n 4 node examples/train-together.mjs <folder> [model] [steps] [batches]')
  process.exit(2)
}
const batchSize = 8
const size = 32
const accumulate = Number(batches) / world.size // batches of this process in a step

const data = await Dataset.open(folder, { size, seed: 1 })
const unetConfig = {
  inChannels: 3,
  outChannels: 3,
  imageSize: size,
  modelChannels: 32,
  channelMult: [1, 2, 2],
  numResBlocks: 1,
  attentionResolutions: [4],
}
const ddpm = new DDPM({ imageSize: size, unetConfig })
ddpm.configureOptimizers({ lr: 2e-4 })
for (let step = 0; step < Number(steps); step++) {
  for (let i = 0; i < accumulate; i++) {
    // Of all batches of all steps and processes, in one order.
    const number = (step * world.size + world.rank) * accumulate + i
    const { images } = await data.batch(number * batchSize, batchSize)
    const { loss } = await ddpm.trainBatch(images, { accumulate, update: i === accumulate - 1 })
    if (world.rank === 0 && i === 0 && step % 20 === 0) console.log(`step ${step}: loss ${loss.toFixed(4)}`)
  }
}
// They are equal everywhere.
if (world.rank === 0) await ddpm.savePretrained(out)
await world.barrier()
ddpm.dispose()
