/** Forward pass of the CIFAR-10 UNet of Ho et al. 2020, as improved-diffusion has it. */
import { Device } from '../../lib/device'
import { Graph } from '../../lib/graph'
import { UNet } from '../../lib/nn/unet'
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

function forward(batch: number): Case {
  return {
    name: `UNet forward batch ${batch}`,
    flops: batch * cifar10Flops,
    items: batch,
    async prepare(): Promise<Prepared> {
      const device = Device.open('cpu')
      const unet = new UNet(cifar10)
      const weights = new Weights(device, unet.parameters, 0)
      const graph = new Graph()
      const x = graph.input('x', [batch, 32, 32, 3])
      const t = graph.input('t', [batch, 1, 1, 1], 'i32')
      const y = unet.build({ graph, train: false }, x, t)
      const program = graph.native.compile(device.native, { y: y.id }, {})
      const bindings = {
        x: device.upload(randomArray(batch * 3072)),
        t: device.upload(Int32Array.from({ length: batch }, (_, i) => i)),
        y: device.allocate(batch * 3072),
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

export const unetCases: readonly Case[] = [1, 4, 16].map(forward)
