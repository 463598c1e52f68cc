/** Forward pass of the CIFAR-10 UNet of Ho et al. 2020, as improved-diffusion has it. */
import { Device } from '../../lib/device'
import { Graph } from '../../lib/graph'
import { UNet } from '../../lib/nn/unet/unet'
import { Weights } from '../../lib/nn/weights'
import type { Case, Prepared } from '../harness'
import { randomArray } from './graph-case'

export const cifar10 = {
  imageSize: 32,
  inChannels: 3,
  outChannels: 3,
  modelChannels: 128,
  channelMult: [1, 2, 2, 2],
  numResBlocks: 2,
  attentionResolutions: [2],
  dropout: 0.1,
}

/** 6.05 GMAC an image, convolutions, linear layers and attention. */
export const cifar10Flops = 12.1e9

/** At sizes other than 32 the arithmetic grows with the pixels, and attention's, a 36th of it at 32, with their square. */
const attentionFlops = 5 * 4 * 256 ** 3 // five blocks of 256 tokens and 256 channels

function flopsOf(size: number): number {
  const pixels = (size / 32) ** 2
  return (cifar10Flops - attentionFlops) * pixels + attentionFlops * pixels ** 2
}

function forward(batch: number, size = 32): Case {
  return {
    name: `UNet forward${size === 32 ? '' : ` ${size}x${size}`} batch ${batch}`,
    flops: batch * flopsOf(size),
    items: batch,
    async prepare(): Promise<Prepared> {
      const device = Device.open('cpu')
      const unet = new UNet(cifar10)
      const weights = new Weights(device, unet.parameters, 0)
      const graph = new Graph()
      const x = graph.input('x', [batch, size, size, 3])
      const t = graph.input('t', [batch, 1, 1, 1], 'i32')
      const y = unet.build({ graph, train: false }, x, t)
      const program = graph.native.compile(device.native, { y: y.id }, {})
      const bindings = {
        x: device.upload(randomArray(batch * 3 * size * size)),
        t: device.upload(Int32Array.from({ length: batch }, (_, i) => i)),
        y: device.allocate(batch * 3 * size * size),
        weights: weights.bank('weights'),
      }
      return {
        run: () => program.run(bindings),
        memory: () => device.memoryInfo().inUse,
        dispose() {
          program.release()
          weights.release()
        },
      }
    },
  }
}

/** The cost of an image, from one to many and from small to large: `npm run bench -- 'UNet forward'`. */
export const unetCases: readonly Case[] = [
  ...[1, 2, 4, 8, 16, 32, 64].map((batch) => forward(batch)),
  ...[64, 128, 256].map((size) => forward(1, size)),
]
