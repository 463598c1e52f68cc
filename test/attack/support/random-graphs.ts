/** Graphs of random ops with attributes and indices that lie. */
import { Graph, lossTypes, type Value } from '../../../lib/graph'
import { type Dims, type NativeBuffer, type NativeDevice, native } from '../../../lib/native'
import type { Random } from '../../support/random'
import { InternalError } from './hostile-calls'

const pick = <T>(random: Random, items: readonly T[]): T => items[Math.floor(random.uniform() * items.length)]

const extents = [1, 1, 2, 3, 4, 8, 16]
const hostile = [0, -1, 3, 1e9, 2 ** 31 - 1, 2 ** 31, 2 ** 53, NaN, Infinity, 0.5, -Infinity, 1e-300]

/** Mostly a number that fits, sometimes one that doesn't. */
const number = (random: Random, ...fitting: number[]) => pick(random, random.uniform() < 0.85 ? fitting : hostile)

type Build = (graph: Graph, value: () => Value, random: Random, index: number) => Value | readonly Value[]

/** Every op's method with attributes at random; what does not fit together is refused. */
const ops: readonly Build[] = [
  (g, v, r, i) =>
    g.conv2d(
      v(),
      slot(g, r, i, [number(r, 4, 8), number(r, 1, 3, 4, 8), pick(r, [1, 3]), pick(r, [1, 3])]),
      undefined,
      {
        stride: number(r, 1, 2),
        padding: [0, 1, 2, 3].map(() => number(r, 0, 1)),
      },
    ),
  (g, v, r, i) => g.linear(v(), slot(g, r, i, [number(r, 4, 8), number(r, 1, 3, 4, 8)])),
  (g, v, r, i) =>
    g.groupNorm(v(), slot(g, r, i, [8]), slot(g, r, i + 1, [8]), { groups: number(r, 1, 2, 4), eps: number(r, 1e-5) }),
  (g, v, r, i) => g.layerNorm(v(), slot(g, r, i, [8]), slot(g, r, i + 1, [8]), { eps: number(r, 1e-5) }),
  (g, v, r) =>
    g.attention(v(), v(), v(), {
      heads: number(r, 1, 2, 4),
      scale: number(r, 0.5),
      mask: r.uniform() < 0.5 ? v() : undefined,
    }),
  (g, v, r) =>
    g.attentionQkv(v(), {
      heads: number(r, 1, 2),
      scale: number(r, 0.5),
      order: pick(r, ['heads-first', 'qkv-first']),
    }),
  (g, v, r, i) => g.rmsNorm(v(), slot(g, r, i, [8]), { eps: number(r, 1e-12) }),
  (g, v, r) =>
    g.linearAttention(v(), v(), v(), {
      heads: number(r, 1, 2, 4),
      scale: number(r, 0.5),
      querySoftmax: r.uniform() < 0.5,
    }),
  (g, v, r, i) => g.prependTokens(v(), slot(g, r, i, [number(r, 1, 2), number(r, 8, 16)]), { row: number(r, 0, 1) }),
  (g, v) => g.silu(v()),
  (g, v) => g.gelu(v()),
  (g, v) => g.quickGelu(v()),
  (g, v) => g.relu(v()),
  (g, v) => g.tanh(v()),
  (g, v, r) => g.straightThrough(v(), r.uniform() < 0.5 ? v() : undefined),
  (g, v) => g.geglu(v()),
  (g, v) => g.add(v(), v()),
  (g, v) => g.addSample(v(), v()),
  (g, v, r) => g.divSample(v(), r.uniform() < 0.5 ? v() : number(r, 0, 2)),
  (g, v) => g.scaleShift(v(), v()),
  (g, v, r) => g.concat(Array.from({ length: pick(r, [1, 2, 3, 40]) }, v)),
  (g, v, r) => g.slice(v(), { start: number(r, 0, 1, 2), count: number(r, 1, 2, 4) }),
  (g, v, r) => g.upsampleNearest(v(), { factor: number(r, 1, 2) }),
  (g, v, r) => g.avgPool(v(), { kernel: number(r, 1, 2) }),
  ...(['maxPool', 'meanPool'] as const).map(
    (name): Build =>
      (g, v, r) => {
        const padding = Array.from({ length: 4 }, () => number(r, 0, 1))
        return g[name](v(), { kernel: number(r, 2, 3), stride: number(r, 1, 2), padding })
      },
  ),
  (g, v, r) => g.resizeBilinear(v(), { height: number(r, 1, 3), width: number(r, 2, 5) }),
  (g, v, r) =>
    g.firResample(v(), {
      taps: Array.from({ length: pick(r, [0, 1, 4, 8, 9]) }, () => number(r, 0.5, 1, -1)),
      up: number(r, 1, 2),
      down: number(r, 1, 2),
      padding: [number(r, 0, 1, -1), number(r, 0, 2), number(r, 0, 1, -1), number(r, 0, 1)],
    }),
  (g, v, r) => g.fourierEmbedding(v(), v(), { log: r.uniform() < 0.5, sinFirst: true }),
  (g, v, r) => g.toNhwc(v(), { channels: number(r, 1, 4), height: number(r, 1, 2), width: number(r, 1, 2) }),
  (g, v) => g.toNchw(v()),
  (g, v, r) => {
    const x = v()
    const [n, h, w, c] = x.dims
    return g.reshape(
      x,
      pick(r, [
        [1, 1, 1, n * h * w * c],
        [n * h, w, 1, c],
        [n, c, w, h],
        [0, 1, 2, 3],
      ] as Dims[]),
    )
  },
  (g, v) => g.embedding(v(), v()),
  (g, v, r) =>
    g.timestepEmbedding(v(), {
      dim: number(r, 4, 5),
      maxPeriod: number(r, 1e4),
      freqShift: number(r, 0, 1),
      sinFirst: false,
    }),
  (g, v, r) => g.dropout(v(), v(), { p: number(r, 0, 0.5), layer: number(r, 0, 1) }),
  (g, v) => g.round(v()),
  (g, v, r) => g.loss(v(), v(), { type: pick(r, lossTypes), delta: number(r, 1, 0.1, 0) }),
  (g, v, r) => g.elementLoss(v(), v(), { type: pick(r, lossTypes), delta: number(r, 1, 0.1, 0) }),
  (g, v) => g.weightedSum(v(), v()),
  (g, v) => g.crossEntropy(v(), v()),
  (g, v) => g.concatTokens(v(), v()),
  (g, v, r) => g.sliceTokens(v(), { start: number(r, 0, 1), height: number(r, 1, 2), width: number(r, 1, 2) }),
  (g, v, r) => g.rescaleGuidance(v(), v(), { amount: number(r, 0, 0.5, 1) }),
  (g, v, r) => g.absQuantile(v(), { ratio: number(r, 0, 0.5, 1), least: number(r, 0, 1), most: number(r, 1, 9) }),
  (g, v) => g.timestepAffine(v(), v(), v(), v(), v()),
  (g, v) => g.extract(v(), v()),
  (g, v, r) => Object.values(g.posteriorStep(v(), v(), v(), v(), { clip: r.uniform() < 0.5, scale: v(), noise: v() })),
  (g, v, r) => g.gaussianNoise(v(), v(), v(), { d: number(r, 1, 4, 5), purpose: number(r, 0, 1) }),
  (g, v) => g.varianceNoise(v(), v(), v(), v(), v()),
  (g, v) => g.variationalLoss(v(), v(), v(), v(), v(), v()),
  (g, v) => g.gaussianSample(v(), v()),
  (g, v) => g.gaussianKl(v()),
  (g, v) => Object.values(g.nearestCode(v(), v())),
  (g, _, r) => g.gradSumSquares(number(r, 16, 4096)),
]

