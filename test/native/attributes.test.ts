/** Numbers that no op can have are refused by name when a node is added, before anything is computed of them. */
import assert from 'node:assert/strict'
import { Graph, type Value } from '../../lib/graph'
import type { Dims } from '../../lib/native'

const int32 = 2 ** 31 - 1
/** No integer that any attribute takes. */
const noIntegers = [NaN, Infinity, -Infinity, 1e300, -1e300, 0.5, 2 ** 31, -(2 ** 31), -1, 2 ** 53]
const noNumbers = [NaN, Infinity, -Infinity, 1e300, -1e300]
const x: Dims = [2, 4, 4, 6]

type Build = (g: Graph, value: number) => Value

const input = (g: Graph, name: string, dims: Dims, dtype?: 'i32') => g.input(name, dims, dtype)
const vector = (g: Graph, name: string, c: number) => input(g, name, [1, 1, 1, c])
const conv = (g: Graph, o: { stride?: number; padding?: number[] }) =>
  g.conv2d(input(g, 'x', x), input(g, 'w', [8, 3, 3, 6]), undefined, { stride: 1, padding: [1, 1, 1, 1], ...o })
const rng = (g: Graph) => input(g, 'rng', [1, 1, 1, 4], 'i32')
const labels = (g: Graph, name = 't') => input(g, name, [2, 1, 1, 1], 'i32')

type Case = [attribute: string, values: readonly number[], build: Build]

/** By attribute: what takes it, and numbers that it can't be. */
const cases: Case[] = [
  ['dims', [...noIntegers, 0], (g, v) => input(g, 'x', [1, 1, 1, v])],
  ['shape', [...noIntegers, 0], (g, v) => g.parameter({ name: 'w', shape: [4, v], offset: 0 })],
  ['offset', [...noIntegers, 8, int32 - 15, 2 ** 40], (g, v) => g.parameter({ name: 'w', shape: [4, 4], offset: v })],
  ['stride', [...noIntegers, 0, 2 ** 20], (g, v) => conv(g, { stride: v })],
  ['padding', [...noIntegers, int32], (g, v) => conv(g, { padding: [0, v, 0, 0] })],
  [
    'groups',
    [...noIntegers, 0, 4, int32],
    (g, v) => g.groupNorm(input(g, 'x', x), vector(g, 'a', 6), vector(g, 'b', 6), { groups: v, eps: 1e-5 }),
  ],
  [
    'eps',
    [...noNumbers, -1, 2],
    (g, v) => g.layerNorm(input(g, 'x', x), vector(g, 'a', 6), vector(g, 'b', 6), { eps: v }),
  ],
  ['row', [...noIntegers, 2], (g, v) => g.prependTokens(input(g, 'x', x), input(g, 'a', [2, 1, 1, 12]), { row: v })],
  [
    'heads',
    [...noIntegers, 0, 4],
    (g, v) => {
      const q = input(g, 'q', x)
      return g.attention(q, q, q, { heads: v, scale: 1 })
    },
  ],
  ['scale', noNumbers, (g, v) => g.attentionQkv(input(g, 'q', x), { heads: 1, scale: v, order: 'qkv-first' })],
  ['start', noIntegers, (g, v) => g.slice(input(g, 'x', x), { start: v, count: 1 })],
  ['count', [...noIntegers, 0, 7, int32], (g, v) => g.slice(input(g, 'x', x), { start: 1, count: v })],
  ['factor', [...noIntegers, 0, int32], (g, v) => g.upsampleNearest(input(g, 'x', x), { factor: v })],
  ['kernel', [...noIntegers, 0], (g, v) => g.avgPool(input(g, 'x', x), { kernel: v })],
  ...(['maxPool', 'meanPool'] as const).flatMap((op): Case[] => {
    const build = (g: Graph, o: object) =>
      g[op](input(g, 'x', x), { kernel: 3, stride: 1, padding: [1, 1, 1, 1], ...o })
    return [
      ['kernel', [...noIntegers, 0, 2 ** 20], (g, v) => build(g, { kernel: v })],
      ['stride', [...noIntegers, 0, 2 ** 20], (g, v) => build(g, { stride: v })],
      ['padding', [...noIntegers, 2], (g, v) => build(g, { padding: [0, 0, v, 0] })],
    ]
  }),
  ['width', [...noIntegers, 0], (g, v) => g.resizeBilinear(input(g, 'x', x), { height: 2, width: v })],
  ...(['up', 'down'] as const).map(
    (name): Case => [
      name,
      [...noIntegers, 0, 2 ** 20],
      (g, v) => g.firResample(input(g, 'x', x), { taps: [1], padding: [0, 0, 0, 0], [name]: v }),
    ],
  ),
  ['taps', noNumbers, (g, v) => g.firResample(input(g, 'x', x), { taps: [1, v], padding: [0, 0, 0, 0] })],
  [
    'padding',
    [...noIntegers.filter((v) => v !== -1), -4],
    (g, v) => g.firResample(input(g, 'x', x), { taps: [1], padding: [0, v, 0, 0] }),
  ],
  [
    'height',
    [...noIntegers, 0],
    (g, v) => g.toNhwc(input(g, 'x', [2, 1, 1, 12]), { channels: 3, height: v, width: 2 }),
  ],
  [
    'dim',
    [...noIntegers, 0],
    (g, v) => g.timestepEmbedding(labels(g), { dim: v, maxPeriod: 1e4, freqShift: 0, sinFirst: false }),
  ],
  [
    'maxPeriod',
    [...noNumbers, 0, -1],
    (g, v) => g.timestepEmbedding(labels(g), { dim: 4, maxPeriod: v, freqShift: 0, sinFirst: false }),
  ],
  [
    'freqShift',
    noNumbers,
    (g, v) => g.timestepEmbedding(labels(g), { dim: 4, maxPeriod: 1e4, freqShift: v, sinFirst: false }),
  ],
  [
    'ratio',
    [...noNumbers, -0.1, 1.1],
    (g, v) => g.absQuantile(input(g, 'x', [2, 1, 1, 5]), { ratio: v, least: 0, most: 1 }),
  ],
  ['least', [...noNumbers, -1], (g, v) => g.absQuantile(input(g, 'x', [2, 1, 1, 5]), { ratio: 1, least: v, most: 1 })],
  ['most', [...noNumbers, 0.5], (g, v) => g.absQuantile(input(g, 'x', [2, 1, 1, 5]), { ratio: 1, least: 1, most: v })],
  ['p', [...noNumbers, -0.1, 1, 1 - 2 ** -40], (g, v) => g.dropout(input(g, 'x', x), rng(g), { p: v, layer: 0 })],
  ['layer', noIntegers, (g, v) => g.dropout(input(g, 'x', x), rng(g), { p: 0.5, layer: v })],
  ['d', [...noIntegers, 0], (g, v) => g.gaussianNoise(rng(g), labels(g, 'a'), labels(g, 'b'), { d: v, purpose: 0 })],
  ['count', [...noIntegers, 0], (g, v) => g.gradSumSquares(v)],
]

