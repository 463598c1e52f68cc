// A process that samples 50 times and prints, after the 5th and after the 50th, the bytes resident and those held on the device.
// Run with --expose-gc.
import { DDPM } from '../../lib/index'

async function main(): Promise<void> {
  const collect = globalThis.gc
  if (!collect) throw new Error('run with --expose-gc')
  const unetConfig = {
    imageSize: 16,
    inChannels: 3,
    outChannels: 3,
    modelChannels: 32,
    channelMult: [1, 2],
    numResBlocks: 1,
    attentionResolutions: [2],
  }
  using ddpm = new DDPM({ unetConfig, imageSize: 16, channels: 3, device: 'cpu' })
  for (let i = 1; i <= 50; i++) {
    await ddpm.sample({ batchSize: 8, steps: 4, returnIntermediates: true, logEveryT: 1 })
    if (i !== 5 && i !== 50) continue
    await ddpm.device.synchronize()
    for (let round = 0; round < 3; round++) {
      collect() // also runs finalizers, which the loop has to come to
      await new Promise((resolve) => setImmediate(resolve))
    }
    console.log(JSON.stringify({ resident: process.memoryUsage.rss(), device: ddpm.memoryInfo().device.inUse }))
  }
}

void main()