function slot(graph: Graph, random: Random, index: number, shape: readonly number[]): Value {
  return graph.parameter({ name: `w${index}`, shape, offset: number(random, 0, 16, 64) })
}

const refused = new Set(['invalid-argument', 'unsupported', 'out-of-memory', 'closed', 'napi_invalid_arg'])

function mayFail<T>(work: () => T): T | undefined {
  try {
    return work()
  } catch (error) {
    check(error)
    return undefined
  }
}

function check(error: unknown): void {
  const { code, message } = error as { code: string; message: string }
  if (!refused.has(code)) throw new InternalError(`${code}: ${message}`)
}

const sizeOf = (dims: Dims) => dims.reduce((a, b) => a * b, 1)

/** Of all values of a graph that is run, not only compiled: kernels of GPUs on a CPU would take minutes for more. */
const mostElements = 2 ** 17

/** Builds one from the seed, compiles it, and runs it with buffers that fit or don't. Resolves with how many runs ended well. */
export async function randomGraph(backend: string, random: Random): Promise<number> {
  const device = native.openDevice(backend, 0, 2)
  try {
    const graph = new Graph()
    const values: Value[] = []
    const inputs: { name: string; integers: boolean; dims: Dims }[] = []
    for (let i = 0; i < 6; i++) {
      const integers = random.uniform() < 0.4
      const vector = random.uniform() < 0.5
      const dims = [
        pick(random, [1, 2]),
        ...[0, 0].map(() => (vector ? 1 : pick(random, extents))),
        pick(random, [1, 4, 8, 16]),
      ] as unknown as Dims
      const value = mayFail(() => graph.input(`x${i}`, dims, integers ? 'i32' : 'f32'))
      if (!value) continue
      values.push(value)
      inputs.push({ name: `x${i}`, integers, dims })
    }
    // The last values more often, so that graphs become deep.
    const value = () =>
      random.uniform() < 0.5
        ? values[values.length - 1 - Math.floor(random.uniform() * Math.min(3, values.length))]
        : pick(random, values)
    for (let i = 0, want = 3 + Math.floor(random.uniform() * 15); i < 10 * want && values.length < 6 + want; i++) {
      const made = mayFail(() => pick(random, ops)(graph, value, random, 2 * i))
      if (made) values.push(...(Array.isArray(made) ? made : [made as Value]))
    }
    if (random.uniform() < 0.3) mayFail(() => graph.backward(value(), [value()]))
    const outputs = Object.fromEntries([value(), value()].map(({ id }, i) => [`y${i}`, id]))
    const options = {
      deterministic: random.uniform() < 0.3,
      forceAlgo: random.uniform() < 0.2 ? Math.floor(random.uniform() * 12) : undefined,
    }
    const program = mayFail(() => graph.native.compile(device, outputs, options))
    if (!program || values.reduce((sum, { dims }) => sum + sizeOf(dims), 0) > mostElements) return 0
    return await run(
      device,
      program,
      {
        inputs,
        outputs: Object.keys(outputs).map((name, i) => ({
          name,
          dims: values.find(({ id }) => id === outputs[`y${i}`])!.dims,
        })),
      },
      random,
    )
  } finally {
    device.close()
  }
}

