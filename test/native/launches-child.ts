/** Backward passes of the norm that the argument names, on cuda-host, which writes what it launches to stderr. */
import { Random } from '../support/random'
import { normals, runGraph } from '../support/run-graph'

const [n, c] = [130, 128] // more samples than the kernel takes at once

async function main(norm: string): Promise<void> {
  const random = new Random(3)
  const vector = () => normals(random, [1, 1, 1, c])
  const feeds = {
    x: normals(random, [n, 1, 2, c]),
    gamma: vector(),
    beta: vector(),
    target: normals(random, [n, 1, 2, c]),
    weight: normals(random, [n, 1, 1, 1]),
  }
  await runGraph('cuda-host', feeds, (g, v) => {
    const y =
      norm === 'groupNorm'
        ? g.groupNorm(v.x, v.gamma, v.beta, { groups: 8, eps: 1e-5 })
        : g.layerNorm(v.x, v.gamma, v.beta, { eps: 1e-5 })
    const loss = g.weightedSum(g.loss(y, v.target, { type: 'l2' }), v.weight)
    const [dGamma, dBeta] = g.backward(loss, [v.gamma, v.beta])
    return { dGamma: dGamma!, dBeta: dBeta! }
  })
}

main(process.argv[2])
