/**
 * Tests of one op: each backend against the reference, forward and backward with a random upstream gradient; the reference's
 * gradients against finite differences; and the same bits with one thread and with three.
 */
import assert from 'node:assert/strict'
import type { Graph, Value } from '../../lib/graph'
import type { Dims } from '../../lib/native'
import { assertCloseToScale, assertSameBits } from './compare'
import { isDeviceChosen } from './devices'
import { checkMixed } from './mixed'
import { Random } from './random'
import {
  addInputs,
  compileGraph,
  count,
  type Feed,
  type Feeds,
  normals,
  type RunOptions,
  runGraph,
  testedBackends,
  type Values,
} from './run-graph'

export interface OpCase {
  title: string
  inputs: Feeds
  build: (graph: Graph, inputs: Values) => Value
  /** Inputs that have a gradient. Default: all of f32. */
  wrt?: readonly string[]
  /** Inputs that are also tried as channel slices of a wider tensor, with the output in a concatenation. */
  views?: readonly string[]
  /** Of the largest value of a tensor. Default 1e-5. */
  tolerance?: number
  /** Convolution algorithms that are forced in fp32, beside the one that the backend chooses. */
  algorithms?: readonly number[]
  /** And those in mixed precision. */
  mixedAlgorithms?: readonly number[]
  /** Also in mixed precision; see mixed.ts. */
  mixed?: boolean
  /**
   * In mixed precision what the op computes on the way is rounded to 16 bits too, as the operand of a second product, while
   * the reference rounds results only: allows for half a unit of each term, which adds up to no more than one of the largest.
   */
  roundsInside?: boolean
}

/** [n, h, w, c]: one of everything, 1x1 maps, odd and non-square sizes, partial vectors, batch 1 and 3. */
export const awkwardShapes: readonly Dims[] = [
  [1, 1, 1, 1],
  [3, 1, 1, 5],
  [1, 7, 3, 1],
  [3, 5, 4, 6],
  [1, 9, 11, 19],
  [2, 8, 8, 32],
]

export const titleOf = (dims: Dims): string => dims.join('x')

/** The upstream gradient comes from a squared distance to `target`, weighted so that it has the size of the outputs. */
interface Upstream extends Feeds {
  upstreamTarget: Feed
  upstreamWeight: Feed
}

function upstreamOf(dims: Dims, random: Random): Upstream {
  const elements = count(dims) / dims[0]
  return {
    upstreamTarget: normals(random, dims),
    upstreamWeight: normals(random, [dims[0], 1, 1, 1], elements, elements),
  }
}

/** y, and d_<name> for each of `wrt`. */
function buildWithGradients(graph: Graph, inputs: Values, c: OpCase, wrt: readonly string[]): Record<string, Value> {
  const y = c.build(graph, inputs)
  const outputs: Record<string, Value> = { y }
  if (wrt.length > 0) {
    const loss = graph.weightedSum(graph.loss(y, inputs.upstreamTarget, { type: 'l2' }), inputs.upstreamWeight)
    graph
      .backward(
        loss,
        wrt.map((name) => inputs[name]),
      )
      .forEach((gradient, i) => {
        assert.ok(gradient, `the output does not depend on ${wrt[i]}`)
        outputs[`d_${wrt[i]}`] = gradient
      })
  }
  return outputs
}

/** The case with `names` as slices [1, 1 + c) of inputs of c + 3 channels, and the output behind another channel. */
function withViews(c: OpCase, names: readonly string[], random: Random): OpCase {
  const inputs: Record<string, Feed> = { ...c.inputs }
  for (const name of names) {
    const [n, h, w, channels] = c.inputs[name].dims
    const wide = normals(random, [n, h, w, channels + 3])
    c.inputs[name].data.forEach((value, i) => {
      wide.data[Math.floor(i / channels) * (channels + 3) + 1 + (i % channels)] = value
    })
    inputs[name] = wide
  }
  return {
    ...c,
    title: `${c.title}, views`,
    inputs,
    build(graph, values) {
      const narrow = { ...values }
      for (const name of names) narrow[name] = graph.slice(values[name], { start: 1, count: c.inputs[name].dims[3] })
      const y = c.build(graph, narrow)
      return graph.concat([graph.silu(graph.slice(y, { start: 0, count: 1 })), y])
    },
  }
}

