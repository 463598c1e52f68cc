/** The graph's own promises: what it refuses and how it says so, and gradients of expressions that are more than one op. */
import assert from 'node:assert/strict'
import { Graph, type Value } from '../../lib/graph'
import type { Dims } from '../../lib/native'
import { assertClose, assertCloseToScale } from '../support/compare'
import { Random } from '../support/random'
import { normals, runGraph, type Values } from '../support/run-graph'

interface NativeError extends Error {
  code: string
  argument: string
  expected: string
  received: string
}

function refusal(action: () => unknown): NativeError {
  try {
    action()
  } catch (error) {
    return error as NativeError
  }
  return assert.fail('nothing was thrown')
}

describe('graph: what it refuses', () => {
  const x: Dims = [2, 4, 4, 6]
  const cases: [title: string, build: (g: Graph) => unknown, argument: string, expected: string, received: string][] = [
    [
      'channels of a weight',
      (g) => g.conv2d(g.input('x', x), g.input('w', [8, 3, 3, 5]), undefined, { stride: 1, padding: [1, 1, 1, 1] }),
      'weight',
      '[any, any, any, 6]',
      '[8, 3, 3, 5]',
    ],
    [
      'a map that is smaller than the filter',
      (g) => g.conv2d(g.input('x', x), g.input('w', [8, 5, 5, 6]), undefined, { stride: 1, padding: [0, 0, 0, 0] }),
      'x',
      'a padded map of at least 5 x 5',
      '[2, 4, 4, 6]',
    ],
    [
      'a stride of zero',
      (g) => g.conv2d(g.input('x', x), g.input('w', [8, 1, 1, 6]), undefined, { stride: 0, padding: [0, 0, 0, 0] }),
      'stride',
      'an integer from 1 to 1024',
      '0',
    ],
    [
      'dims that are no integers',
      (g) => g.input('x', [2, Number.NaN, 0.5, 3e9]),
      'dims',
      'positive integers',
      '[2, nan, 0.5, 3000000000]',
    ],
    [
      'groups that do not divide the channels',
      (g) =>
        g.groupNorm(g.input('x', x), g.input('a', [1, 1, 1, 6]), g.input('b', [1, 1, 1, 6]), { groups: 4, eps: 0 }),
      'groups',
      'a divisor of 6 channels',
      '4',
    ],
    [
      'sums of different shapes',
      (g) => g.add(g.input('x', x), g.input('y', [2, 4, 4, 5])),
      'b',
      '[2, 4, 4, 6]',
      '[2, 4, 4, 5]',
    ],
    ['integers where numbers belong', (g) => g.silu(g.input('x', x, 'i32')), 'x', 'f32', 'i32'],
    [
      'a slice that ends outside',
      (g) => g.slice(g.input('x', x), { start: 4, count: 3 }),
      'count',
      'channels within [2, 4, 4, 6]',
      '4 + 3',
    ],
    [
      'a concatenation of different maps',
      (g) => g.concat([g.input('x', x), g.input('y', [2, 4, 5, 6])]),
      'values',
      '[2, 4, 4, any]',
      '[2, 4, 5, 6]',
    ],
    ["a name that is a bank's", (g) => g.input('weights', x), 'name', "a name that is not a bank's", "'weights'"],
    [
      'a parameter off the grid',
      (g) => g.parameter({ name: 'p', shape: [3], offset: 8 }),
      'offset',
      'a multiple of 16',
      '8',
    ],
    ['an op that does not exist', (g) => g.native.add('conv3d', [], {}), 'op', 'the name of an op', "'conv3d'"],
    [
      "an op of the compiler's own",
      (g) => g.native.add('conv2dDgrad', [], {}),
      'op',
      'the name of an op',
      "'conv2dDgrad'",
    ],
    [
      'an attribute that does not exist',
      (g) => g.native.add('silu', [g.input('x', x).id], { slope: 1 }),
      'slope',
      'no such attribute',
      'one',
    ],
    [
      'a missing attribute',
      (g) => g.native.add('slice', [g.input('x', x).id], { start: 0 }),
      'count',
      'a number',
      'nothing',
    ],
    ['a missing input', (g) => g.native.add('add', [g.input('x', x).id], {}), 'b', 'a value', 'nothing'],
    ['a value of no graph', (g) => g.native.add('silu', [7], {}), 'value', 'a value of this graph', '7'],
    [
      'a gradient of what is no scalar',
      (g) => g.backward(g.input('x', x)),
      'loss',
      'a scalar, [1, 1, 1, 1]',
      '[2, 4, 4, 6]',
    ],
    [
      'the gradient of an op that has none',
      (g) => {
        const v = g.input('x', [1, 1, 1, 1])
        g.backward(g.elementLoss(v, g.input('y', [1, 1, 1, 1]), { type: 'l2' }), [v])
      },
      'loss',
      'a path of ops that have gradients',
      'elementLoss',
    ],
  ]
  for (const [title, build, argument, expected, received] of cases) {
    it(title, () => {
      const error = refusal(() => build(new Graph()))
      assert.deepEqual(
        { code: error.code, argument: error.argument, expected: error.expected, received: error.received },
        { code: 'invalid-argument', argument, expected, received },
      )
      assert.match(error.message, /expected .+, received .+/)
    })
  }
})

