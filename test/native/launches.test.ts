/** How ops are launched, as cuda-host says of a program's steps. */
import assert from 'node:assert/strict'
import type { Graph, Value } from '../../lib/graph'
import { testedBackends } from '../support/devices'
import { compileGraph } from '../support/run-graph'

const [n, c] = [130, 128]

const norms: Record<string, (g: Graph, x: Value, gamma: Value, beta: Value) => Value> = {
  GroupNormBackward: (g, x, gamma, beta) => g.groupNorm(x, gamma, beta, { groups: 8, eps: 1e-5 }),
  LayerNormBackward: (g, x, gamma, beta) => g.layerNorm(x, gamma, beta, { eps: 1e-5 }),
}

describe('launches', () => {
  for (const [op, norm] of Object.entries(norms)) {
    it(`${op} sums the gradients of gamma and beta up in one launch of several blocks`, function () {
      if (!testedBackends.includes('cuda-host')) {
        console.log('Not tested: launches, without cuda-host')
        return this.skip()
      }
      const program = compileGraph('cuda-host', (g) => {
        const [gamma, beta] = ['gamma', 'beta'].map((name) => g.input(name, [1, 1, 1, c]))
        const y = norm(g, g.input('x', [n, 1, 2, c]), gamma, beta)
        const loss = g.loss(y, g.input('target', y.dims), { type: 'l2' })
        const [dGamma, dBeta] = g.backward(g.weightedSum(loss, g.input('weight', [n, 1, 1, 1])), [gamma, beta])
        return { dGamma: dGamma!, dBeta: dBeta! }
      })
      const launches = program.steps().find((step) => step.op === op)?.launches ?? []
      program.release()
      const sums = launches.filter(({ kernel }) => kernel.includes('accumulate'))
      assert.deepEqual(
        sums.map(({ kernel, grid }) => ({ kernel, grid })),
        [{ kernel: 'accumulatePairsKernel', grid: [(2 * c) / 32, 1, 1] }],
        JSON.stringify(launches),
      )
    })
  }
})
