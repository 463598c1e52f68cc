/** What is compared of Stable Diffusion's shape: a step of the UNet, and the decoder. Files of one folder, which the processes read. */
import path from 'node:path'
import { normal, Purpose } from '../../../lib/rng'

export const parts = ['unet', 'decoder'] as const
export type Part = (typeof parts)[number]

export interface Size {
  /** A tenth of the channels and a quarter of the pixels. */
  readonly small: boolean
}

/** Samples of a UNet's step: with a prompt and without. */
const batch = 2
const contextLength = 77
export const latentSize = ({ small }: Size) => (small ? 32 : 64)

/** What one process prints. */
export interface Measured {
  readonly version: string
  /** The file's weights, until a first step could begin. */
  readonly openMs: number
  readonly firstMs: number
  /** Of steps after it. */
  readonly medianMs: number
  readonly minMs: number
  readonly samples: number
  readonly residentBytes: number
  readonly peakBytes: number
}

/** What prepare.ts prints. */
export interface Prepared {
  /** Two to a multiply-add, of the direct algorithms. */
  readonly flops: Readonly<Record<Part, number>>
  readonly parameters: Readonly<Record<Part, number>>
}

export const fileOf = (folder: string) => ({
  model: path.join(folder, 'diffusers'),
  vae: path.join(folder, 'diffusers', 'vae'),
  onnx: (part: Part) => path.join(folder, `${part}.onnx`),
  result: (peer: string, part: Part) => path.join(folder, `${peer}-${part}.f32`),
})

export interface Input {
  readonly data: Float32Array
  readonly shape: readonly [number, ...number[]]
}

function noise(stream: number, shape: Input['shape']): Input {
  const size = shape.reduce((a, b) => a * b, 1)
  return { data: normal(0, Purpose.user, stream, 0, size), shape }
}

/** x [2, 4, h, w], t [2], context [2, 77, width]; width is the network's. */
export function unetInputs(size: Size, width: number): { x: Input; t: Int32Array; context: Input } {
  const side = latentSize(size)
  const t = Int32Array.from({ length: batch }, () => 501)
  return { x: noise(1, [batch, 4, side, side]), t, context: noise(2, [batch, contextLength, width]) }
}

/** z [1, 4, h, w], as it comes out of a sampling and is divided by the scale factor: of deviation 1 / 0.18215. */
export function decoderInputs(size: Size): { z: Input } {
  const side = latentSize(size)
  const { data, shape } = noise(3, [1, 4, side, side])
  return { z: { data: data.map((v) => v / 0.18215), shape } }
}
