/** Ten ancestral steps of the CIFAR-10 UNet, noise and posterior step included. */
import { DDPM } from '../../lib/diffusion/models/ddpm'
import type { Case, Prepared } from '../harness'
import { cifar10, cifar10Flops } from './unet'

const steps = 10

function sampling(batch: number): Case {
  return {
    name: `sampling, ${steps} steps, batch ${batch}`,
    flops: steps * batch * cifar10Flops,
    items: steps * batch,
    async prepare(): Promise<Prepared> {
      const ddpm = new DDPM({ unetConfig: cifar10, imageSize: 32, channels: 3, device: 'cpu' })
      return {
        run: () => ddpm.sample({ batchSize: batch, steps, seed: 0 }),
        memory: () => ddpm.memoryInfo().device.inUse,
        dispose: () => ddpm.dispose(),
      }
    },
  }
}

export const samplingCases: readonly Case[] = [1, 16].map(sampling)
