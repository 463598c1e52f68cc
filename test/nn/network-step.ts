/** Loss and gradients of a network on two images of 8x8, for tests that compare networks with each other. */
import type { Graph, Value } from '../../lib/graph'
import type { Network } from '../../lib/nn/network'
import type { Random } from '../support/random'
import { type Feeds, integers, normals, type Values } from '../support/run-graph'

const [n, height, width, channels] = [2, 8, 8, 3]
const d = channels * height * width

/** Images, what is to be predicted, timesteps, the stream of dropout, and weights of the mean; of networks that take them, conditions. */
export function stepFeeds(
  random: Random,
  { numClasses, contextDim, vectorDim }: Pick<Network, 'numClasses' | 'contextDim' | 'vectorDim'>,
): Feeds {
  return {
    x: normals(random, [n, 1, 1, d]),
    target: normals(random, [n, 1, 1, d]),
    t: integers(random, [n, 1, 1, 1], 1000),
    rng: { dims: [1, 1, 1, 4], data: Int32Array.of(7, 0, 3, 0) },
    mean: { dims: [n, 1, 1, 1], data: new Float32Array(n).fill(1 / n) },
    ...(numClasses && { y: integers(random, [n, 1, 1, 1], numClasses) }),
    ...(contextDim && { context: normals(random, [n, 1, 3, contextDim]) }),
    ...(vectorDim && { vector: normals(random, [n, 1, 1, vectorDim]) }),
  }
}

/** The network's output on NCHW images. */
export function stepOutput(network: Network, graph: Graph, inputs: Values, train: boolean): Value {
  const { x, t, rng, y, context, vector } = inputs
  const images = graph.toNhwc(x, { channels, height, width })
  return graph.toNchw(network.build({ graph, train, rng }, images, t, { y, context, vector }))
}

/** And the gradients: of the input as a value, of the weights in their bank. */
export function lossStep(network: Network, graph: Graph, inputs: Values): Record<'out' | 'loss' | 'gradient', Value> {
  const out = stepOutput(network, graph, inputs, true)
  const loss = graph.weightedSum(graph.loss(out, inputs.target, { type: 'l2' }), inputs.mean)
  const [gradient] = graph.backward(loss, [inputs.x])
  return { out, loss, gradient: gradient! }
}
