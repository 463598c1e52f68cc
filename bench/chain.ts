/**
 * What Winograd convolution does to a whole sampling chain: the shipped model draws the same images with the algorithms
 * that the CPU backend chooses, or another, and with direct convolution. Prints the pixels that differ by less than 1/255
 * (of values in [0, 1]) and the largest difference.
 * Usage: npm run build:ts && node dist/bench/chain.js [--batch n] [--steps n] [--algorithm n, of kernels/ops.h, ConvAlgo]
 */
import path from 'node:path'
import { parseArgs } from 'node:util'
import { Device } from '../lib/device'
import { DDPM } from '../lib/diffusion/models/ddpm'
import { UNet } from '../lib/nn/unet/unet'
import { Weights } from '../lib/nn/weights'
import { Program } from '../lib/program'
import { Tensor } from '../lib/tensor'
import { readModelFile } from '../lib/train/model-file'

const file = path.join(__dirname, '..', '..', 'models', 'emoji-32.safetensors')
const direct = 0

export interface ChainOptions {
  readonly batch: number
  readonly steps: number
}

/** Images in [-1, 1], all convolutions by one algorithm where that is possible. */
export async function drawChain(forceAlgo: number | undefined, { batch, steps }: ChainOptions): Promise<Float32Array> {
  const { weights: state, config } = await readModelFile(file)
  // The model is a function to DDPM, and classes are its own affair.
  const { unetConfig, nullClass, classDropout, classNames, ...settings } = config as unknown as {
    unetConfig: ConstructorParameters<typeof UNet>[0]
    [classOption: string]: unknown
  }
  const unet = new UNet(unetConfig)
  const device = Device.open('cpu')
  const weights = new Weights(device, unet.parameters, 0)
  await weights.write('weights', state)
  const { imageSize: size, inChannels: channels } = unet
  const classes = unetConfig.numClasses ?? 0
  const labels = classes > 0 && { labels: Int32Array.from({ length: batch }, (_, i) => i % classes) }
  const elements = channels * size * size
  const program = Program.compile(
    device,
    (graph) => {
      const x = graph.input('x', [batch, 1, 1, elements])
      const t = graph.input('t', [batch, 1, 1, 1], 'i32')
      const images = graph.toNhwc(x, { channels, height: size, width: size })
      const y = classes > 0 ? graph.input('labels', [batch, 1, 1, 1], 'i32') : undefined
      return { y: graph.toNchw(unet.build({ graph, train: false }, images, t, { y })) }
    },
    { deterministic: false, forceAlgo },
  )
  const model = async (x: Tensor, t: Tensor) => {
    const data = { ...labels, x: (await x.data()) as Float32Array, t: Int32Array.from(await t.data()) }
    return Tensor.wrap((await program.run({ ...data, weights: weights.bank('weights') })).y, x.shape)
  }
  try {
    using ddpm = new DDPM({ ...settings, model, imageSize: size, channels, useEma: false, device: 'cpu' })
    const samples = await ddpm.sample({ batchSize: batch, steps, seed: 0 })
    return Float32Array.from(await samples.data())
  } finally {
    program.release()
    weights.release()
  }
}

export interface Agreement {
  /** Of the values, those that differ by less than 1/255 of the range. */
  readonly share: number
  /** In the unit of the range [0, 1]. */
  readonly largest: number
}

export function agreement(a: Float32Array, b: Float32Array): Agreement {
  let close = 0
  let largest = 0
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(Math.fround(a[i]) - b[i]) / 2
    if (difference < 1 / 255) close++
    largest = Math.max(largest, difference)
  }
  return { share: close / a.length, largest }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      batch: { type: 'string', default: '16' },
      steps: { type: 'string', default: '1000' },
      algorithm: { type: 'string' },
    },
  })
  const options = { batch: Number(values.batch), steps: Number(values.steps) }
  const chosen = values.algorithm === undefined ? undefined : Number(values.algorithm)
  const { share, largest } = agreement(await drawChain(chosen, options), await drawChain(direct, options))
  const name = chosen === undefined ? 'as chosen' : `algorithm ${chosen}`
  console.log(
    `${options.batch} images, ${options.steps} steps, ${name} and direct: ${(100 * share).toFixed(3)} % of the values ` +
      `differ by less than 1/255; the largest difference is ${(255 * largest).toFixed(4)}/255`,
  )
}

if (require.main === module) void main()
