// What the workers of workers.test.ts do, by their workerData: sample once, sample without end, or make models without end.
import { parentPort, workerData } from 'node:worker_threads'
import { DDPM } from '../../lib/index'

const unetConfig = {
  imageSize: 16,
  inChannels: 3,
  outChannels: 3,
  modelChannels: 32,
  channelMult: [1, 2],
  numResBlocks: 1,
  attentionResolutions: [2],
}
export const options = { unetConfig, imageSize: 16, channels: 3, seed: 5, device: 'cpu' } as const

async function main(): Promise<void> {
  if (workerData === 'models') {
    for (;;) {
      using ddpm = new DDPM(options)
      ddpm.configureOptimizers({ lr: 1e-3 })
      await ddpm.trainBatch(new Float32Array(2 * 3 * 16 * 16))
    }
  }
  using ddpm = new DDPM(options)
  if (workerData === 'once') {
    const samples = await ddpm.sample({ batchSize: 2, seed: 1, steps: 3 })
    parentPort?.postMessage(await samples.data())
    return
  }
  const onStep = ({ step }: { step: number }) => void (step === 1 && parentPort?.postMessage('sampling'))
  for (;;) await ddpm.sample({ batchSize: 8, steps: 10, onStep })
}

if (parentPort) void main()