/** Dims of the output, from a graph that is never run. */
async function outputDims(c: OpCase): Promise<Dims> {
  let dims: Dims | undefined
  compileGraph('reference', (graph) => {
    const y = c.build(graph, addInputs(graph, c.inputs))
    dims = y.dims
    return { y }
  }).release()
  assert.ok(dims)
  return dims
}

/**
 * Central differences along a random direction: (L(x + h d) - L(x - h d)) / 2h against gradient . d, with the loss summed in
 * double from the outputs.
 */
async function checkFiniteDifferences(
  c: OpCase,
  feeds: Feeds,
  upstream: Upstream,
  gradients: Record<string, Float32Array>,
) {
  const h = 1e-3
  const { upstreamTarget: target, upstreamWeight: weight } = upstream
  const perSample = target.data.length / target.dims[0]
  const program = compileGraph('reference', (graph) => ({ y: c.build(graph, addInputs(graph, c.inputs)) }))
  const lossAt = async (name: string, data: Float32Array) => {
    const all = Object.fromEntries(Object.keys(c.inputs).map((key) => [key, feeds[key].data]))
    const { y } = await program.run({ ...all, [name]: data })
    let loss = 0
    y.forEach((value, i) => {
      loss += ((value - target.data[i]) ** 2 * weight.data[Math.floor(i / perSample)]) / perSample
    })
    return loss
  }
  for (const [output, gradient] of Object.entries(gradients)) {
    const name = output.slice(2)
    const x = feeds[name].data as Float32Array
    const direction = new Random(17).normals(x.length)
    const plus = await lossAt(
      name,
      x.map((value, i) => value + h * direction[i]),
    )
    const minus = await lossAt(
      name,
      x.map((value, i) => value - h * direction[i]),
    )
    let expected = 0
    let norm = 0
    gradient.forEach((value, i) => {
      expected += value * direction[i]
      norm += value * value
    })
    const difference = (plus - minus) / (2 * h)
    assert.ok(
      Math.abs(difference - expected) <= 5e-3 * Math.sqrt(norm) + 1e-4,
      `gradient of ${name}: ${expected} along a direction, finite differences ${difference}`,
    )
  }
  program.release()
}

const gradientsOf = (c: OpCase): readonly string[] =>
  c.wrt ?? Object.keys(c.inputs).filter((name) => c.inputs[name].data instanceof Float32Array)

function testCase(c: OpCase): void {
  it(c.title, async () => {
    const wrt = gradientsOf(c)
    const upstream = upstreamOf(await outputDims(c), new Random(7))
    const feeds = wrt.length > 0 ? { ...c.inputs, ...upstream } : c.inputs
    const run = (device: (typeof testedBackends)[number], options: RunOptions) =>
      runGraph(device, feeds, (graph, inputs) => buildWithGradients(graph, inputs, c, wrt), options)

    const expected = await run('reference', {})
    const { y: _, ...gradients } = expected
    if (!isDeviceChosen) await checkFiniteDifferences(c, feeds, upstream, gradients)

    for (const backend of testedBackends) {
      for (const forceAlgo of [undefined, ...(c.algorithms ?? [])]) {
        const what = forceAlgo === undefined ? backend : `${backend}, algorithm ${forceAlgo}`
        const actual = await run(backend, { forceAlgo })
        for (const name of Object.keys(expected)) {
          assertCloseToScale(actual[name], expected[name], c.tolerance ?? 1e-5, `${name} (${what})`)
        }
        if (backend !== 'cpu') continue
        const [one, three] = [
          await run(backend, { forceAlgo, threads: 1 }),
          await run(backend, { forceAlgo, threads: 3 }),
        ]
        for (const name of Object.keys(one)) assertSameBits(three[name], one[name], `${name} (${what}, 3 threads)`)
      }
    }
  })
}

function testMixed(c: OpCase): void {
  it(`${c.title}, mixed precision`, async () => {
    await checkMixed(c, gradientsOf(c), await outputDims(c))
  })
}

export function testOp(title: string, cases: readonly OpCase[]): void {
  describe(`op ${title}`, () => {
    for (const c of cases) {
      testCase(c)
      if (c.mixed) testMixed(c)
      if (!c.views) continue
      const viewed = withViews(c, c.views, new Random(23))
      testCase(viewed)
      if (c.mixed) testMixed(viewed)
    }
  })
}
