/** Norms of gradients for the weights of the decoder's last convolution, which weigh the discriminator's term. */
import type { Device } from '../device'
import type { NativeBuffer } from '../native'
import { ParameterTable, uniformFanIn } from '../nn/parameters'
import { Weights } from '../nn/weights'
import type { Programs } from './discriminator'

const kernel = 3

/**
 * A convolution is linear in its weights: their gradient follows from what it is given and from the gradient of its output, whatever
 * they are. So it has weights of its own, which say nothing.
 */
export class LastLayer {
  readonly #table = new ParameterTable()
  readonly #weights: Weights
  readonly #o: { readonly features: number; readonly channels: number }

  constructor(
    device: Device,
    o: { readonly features: number; readonly channels: number },
    private readonly programs: Programs,
  ) {
    this.#o = o
    this.#table.add('weight', [o.channels, o.features, kernel, kernel], uniformFanIn(1))
    this.#weights = new Weights(device, this.#table, 0)
  }

  /** For `features` [n, h, w, c], as they lie on the device, and a gradient [n, 1, 1, d] of images [n, c, h, w]. */
  async gradientNorm(shape: readonly number[], features: NativeBuffer, gradient: NativeBuffer): Promise<number> {
    const [n, channels, height, width] = shape
    const { count } = this.#table
    const program = await this.programs('last', { shape: shape.join('x') }, (graph) => {
      graph.zeroGrads({ count })
      const x = graph.input('features', [n, height, width, this.#o.features])
      const weight = graph.parameter(this.#table.get('weight')!)
      const y = graph.conv2d(x, weight, undefined, { stride: 1, padding: [1, 1, 1, 1] })
      const d = channels * height * width
      const values = graph.reshape(graph.toNchw(y), [n * d, 1, 1, 1])
      graph.backward(graph.weightedSum(values, graph.input('gradient', values.dims)))
      return { sumSquares: graph.gradSumSquares(count) }
    })
    const [weights, grads] = [this.#weights.bank('weights'), this.#weights.bank('grads')]
    const { sumSquares } = await program.run({ features, gradient, weights, grads })
    return Math.sqrt(sumSquares[0])
  }

  dispose(): void {
    this.#weights.release()
  }
}