interface Interface {
  readonly inputs: readonly { readonly name: string; readonly integers: boolean; readonly dims: Dims }[]
  readonly outputs: readonly { readonly name: string; readonly dims: Dims }[]
}

async function run(
  device: NativeDevice,
  program: { run(b: Record<string, NativeBuffer>): Promise<void> },
  io: Interface,
  random: Random,
): Promise<number> {
  const bindings: Record<string, NativeBuffer> = {}
  for (const bank of ['weights', 'grads', 'm', 'v', 'ema']) bindings[bank] = device.allocate(8192)
  for (const { name, dims, integers } of io.inputs) {
    const buffer = device.allocate(random.uniform() < 0.98 ? sizeOf(dims) : 1)
    const indices = [-1, 0, 1, 5, 2 ** 31 - 1, -(2 ** 31), 1000]
    const data = integers
      ? Int32Array.from({ length: buffer.elements }, () => pick(random, indices))
      : Float32Array.from({ length: buffer.elements }, () => pick(random, [0, 1, -1, 1e38, NaN, Infinity, 0.1]))
    buffer.write(data)
    bindings[name] = buffer
  }
  for (const { name, dims } of io.outputs) {
    const buffer = mayFail(() => device.allocate(sizeOf(dims)))
    if (!buffer) return 0
    bindings[name] = buffer
  }
  let ran = 0
  for (let i = 0; i < 2; i++) {
    try {
      await program.run(bindings)
      await bindings.y0.read()
      ran++
    } catch (error) {
      check(error)
    }
  }
  return ran
}
