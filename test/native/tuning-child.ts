/**
 * Compiles and runs three convolutions, the largest last, on cuda-host, and compares with the reference. Prints the plan, and the
 * launches of runs, as JSON. Its argument: { precision?, deterministic?, times?: how often it is compiled }.
 */
import assert from 'node:assert/strict'
import type { Graph, Value } from '../../lib/graph'
import { assertCloseToScale } from '../support/compare'
import { Random } from '../support/random'
import {
  addInputs,
  compileGraph,
  type Feeds,
  normals,
  type RunOptions,
  runGraph,
  type Values,
} from '../support/run-graph'

const { times = 1, ...options } = JSON.parse(process.argv[2]) as RunOptions & { times?: number }

const random = new Random(7)
const feeds: Feeds = {
  x: normals(random, [2, 5, 6, 32]),
  narrow: normals(random, [32, 1, 1, 32], 0.2),
  wide: normals(random, [32, 3, 3, 32], 1 / 17),
  widest: normals(random, [96, 3, 3, 32], 1 / 17),
}

function build(g: Graph, v: Values): Record<string, Value> {
  const same = { stride: 1, padding: [1, 1, 1, 1] } as const
  const h = g.conv2d(g.conv2d(v.x, v.narrow, undefined, { stride: 1, padding: [0, 0, 0, 0] }), v.wide, undefined, same)
  return { y: g.conv2d(h, v.widest, undefined, same) }
}

async function main(): Promise<void> {
  const plans = Array.from({ length: times }, () => {
    const program = compileGraph('cuda-host', (g) => build(g, addInputs(g, feeds)), options)
    const plan = program.describe()
    program.release()
    return plan
  })
  process.stderr.write('compiled\n')
  const expected = await runGraph('reference', feeds, build)
  const actual = await runGraph('cuda-host', feeds, build, options)
  const tolerance = options.precision === undefined ? 1e-5 : 2e-2 // of three products with operands of 8 bits
  assertCloseToScale(actual.y, expected.y, tolerance, 'y')
  assert.equal(new Set(plans).size, 1)
  process.stdout.write(JSON.stringify(plans[0]))
}

void main()
