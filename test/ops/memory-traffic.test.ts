/**
 * What the hot kernels of the CUDA backend ask of memory, as cuda-host counts it (kernels/cuda/host/counts.h): sectors of a
 * request over the least that its bytes need, and wavefronts over the least, within a budget for each kernel.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { Graph, Value } from '../../lib/graph'
import type { Precision } from '../../lib/native'
import { Random } from '../support/random'
import { type Feeds, normals, type RunOptions, runGraph, type Values } from '../support/run-graph'

interface Counts {
  readonly kernel: string
  readonly grid: readonly number[]
  readonly globalRequests: number
  readonly sectors: number
  readonly leastSectors: number
  readonly globalBytes: number
  readonly storeSectors: number
  readonly leastStoreSectors: number
  readonly sharedRequests: number
  readonly wavefronts: number
  readonly leastWavefronts: number
}

/** Of each kernel that runs, in order. */
async function countsOf(
  feeds: Feeds,
  build: (g: Graph, v: Values) => Record<string, Value>,
  options: RunOptions,
): Promise<Counts[]> {
  const folder = mkdtempSync(path.join(tmpdir(), 'ddpm-counts-'))
  const file = path.join(folder, 'counts')
  process.env.DDPM_HOST_COUNTS = file
  try {
    await runGraph('cuda-host', feeds, build, options)
    return readFileSync(file, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
  } finally {
    delete process.env.DDPM_HOST_COUNTS
    rmSync(folder, { recursive: true })
  }
}

/** Of all kernels with this in their name, which must have run. */
function kernelOf(all: readonly Counts[], name: string): Counts {
  const found = all.filter(({ kernel }) => kernel.includes(name))
  assert.ok(found.length > 0, `${name} is not among ${all.map(({ kernel }) => kernel).join(', ')}`)
  const sum = (field: Exclude<keyof Counts, 'kernel' | 'grid'>) => found.reduce((total, c) => total + c[field], 0)
  return {
    kernel: name,
    grid: found[0].grid,
    globalRequests: sum('globalRequests'),
    sectors: sum('sectors'),
    leastSectors: sum('leastSectors'),
    globalBytes: sum('globalBytes'),
    storeSectors: sum('storeSectors'),
    leastStoreSectors: sum('leastStoreSectors'),
    sharedRequests: sum('sharedRequests'),
    wavefronts: sum('wavefronts'),
    leastWavefronts: sum('leastWavefronts'),
  }
}

describe('what kernels ask of memory', () => {
  const random = new Random(5)

  it('is counted: whole sectors of a dense tensor, parts of them of a view, bytes of both', async () => {
    const x = normals(random, [1, 8, 8, 32])
    const sum = await countsOf({ x, y: x }, (g, v) => ({ z: g.add(v.x, v.y) }), {})
    const dense = kernelOf(sum, 'AddElements')
    assert.equal(dense.globalBytes, 3 * 4 * 2048)
    assert.equal(dense.sectors, dense.globalBytes / 32)
    assert.equal(dense.leastSectors, dense.sectors)
    assert.equal(dense.sharedRequests, 0)
    // Two channels of 32 at a time: 8 bytes of each sector.
    const parts = await countsOf({ x }, (g, v) => ({ z: g.silu(g.slice(v.x, { start: 8, count: 2 })) }), {})
    const part = kernelOf(parts, 'UnaryElements')
    assert.equal(part.globalBytes, 2 * 4 * 128)
    assert.equal(part.sectors, 64 + 16) // read by pixels, written as one
    assert.equal(part.leastSectors, 2 * 16)
  })

  const x = normals(random, [1, 32, 32, 128])
  const feeds: Feeds = {
    x,
    w: normals(random, [128, 3, 3, 128], 0.03),
    gamma: normals(random, [1, 1, 1, 128]),
    beta: normals(random, [1, 1, 1, 128]),
    qkv: normals(random, [1, 16, 8, 384]),
    weight: { dims: [1, 1, 1, 1], data: Float32Array.of(1) },
  }
  const conv = (g: Graph, x: Value, v: Values) => g.conv2d(x, v.w, undefined, { stride: 1, padding: [1, 1, 1, 1] })
  const norm = (g: Graph, v: Values) => g.silu(g.groupNorm(v.x, v.gamma, v.beta, { groups: 32, eps: 1e-5 }))
  const cases = {
    conv: { of: ['x', 'w'], build: (g: Graph, v: Values) => conv(g, v.x, v) },
    // In 16 bits a convolution takes what the norm writes, and the norm what the convolution's gradient is.
    'norm and conv': { of: ['x', 'w', 'gamma', 'beta'], build: (g: Graph, v: Values) => conv(g, norm(g, v), v) },
    attention: {
      of: ['qkv'],
      build: (g: Graph, v: Values) => g.attentionQkv(v.qkv, { heads: 2, scale: 0.125, order: 'heads-first' }),
    },
  } as const

  /**
   * Sectors, sectors of vector stores, and wavefronts, each over the least. Eight floats are two requests, each of half sectors:
   * hence the 2 of what is stored in 32 bits there, and what reads of the same cost.
   */
  const budgets: readonly {
    precision: Precision
    of: keyof typeof cases
    kernel: string
    sectors: number
    stores?: number
    wavefronts: number
  }[] = [
    { precision: 'bf16', of: 'conv', kernel: 'convProductKernel', sectors: 1.11, stores: 2, wavefronts: 1.04 },
    { precision: 'bf16', of: 'conv', kernel: 'convWeightKernel', sectors: 1.21, stores: 2, wavefronts: 1.04 },
    { precision: 'bf16', of: 'norm and conv', kernel: 'normalizeStripKernel', sectors: 1.7, stores: 1, wavefronts: 1 },
    {
      precision: 'bf16',
      of: 'norm and conv',
      kernel: 'differentiateStripKernel',
      sectors: 1.84,
      stores: 2,
      wavefronts: 1,
    },
    { precision: 'bf16', of: 'attention', kernel: 'narrowAttentionKernel', sectors: 1.17, wavefronts: 1 },
    { precision: 'bf16', of: 'attention', kernel: 'narrowQueryGradientKernel', sectors: 1.15, wavefronts: 1 },
    { precision: 'bf16', of: 'attention', kernel: 'narrowKeyGradientKernel', sectors: 1.23, wavefronts: 1 },
    { precision: 'fp32', of: 'conv', kernel: 'productKernel<', sectors: 1, stores: 1, wavefronts: 1.06 },
    { precision: 'fp32', of: 'conv', kernel: 'weightProductKernel', sectors: 1.62, wavefronts: 1 },
    { precision: 'fp32', of: 'conv', kernel: 'transposeKernel', sectors: 1, stores: 1, wavefronts: 1 },
    { precision: 'fp32', of: 'norm and conv', kernel: 'normalizeStripKernel', sectors: 1, stores: 1, wavefronts: 1 },
    {
      precision: 'fp32',
      of: 'norm and conv',
      kernel: 'differentiateStripKernel',
      sectors: 1,
      stores: 1,
      wavefronts: 1,
    },
    { precision: 'fp32', of: 'attention', kernel: 'attentionKernel', sectors: 1.43, wavefronts: 1.02 },
    { precision: 'fp32', of: 'attention', kernel: 'queryGradientKernel', sectors: 1.25, wavefronts: 1.01 },
    { precision: 'fp32', of: 'attention', kernel: 'keyGradientKernel', sectors: 1.38, wavefronts: 1.02 },
  ]

  const counted = new Map<string, Promise<Counts[]>>()
  function countsOfCase(name: keyof typeof cases, precision: Precision): Promise<Counts[]> {
    const key = `${precision} ${name}`
    let counts = counted.get(key)
    if (!counts) {
      const { of, build } = cases[name]
      const used: Feeds = Object.fromEntries([...of, 'weight'].map((input) => [input, feeds[input]]))
      const withGradients = (g: Graph, v: Values) => {
        const y = build(g, v)
        const target = g.silu(y) // of y's shape; its own gradient is none of these kernels'
        const loss = g.weightedSum(g.loss(y, target, { type: 'l2' }), v.weight)
        const wrt = g.backward(
          loss,
          of.map((input) => v[input]),
        )
        return Object.fromEntries([['y', y], ...wrt.map((value, i) => [`d${i}`, value as Value])])
      }
      counts = countsOf(used, withGradients, { precision })
      counted.set(key, counts)
    }
    return counts
  }

  for (const { precision, of, kernel, sectors, stores, wavefronts } of budgets) {
    it(`${kernel.replace('<', '')}, ${precision}`, async () => {
      const counts = kernelOf(await countsOfCase(of, precision), kernel)
      const within = (what: string, found: number, least: number, budget: number) =>
        assert.ok(found <= budget * least, `${what}: ${(found / least).toFixed(3)} times the least, budget ${budget}`)
      within('sectors', counts.sectors, counts.leastSectors, sectors)
      if (stores) within('sectors of stores', counts.storeSectors, counts.leastStoreSectors, stores)
      within('wavefronts', counts.wavefronts, counts.leastWavefronts, wavefronts)
    })
  }
})