describe('graph: gradients', () => {
  const dims: Dims = [2, 3, 2, 4]
  const feeds = {
    x: normals(new Random(1), dims),
    z: normals(new Random(2), dims),
    target: normals(new Random(3), dims),
    weight: { dims: [2, 1, 1, 1] as Dims, data: Float32Array.of(24, 12) },
  }
  /** dx and dz by the graph, against central differences along a random direction of each. */
  const check = (title: string, expression: (g: Graph, v: Values) => Value) =>
    it(title, async () => {
      const lossOf = (g: Graph, v: Values) =>
        g.weightedSum(g.loss(expression(g, v), v.target, { type: 'l2' }), v.weight)
      const gradients = await runGraph('reference', feeds, (g, v) => {
        const loss = lossOf(g, v)
        const [dx, dz] = g.backward(loss, [v.x, v.z])
        assert.ok(dx && dz)
        return { loss, dx, dz }
      })
      const onCpu = await runGraph('cpu', feeds, (g, v) => {
        const [dx, dz] = g.backward(lossOf(g, v), [v.x, v.z])
        assert.ok(dx && dz)
        return { dx, dz }
      })
      for (const name of ['x', 'z'] as const) {
        assertCloseToScale(onCpu[`d${name}`], gradients[`d${name}`], 1e-5, `d${name} on cpu`)
        const direction = new Random(4).normals(feeds[name].data.length)
        const at = async (h: number) => {
          const data = Float32Array.from(feeds[name].data, (value, i) => value + h * direction[i])
          const { loss } = await runGraph('reference', { ...feeds, [name]: { dims, data } }, (g, v) => ({
            loss: lossOf(g, v),
          }))
          return loss[0]
        }
        const h = 1e-2
        const difference = ((await at(h)) - (await at(-h))) / (2 * h)
        const expected = gradients[`d${name}`].reduce((sum, value, i) => sum + value * direction[i], 0)
        assertClose([expected], [difference], { abs: 2e-2, rel: 5e-3 }, `d${name}`)
      }
    })

  check('of a value that is used three times', (g, { x, z }) => g.add(g.add(g.silu(x), x), g.add(g.gelu(x), z)))
  check('of a sum of a value with itself', (g, { x, z }) => g.add(g.add(x, x), g.add(z, z)))
  check('of slices that tile a value', (g, { x, z }) => {
    const [a, b] = [g.slice(x, { start: 0, count: 1 }), g.slice(x, { start: 1, count: 3 })]
    return g.add(g.concat([g.silu(b), g.gelu(a)]), z)
  })
  check('of slices that overlap', (g, { x, z }) => {
    const [a, b] = [g.slice(x, { start: 0, count: 2 }), g.slice(x, { start: 1, count: 2 })]
    return g.add(g.concat([g.silu(b), g.gelu(a)]), g.silu(z))
  })
  check('of a value that is sliced and used whole', (g, { x, z }) =>
    g.add(g.concat([g.slice(x, { start: 2, count: 2 }), g.slice(z, { start: 0, count: 2 })]), g.silu(g.add(x, z))),
  )
  check('of nested concatenations', (g, { x, z }) => {
    const wide = g.concat([g.concat([g.silu(x), z]), x])
    return g.add(g.slice(wide, { start: 3, count: 4 }), g.slice(wide, { start: 8, count: 4 }))
  })
  check('of a loss of both sides', (g, { x, z }) => {
    const side = g.silu(x)
    return g.add(side, g.gelu(g.add(side, z)))
  })

  it('of parameters that are used twice, in different ways, are summed in their bank', async () => {
    const banks = { weights: new Random(5).normals(16), grads: new Float32Array(16).fill(0.5) }
    const { grads } = await runGraph(
      'reference',
      feeds,
      (g, v) => {
        const w = g.parameter({ name: 'w', shape: [4, 4], offset: 0 })
        const y = g.linear(g.linear(v.x, w), w)
        const loss = g.weightedSum(g.loss(y, v.target, { type: 'l2' }), v.weight)
        g.backward(loss)
        return { loss }
      },
      { banks },
    )
    const lossAt = async (weights: Float32Array) => {
      const { loss } = await runGraph(
        'reference',
        feeds,
        (g, v) => {
          const w = g.parameter({ name: 'w', shape: [4, 4], offset: 0 })
          return { loss: g.weightedSum(g.loss(g.linear(g.linear(v.x, w), w), v.target, { type: 'l2' }), v.weight) }
        },
        { banks: { weights } },
      )
      return loss[0]
    }
    for (const i of [0, 6, 15]) {
      const moved = (h: number) => banks.weights.map((value, k) => (k === i ? value + h : value))
      const difference = ((await lossAt(moved(1e-2))) - (await lossAt(moved(-1e-2)))) / 2e-2
      assertClose([grads[i] - 0.5], [difference], { abs: 2e-2, rel: 1e-2 }, `dw[${i}]`)
    }
  })

  it('are absent where the loss does not depend on a value', () => {
    const g = new Graph()
    const [x, z] = [g.input('x', [3, 1, 1, 1]), g.input('z', [3, 1, 1, 1])]
    const [dx, dz] = g.backward(g.weightedSum(x, g.input('w', [3, 1, 1, 1])), [x, z])
    assert.deepEqual(dx?.dims, [3, 1, 1, 1])
    assert.equal(dz, undefined)
  })
})
