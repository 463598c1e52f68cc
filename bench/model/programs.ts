/** The CIFAR-10 UNet's programs, compiled as for a GPU that is not here: cuda-host plans for its multiprocessors. */
import { DDPM } from '../../lib/diffusion/models/ddpm'
import type { LossInput } from '../../lib/diffusion/process/losses'
import { stepProgram } from '../../lib/diffusion/sampling/posterior-step'
import { trainingProgram } from '../../lib/diffusion/training/training-step'
import type { Precision, ProgramStep } from '../../lib/native'
import { Tensor } from '../../lib/tensor'
import { unetConfig } from '../peers/workload'
import type { Gpu } from './gpus'

export type Kind = 'sampling' | 'training'

class Model extends DDPM {
  /** What runs in every step, without what runs once the weights have changed. */
  steps(kind: Kind, batch: number): Promise<ProgramStep[]> {
    return this.call(async (core) => {
      const shape = [batch, 3, 32, 32]
      const condition = { contextLength: 0, vector: false }
      const input: LossInput = {
        x: Tensor.wrap(new Float32Array(batch * 3 * 32 * 32), shape),
        t: new Int32Array(batch),
        condition: {},
        stream: { seed: 1n, sampleOffset: 0, step: 0 },
        train: true,
      }
      const program = await (kind === 'sampling'
        ? stepProgram(core, { shape, clip: true, noise: 'drawn', x0: false, advances: true, condition })
        : trainingProgram(core, input, { update: true, ema: false }))
      return program.steps().filter(({ prologue }) => !prologue)
    })
  }
}

/** One GPU in a process: its devices are opened once. */
export async function stepsOf(gpu: Gpu, precision: Precision, wanted: readonly { kind: Kind; batch: number }[]) {
  process.env.DDPM_HOST_MULTIPROCESSORS = String(gpu.multiprocessors)
  using ddpm = new Model({ unetConfig, useEma: false, device: 'cuda-host', precision, seed: 1 })
  const all: { kind: Kind; batch: number; steps: ProgramStep[] }[] = []
  for (const { kind, batch } of wanted) all.push({ kind, batch, steps: await ddpm.steps(kind, batch) })
  return all
}
