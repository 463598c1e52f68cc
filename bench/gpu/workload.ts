/**
 * What is measured on a GPU, and what is compared: the CIFAR-10 UNet with the same random weights on the same inputs for
 * every peer, as files in one folder that the processes read.
 */
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { readSafetensors, writeSafetensors } from '../../lib/checkpoint/safetensors'
import { makeBetaSchedule, makeSchedule } from '../../lib/diffusion/process/schedule'
import { posteriorTable, rowLength } from '../../lib/diffusion/process/step-tables'
import { normal, Purpose } from '../../lib/rng'
import { fileOf, learningRate, randomWeights, unetConfig } from '../peers/workload'

export const batches = [1, 16, 128, 512]
export const trainingBatch = 128
/** Tensors of 302 and 268 MB: what is read twice must not come from a cache. */
export const bandwidthBatch = 768
export const elements = 3 * 32 * 32
export const timesteps = 1000
/** How many steps' losses are compared. */
export const comparedSteps = 3
/** Samples of a step's result that are compared. */
export const comparedSamples = 16

export type Kind = 'sampling' | 'training' | 'bandwidth'

/** Who is measured. `compiled`: by torch.compile, and whom it is to be compared with. */
export function peersOf(o: { precisions: readonly string[]; torch: boolean; compiled: boolean }): string[] {
  if (o.compiled) return ['ours bf16', ...(o.torch ? ['pytorch eager-bf16', 'pytorch compiled-bf16'] : [])]
  const ours = o.precisions.map((precision) => `ours ${precision}`)
  return [...ours, ...(o.torch ? ['pytorch eager-fp32', 'pytorch eager-bf16'] : [])]
}

/** Whose result the others are compared with: the first that is there. */
export const references = ['pytorch eager-fp32', 'ours fp32', 'pytorch eager-bf16', 'ours bf16']

/** What one process prints as its last line. */
export interface Measured {
  readonly version: string
  /** Of one step. */
  readonly medianMs: number
  readonly minMs: number
  readonly samples: number
}

/** Bytes that had to be moved in a second: what an operation reads and writes, once each. */
export interface Bandwidth {
  readonly name: string
  readonly gigabytesPerSecond: number
}

export interface Inputs {
  readonly x: Float32Array
  readonly noise: Float32Array
  readonly t: Int32Array
}

export const resultFile = (folder: string, peer: string, kind: Kind, batch: number) =>
  path.join(folder, `${peer.replaceAll(' ', '-')}-${kind}-${batch}.f32`)

export function writeResult(file: string, values: Float32Array): void {
  writeFileSync(file, new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
}

export async function writeWorkload(folder: string, largest: number): Promise<void> {
  const files = fileOf(folder)
  const weights = Object.entries(randomWeights())
  const f32 = (data: Float32Array, shape: readonly number[]) => ({ dtype: 'F32' as const, shape, data })
  const stored = await Promise.all(weights.map(async ([name, w]) => [name, f32(await w.data(), w.shape)] as const))
  await writeSafetensors(files.weights, Object.fromEntries(stored))
  const betas = makeBetaSchedule('linear', timesteps, { linearStart: 1e-4, linearEnd: 2e-2, cosineS: 8e-3 })
  const schedule = makeSchedule(betas, { vPosterior: 0, parameterization: 'eps' })
  const { modelChannels, channelMult, numResBlocks, attentionResolutions } = unetConfig
  const config = { modelChannels, channelMult, numResBlocks, attentionResolutions, learningRate, comparedSteps }
  const numbers = (purpose: Parameters<typeof normal>[1]) =>
    f32(normal(1, purpose, 0, 0, largest * elements), [largest, 3, 32, 32])
  await writeSafetensors(
    files.inputs,
    {
      x: numbers(Purpose.initial),
      noise: numbers(Purpose.user),
      t: {
        dtype: 'I64',
        shape: [largest],
        data: BigInt64Array.from({ length: largest }, (_, i) => BigInt((i * 61 + 7) % timesteps)),
      },
      sqrtAlphasCumprod: f32(schedule.sqrtAlphasCumprod, [timesteps]),
      sqrtOneMinusAlphasCumprod: f32(schedule.sqrtOneMinusAlphasCumprod, [timesteps]),
      // Rows of kernels/ops.h PosteriorStep: the step is the same arithmetic for all.
      posterior: f32(posteriorTable(schedule, 'eps').slice(0, timesteps * rowLength), [timesteps, rowLength]),
    },
    { config: JSON.stringify({ ...config, comparedSamples }) },
  )
}

export async function readInputs(folder: string, batch: number): Promise<Inputs> {
  const { tensors } = await readSafetensors(fileOf(folder).inputs)
  const floats = (name: string) => (tensors[name].data as Float32Array).slice(0, batch * elements)
  return {
    x: floats('x'),
    noise: floats('noise'),
    t: Int32Array.from((tensors.t.data as BigInt64Array).slice(0, batch), Number),
  }
}
