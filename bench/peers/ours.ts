/** This project's side. */
import { Device } from '../../lib/device'
import { DDPM } from '../../lib/diffusion/models/ddpm'
import { UNet } from '../../lib/nn/unet/unet'
import { Weights } from '../../lib/nn/weights'
import { Program } from '../../lib/program'
import { Tensor } from '../../lib/tensor'
import type { Prepared } from '../harness'
import { comparedSteps, learningRate, type PeerCase, readInputs, readWeights, unetConfig } from './workload'

/** From and to arrays of the host, NCHW, as the others are called. */
export function forward(folder: string, batch: number): PeerCase {
  let result: Float32Array = new Float32Array()
  return {
    name: 'forward',
    result: () => result,
    async prepare(): Promise<Prepared> {
      const device = Device.open('cpu')
      const unet = new UNet(unetConfig)
      const weights = new Weights(device, unet.parameters, 0)
      await weights.write('weights', await readWeights(folder))
      const program = Program.compile(
        device,
        (graph) => {
          const x = graph.input('x', [batch, 1, 1, 3072])
          const t = graph.input('t', [batch, 1, 1, 1], 'i32')
          const images = graph.toNhwc(x, { channels: 3, height: 32, width: 32 })
          return { y: graph.toNchw(unet.build({ graph, train: false }, images, t)) }
        },
        { deterministic: false },
      )
      const { x, t } = await readInputs(folder, batch)
      return {
        run: async () => {
          result = (await program.run({ x, t, weights: weights.bank('weights') })).y
        },
        dispose() {
          program.release()
          weights.release()
        },
      }
    },
  }
}

/** q_sample, UNet, loss, gradients and AdamW. */
export function training(folder: string, batch: number): PeerCase {
  const losses: number[] = []
  return {
    name: 'training',
    result: () => Float32Array.from(losses.slice(0, comparedSteps)),
    async prepare(): Promise<Prepared> {
      const ddpm = new DDPM({ unetConfig, useEma: false, device: 'cpu' })
      await ddpm.loadStateDict(await readWeights(folder))
      ddpm.configureOptimizers({ lr: learningRate })
      const { x, noise, t } = await readInputs(folder, batch)
      const images = (data: Float32Array) => Tensor.wrap(data, [batch, 3, 32, 32])
      const options = { t, noise: images(noise) }
      return {
        run: async () => losses.push((await ddpm.trainBatch(images(x), options)).loss),
        dispose: () => ddpm.dispose(),
      }
    },
  }
}
