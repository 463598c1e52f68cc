/**
 * What all peers compute: the CIFAR-10 UNet with the same random weights on the same inputs, as files in one folder that
 * the processes read. Without dropout, so that results can be compared.
 */
import path from 'node:path'
import { readSafetensors, writeSafetensors } from '../../lib/checkpoint/safetensors'
import { DDPM } from '../../lib/diffusion/models/ddpm'
import type { StateDict } from '../../lib/nn/parameters'
import { UNet } from '../../lib/nn/unet/unet'
import { normal, Purpose } from '../../lib/rng'
import { sizeOf, Tensor } from '../../lib/tensor'
import { readStateDict } from '../../lib/train/state-dict-file'
import { cifar10 } from '../cases/unet'
import type { Case } from '../harness'

export const unetConfig = { ...cifar10, dropout: 0 }
export const learningRate = 2e-4
export const largestBatch = 16
/** How many steps' losses are compared. */
export const comparedSteps = 3

export type Kind = 'forward' | 'training'

/** A case whose result can be compared: the output of the network, or the losses of the first steps. */
export interface PeerCase extends Case {
  result(): Float32Array
}

/** What one process prints. */
export interface Measured {
  readonly version: string
  readonly medianMs: number
  readonly minMs: number
  readonly samples: number
  /** Of the whole process after the last run, and at most, with loading: VmRSS and VmHWM. */
  readonly residentBytes: number
  readonly peakRssBytes: number
}

export const fileOf = (folder: string) => ({
  weights: path.join(folder, 'weights.safetensors'),
  inputs: path.join(folder, 'inputs.safetensors'),
  onnx: path.join(folder, 'model.onnx'),
})

export const resultFile = (folder: string, peer: string, kind: Kind, batch: number) =>
  path.join(folder, `${peer}-${kind}-${batch}.f32`)

export async function writeWorkload(folder: string): Promise<void> {
  const files = fileOf(folder)
  const weights = randomWeights()
  using ddpm = new DDPM({ unetConfig, useEma: false, device: 'cpu' })
  await ddpm.loadStateDict(weights)
  await ddpm.exportOnnx(files.onnx)
  const f32 = async (tensor: Tensor) => ({ dtype: 'F32' as const, shape: tensor.shape, data: await tensor.data() })
  const stored = await Promise.all(
    Object.entries(weights).map(async ([name, tensor]) => [name, await f32(tensor)] as const),
  )
  await writeSafetensors(files.weights, Object.fromEntries(stored))
  const shape = [largestBatch, 3, 32, 32]
  const t = BigInt64Array.from({ length: largestBatch }, (_, i) => BigInt((i * 61 + 7) % 1000))
  const { modelChannels, channelMult, numResBlocks, attentionResolutions } = unetConfig
  const config = { modelChannels, channelMult, numResBlocks, attentionResolutions, learningRate, comparedSteps }
  await writeSafetensors(
    files.inputs,
    {
      x: await f32(Tensor.randn(shape, { seed: 1 })),
      noise: await f32(Tensor.randn(shape, { seed: 2 })),
      t: { dtype: 'I64', shape: [largestBatch], data: t },
      sqrtAlphasCumprod: await f32(Tensor.from(ddpm.sqrtAlphasCumprod)),
      sqrtOneMinusAlphasCumprod: await f32(Tensor.from(ddpm.sqrtOneMinusAlphasCumprod)),
    },
    { config: JSON.stringify(config) },
  )
}

/** All layers have something to compute, also those that start from zero: z / sqrt(fan in), 1 + 0.1 z, 0.1 z. */
export function randomWeights(): StateDict {
  const dict: StateDict = {}
  for (const [index, { name, shape, initializer }] of new UNet(unetConfig).parameters.slots.entries()) {
    const z = normal(0, Purpose.user, index, 0, sizeOf(shape))
    const scale = shape.length > 1 ? Math.sqrt(shape[0] / z.length) : 0.1
    const mean = initializer.kind === 'ones' ? 1 : 0
    dict[name] = Tensor.from(
      z.map((v) => mean + scale * v),
      shape,
    )
  }
  return dict
}

/** Their numbers stay in the file until they are asked for. */
export async function readWeights(folder: string): Promise<StateDict> {
  return (await readStateDict(fileOf(folder).weights)).dict
}

export interface Inputs {
  /** [batch, 3, 32, 32] */
  readonly x: Float32Array
  readonly noise: Float32Array
  readonly t: Int32Array
}

export async function readInputs(folder: string, batch: number): Promise<Inputs> {
  const { tensors } = await readSafetensors(fileOf(folder).inputs)
  const floats = (name: string) => (tensors[name].data as Float32Array).slice(0, batch * 3072)
  return {
    x: floats('x'),
    noise: floats('noise'),
    t: Int32Array.from((tensors.t.data as BigInt64Array).slice(0, batch), Number),
  }
}
