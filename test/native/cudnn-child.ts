/**
 * Compiles and runs a convolution with all that may be added to it, and its gradients, on cuda-host; compares with the
 * reference; prints the plan as JSON. Its argument: { forceAlgo?, deterministic?, inPlace?, compile?: how often, before }.
 */

import type { Graph, Value } from '../../lib/graph'
import { assertCloseToScale } from '../support/compare'
import { Random } from '../support/random'
import { compileGraph, type Feeds, normals, type RunOptions, runGraph, type Values } from '../support/run-graph'

const {
  inPlace = false,
  compile = 0,
  ...options
} = JSON.parse(process.argv[2]) as RunOptions & {
  inPlace?: boolean
  compile?: number
}

const random = new Random(5)
const feeds: Feeds = {
  x: normals(random, [2, 5, 6, 4]),
  weight: normals(random, [8, 3, 3, 4], 1 / 6),
  bias: normals(random, [1, 1, 1, 8]),
  e: normals(random, [2, 1, 1, 8]),
  residual: normals(random, [2, 5, 6, 8]),
  target: normals(random, [2, 5, 6, 8]),
  mean: normals(random, [2, 1, 1, 1], 5 * 6 * 8),
}

function build(g: Graph, v: Values): Record<string, Value> {
  const residual = inPlace ? g.silu(v.residual) : v.residual // a value of the program's own, which y may take the place of
  const conv = g.conv2d(v.x, v.weight, v.bias, { stride: 1, padding: [1, 1, 1, 1] })
  const y = g.add(g.addSample(conv, v.e), residual)
  const loss = g.weightedSum(g.loss(y, v.target, { type: 'l2' }), v.mean)
  const [dX, dWeight, dBias] = g.backward(loss, [v.x, v.weight, v.bias])
  return inPlace ? { z: g.silu(y), dX: dX! } : { y, dX: dX!, dWeight: dWeight!, dBias: dBias! }
}

async function main(): Promise<void> {
  const plans = Array.from({ length: compile + 1 }, () => {
    const program = compileGraph(
      'cuda-host',
      (g) =>
        build(g, Object.fromEntries(Object.entries(feeds).map(([name, f]) => [name, g.input(name, f.dims, 'f32')]))),
      options,
    )
    const plan = program.describe()
    program.release()
    return plan
  })
  const expected = await runGraph('reference', feeds, build)
  const actual = await runGraph('cuda-host', feeds, build, options)
  for (const name of Object.keys(expected)) assertCloseToScale(actual[name], expected[name], 1e-5, name)
  process.stdout.write(JSON.stringify(plans))
}

main().catch((error: Error & { code?: string }) => {
  process.stdout.write(JSON.stringify({ code: error.code, message: error.message }))
  process.exitCode = 1
})
