/** A whole training step: q_sample, UNet, loss, gradients, AdamW and EMA; with `useCheckpoint`, too. */
import { DDPM } from '../../lib/diffusion/models/ddpm'
import { Tensor } from '../../lib/tensor'
import type { Case, Prepared } from '../harness'
import { randomArray } from './graph-case'
import { cifar10, cifar10Flops } from './unet'

function step(batch: number, useCheckpoint = false): Case {
  return {
    name: `training step batch ${batch}${useCheckpoint ? ' useCheckpoint' : ''}`,
    flops: 3 * batch * cifar10Flops,
    items: batch,
    async prepare(): Promise<Prepared> {
      const ddpm = new DDPM({ unetConfig: { ...cifar10, useCheckpoint }, imageSize: 32, channels: 3, device: 'cpu' })
      ddpm.configureOptimizers({ lr: 2e-4, maxGradNorm: 1 })
      const x = Tensor.from(randomArray(batch * 3072), [batch, 3, 32, 32])
      let at = 0
      return {
        run: () => ddpm.trainBatch(x, { step: at++, update: true, accumulate: 1 }),
        memory: () => ddpm.memoryInfo().programBytes, // beside weights, gradients, moments and averages,
        dispose: () => ddpm.dispose(),
      }
    },
  }
}

export const trainingCases: readonly Case[] = [step(4), step(16), step(16, true)]
