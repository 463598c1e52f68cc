// A rank of a training with evaluations of samples and of held-out images. 'stopped': during the first one of samples, one of the ranks
// that do not lead is asked to end; and then all go on.
import type { Tensor } from '../../lib/index'
import { Trainer, world } from '../../lib/index'
import { LinearFeatures } from '../evaluate/support'
import { tinyTraining } from '../train/support'

const [data, out, mode] = process.argv.slice(2)

class Stopping extends LinearFeatures {
  constructor(readonly stop: () => void) {
    super()
  }
  override async extract(images: Tensor) {
    this.stop()
    return super.extract(images)
  }
}

async function main(): Promise<void> {
  const own = { steps: 4, batchSize: 2, accumulate: 6 / world.size, shardOptimizer: mode === 'stopped' }
  const held = { validation: 0.2, validationEvery: 2, validationCount: 5, monitor: 'fid' }
  const samples = { fidEvery: 2, fidCount: 5, fidSteps: 3 }
  const controller = new AbortController()
  const stopping = mode === 'stopped' && world.rank === 1
  const inception = stopping ? new Stopping(() => controller.abort()) : new LinearFeatures()
  const options = { ...tinyTraining(data, out), ...own, ...held, ...samples, inception }
  const { signal } = controller
  const { step, stopped } = await new Trainer(options).run({ signal })
  if (mode !== 'stopped') return
  if (stopped !== 'signal' || step !== 2) throw new Error(`${step} ${stopped}`)
  const resumed = new Trainer({ data, out, resume: true, inception: new LinearFeatures() })
  await resumed.run()
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
