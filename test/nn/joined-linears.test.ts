/** Linear layers of one input: one product where their parameters lie side by side, and the same values and gradients. */
import assert from 'node:assert/strict'
import type { Graph, Value } from '../../lib/graph'
import { Linear } from '../../lib/nn/layers'
import { ParameterTable, Scope } from '../../lib/nn/parameters'
import { UNet } from '../../lib/nn/unet/unet'
import { assertCloseToScale } from '../support/compare'
import { Random } from '../support/random'
import { compileGraph, normals, runGraph, testedBackends } from '../support/run-graph'
import { smallUNet } from '../support/small-unet'

const [ins, outs] = [24, [16, 32, 48]]

/** Three layers, of which the second is registered after something else. */
function layersOf(together: boolean, { bias = true, widths = outs } = {}) {
  const table = new ParameterTable()
  const scope = new Scope(table)
  const layers = widths.map((width, i) => {
    if (i === 1) new Linear(scope.at('other'), 3, 5)
    return new Linear(scope.at(`${i}`), ins, width, { bias })
  })
  if (together) Linear.placeTogether(table, layers)
  return { table, layers }
}

const convolutions = (text: string) => text.split('\n').filter((line) => line.startsWith('Conv2d ')).length

function planOf(made: ReturnType<typeof layersOf>): string {
  const program = compileGraph('cpu', (graph) => {
    const values = Linear.buildAll({ graph, train: false }, graph.input('x', [2, 1, 3, ins]), made.layers)
    return Object.fromEntries(values.map((value, i) => [`y${i}`, value]))
  })
  const text = program.describe()
  program.release()
  return text
}

describe('linear layers of one input', () => {
  it('are one product where their parameters lie side by side', () => {
    assert.equal(convolutions(planOf(layersOf(true))), 1)
    assert.equal(convolutions(planOf(layersOf(true, { bias: false }))), 1)
    assert.equal(convolutions(planOf(layersOf(false))), 3)
    // Weights of 24 x 7 numbers leave a gap.
    assert.equal(convolutions(planOf(layersOf(true, { widths: [16, 7, 16] }))), 3)
  })

  it('one product has the values and gradients of several, and a state dict the same order', async () => {
    const random = new Random(8)
    const feeds = { x: normals(random, [2, 1, 3, ins]), target: normals(random, [2, 1, 3, 96]) }
    const weight = { dims: [2, 1, 1, 1] as const, data: Float32Array.of(1, -2) }
    for (const device of testedBackends) {
      const [apart, together] = await Promise.all(
        [false, true].map(async (placed) => {
          const { table, layers } = layersOf(placed)
          const build = (graph: Graph, inputs: Record<string, Value>) => {
            const parts = Linear.buildAll({ graph, train: false }, inputs.x, layers)
            const y = graph.concat(parts)
            const [dx] = graph.backward(
              graph.weightedSum(graph.loss(y, inputs.target, { type: 'l2' }), inputs.weight),
              [inputs.x],
            )
            assert.ok(dx)
            return { y, dx }
          }
          const banks = { weights: table.initialize(3), grads: new Float32Array(table.count) }
          const { y, dx, grads } = await runGraph(device, { ...feeds, weight }, build, { banks })
          return { y, dx, grads: table.toStateDict(grads), weights: table.toStateDict(banks.weights) }
        }),
      )
      // One product and three may be computed by other algorithms, which round otherwise.
      assertCloseToScale(together.y, apart.y, 1e-6, 'y')
      assertCloseToScale(together.dx, apart.dx, 1e-6, 'dx')
      for (const dict of ['weights', 'grads'] as const) {
        assert.deepEqual(Object.keys(together[dict]), Object.keys(apart[dict]))
        for (const [name, tensor] of Object.entries(apart[dict])) {
          assertCloseToScale(await values(together[dict][name]), await values(tensor), 1e-6, `${dict} ${name}`)
        }
      }
    }
  })

  it('a UNet projects its time embedding once', () => {
    const unet = new UNet(smallUNet)
    const program = compileGraph('cpu', (graph) => {
      const [x, t] = [graph.input('x', [1, 8, 8, 3]), graph.input('t', [1, 1, 1, 1], 'i32')]
      return { y: unet.build({ graph, train: false }, x, t) }
    })
    const ofVectors = program
      .describe()
      .split('\n')
      .filter((line) => line.startsWith('Conv2d ') && / x\[1, 1, 1, 128\]/.test(line))
    program.release()
    // The second layer of the embedding, and the projections of all eight residual blocks.
    assert.equal(ofVectors.length, 2, ofVectors.join('\n'))
  })
})

async function values(tensor: { values(): Promise<ArrayLike<number>> }): Promise<Float32Array> {
  return Float32Array.from(await tensor.values())
}