/** Each number fits, what follows from them does not. */
const overflows: [title: string, argument: string, build: (g: Graph) => unknown][] = [
  ['elements of an input', 'result', (g) => input(g, 'x', [65536, 65536, 65536, 65536])],
  [
    'elements of a sample',
    'channels',
    (g) => g.toNhwc(input(g, 'x', [1, 1, 1, 8]), { channels: int32, height: int32, width: int32 }),
  ],
  ['the end of a bank', 'offset', (g) => g.parameter({ name: 'w', shape: [2 ** 15, 2 ** 15], offset: 2 ** 30 })],
  [
    'rows with padding',
    'padding',
    (g) =>
      g.conv2d(input(g, 'x', [1, int32, 1, 1]), input(g, 'w', [1, 1, 1, 1]), undefined, {
        stride: 1,
        padding: [9, 0, 9, 0],
      }),
  ],
  [
    'channels of scale and shift',
    'x',
    (g) => g.scaleShift(input(g, 'x', [1, 1, 1, int32]), input(g, 'e', [1, 1, 1, 2])),
  ],
  [
    'channels of all parts',
    'values',
    (g) => {
      const part = input(g, 'x', [1, 1, 1, 2 ** 30])
      return g.concat([part, part, part])
    },
  ],
  ['a map enlarged', 'result', (g) => g.upsampleNearest(input(g, 'x', [1, 4, 4, 1]), { factor: 2 ** 20 })],
]

describe('attributes', () => {
  for (const [attribute, values, build] of cases) {
    for (const value of values) {
      it(`${attribute} is not ${value}`, () => {
        assert.throws(() => build(new Graph(), value), { code: 'invalid-argument', argument: attribute })
      })
    }
  }

  for (const [title, argument, build] of overflows) {
    it(`do not overflow: ${title}`, () => {
      assert.throws(() => build(new Graph()), { code: 'invalid-argument', argument })
    })
  }

  it('of another dtype are refused: integers as scales of a norm', () => {
    const g = new Graph()
    const scale = input(g, 'a', [1, 1, 1, 6], 'i32')
    const norm = () => g.layerNorm(input(g, 'x', x), scale, vector(g, 'b', 6), { eps: 1e-5 })
    assert.throws(norm, { code: 'invalid-argument', argument: 'gamma' })
  })

  it('say of long names and lists what one can read', () => {
    const g = new Graph()
    const long = 'x'.repeat(1e6)
    for (const build of [
      () => g.native.add(long, [], {}),
      () => g.native.add('input', [], { name: 'x', dims: new Array(1e5).fill(1), dtype: 'f32' }),
      () => g.native.add('input', [], { name: 'x', dims: [1, 1, 1, 1], dtype: long }),
    ]) {
      assert.throws(build, (error: Error) => error.message.length < 300)
    }
  })
})
