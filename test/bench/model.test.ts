/** bench/model against closed forms: what a step does, how it is launched for a GPU, and how long that should take. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { gpus, launchSeconds } from '../../bench/model/gpus'
import { layersOf, timeOf } from '../../bench/model/time'
import { bytesOf, flopsOf } from '../../bench/model/work'
import type { Graph, Value } from '../../lib/graph'
import type { Dims, KernelLaunch, Precision, ProgramStep } from '../../lib/native'
import { compileGraph } from '../support/run-graph'

const root = path.join(__dirname, '..', '..', '..')

function stepsOf(build: (g: Graph) => Value, precision: Precision): readonly ProgramStep[] {
  const program = compileGraph('cuda-host', (g) => ({ y: build(g) }), { precision })
  const steps = program.steps()
  program.release()
  return steps
}

const same = { stride: 1, padding: [1, 1, 1, 1] }
const conv = (x: Dims, out: number) => (g: Graph) =>
  g.conv2d(g.input('x', x), g.input('w', [out, 3, 3, x[3]]), undefined, same)

const only = (steps: readonly ProgramStep[], op: string): ProgramStep => {
  const found = steps.filter((step) => step.op === op)
  assert.equal(found.length, 1, steps.map((step) => step.op).join(' '))
  return found[0]
}

describe('a model of time', () => {
  it('knows the arithmetic, the bytes and the blocks of a convolution', () => {
    const step = only(stepsOf(conv([3, 20, 20, 64], 96), 'bf16'), 'Conv2d')
    assert.equal(flopsOf(step), 2 * 3 * 400 * 96 * 9 * 64)
    assert.equal(bytesOf(step), 2 * 3 * 400 * 64 + 2 * 96 * 9 * 64 + 4 * 3 * 400 * 96) // x, w narrow; y an output
    assert.equal(step.algo, 'tile128x128')
    assert.deepEqual(
      step.launches?.map(({ grid, block }) => ({ grid, block })),
      [{ grid: [10, 1, 1], block: [128, 1, 1] }],
    )
    assert.equal(step.tensors.w.access, 'read')
    assert.equal(step.tensors.y.access, 'write')
  })

  it('a sum in parts is one more launch, and its parts are written and read', () => {
    const step = only(stepsOf(conv([1, 4, 4, 64], 64), 'bf16'), 'Conv2d')
    assert.equal(step.splits, 4)
    assert.deepEqual(
      step.launches?.map(({ grid }) => grid),
      [
        [1, 1, 4],
        [1, 1, 1],
      ],
    )
    assert.equal(step.scratchBytes, 4 * 4 * 16 * 64)
    assert.equal(bytesOf(step), 2 * 16 * 64 + 2 * 64 * 9 * 64 + 4 * 16 * 64 + 2 * step.scratchBytes)
  })

  it('knows the arithmetic of attention', () => {
    const build = (g: Graph) => {
      const [q, k, v] = ['query', 'key', 'value'].map((name) => g.input(name, [2, 5, 7, 64]))
      return g.attention(q, k, v, { heads: 2, scale: 1 })
    }
    assert.equal(flopsOf(only(stepsOf(build, 'fp32'), 'Attention')), 4 * 2 * 35 * 35 * 64)
  })

  const launch = (blocks: number): KernelLaunch => ({
    kernel: 'k',
    grid: [blocks, 1, 1],
    block: [128, 1, 1],
    sharedBytes: 0,
  })
  const tensor = (dims: Dims, dtype: 'f32' | 'bf16', access: 'read' | 'write') => {
    return { dims, ld: dims[3], dtype, access, storage: 0, offset: 0 } as const
  }
  /** m x k by k x n. */
  const product = (m: number, n: number, k: number, launches: KernelLaunch[]): ProgramStep => ({
    op: 'Conv2d',
    prologue: false,
    tensors: {
      x: tensor([m, 1, 1, k], 'bf16', 'read'),
      w: tensor([n, 1, 1, k], 'bf16', 'read'),
      y: tensor([m, 1, 1, n], 'f32', 'write'),
    },
    scratchBytes: 0,
    launches,
  })
  const { H200 } = gpus

  it('arithmetic takes whole waves', () => {
    const flops = 2 * 2048 * 1024 * 8192
    const full = flops / (H200.tensorFlops * H200.mmaShare)
    const seconds = (blocks: number) => timeOf(product(2048, 1024, 8192, [launch(blocks)]), H200).seconds
    const near = (actual: number, expected: number) => assert.ok(Math.abs(actual - expected) < 1e-9 * expected)
    near(seconds(132), full + launchSeconds)
    near(seconds(128), (full * 132) / 128 + launchSeconds)
    near(seconds(133), (full * 264) / 133 + launchSeconds)
    assert.equal(timeOf(product(2048, 1024, 8192, [launch(99)]), H200).full, 0.75)
  })

  it('bytes take bandwidth, of the multiprocessors that have a block', () => {
    const bytes = 2 * 64 * 64 + 2 * 64 * 64 + 4 * 64 * 64
    const { seconds } = timeOf(product(64, 64, 64, [launch(33), launch(1)]), H200)
    assert.ok(Math.abs(seconds - (4 * bytes) / H200.bandwidth - 2 * launchSeconds) < 1e-12)
  })

  it('equal steps are one layer', () => {
    const times = [1, 1, 2].map((rows) => timeOf(product(64 * rows, 64, 64, [launch(rows)]), H200))
    const layers = layersOf(times)
    assert.deepEqual(layers.map(({ count, launches }) => [count, launches]).sort(), [
      [1, 1],
      [2, 2],
    ])
    assert.equal(
      layers.reduce((sum, { flops }) => sum + flops, 0),
      times.reduce((sum, { flops }) => sum + flops, 0),
    )
  })

  it('npm run bench:model plans for the GPU that is named, and executes nothing', function () {
    this.timeout(120_000)
    const run = (...args: string[]) =>
      spawnSync(process.execPath, [path.join(root, 'dist', 'bench', 'model', 'run.js'), ...args], { encoding: 'utf8' })
    const { stdout, stderr, status } = run('--batch', '1,16', '--training', '', '--rows', '200')
    assert.equal(status, 0, stderr)
    const [, launches, gigaflops] = /\| sampling, batch 1 +\| +(\d+) \| +([\d.]+) \|/.exec(stdout) ?? []
    // 6.05 GMAC, and five blocks of attention over 256 tokens of 256 channels.
    assert.ok(Math.abs(Number(gigaflops) - 12.1 - (5 * 4 * 256 ** 3) / 1e9) < 0.05, stdout)
    assert.ok(Number(launches) > 100 && Number(launches) < 300, stdout)
    // 64 pixels by 256 channels, 9 x 256 terms: 4 tiles of 64x64 on 132 multiprocessors are cut into 8 parts.
    assert.match(stdout, /Conv2d 3x3 256 -> 256, 8x8 tile32x64 in 8 parts/)
    // 128 tiles leave 4 multiprocessors idle, which costs less than tiles of half the size.
    const [, batch16 = ''] = stdout.split('## A step of sampling, batch 16')
    assert.ok(/Conv2d 3x3 256 -> 256, 16x16 tile128x64 .*\| +128 \| +0\.97 \|/.test(batch16), batch16.slice(0, 2000))
    for (const args of [
      ['--gpu', 'H2000'],
      ['--batch', '0'],
      ['--precision', 'fp8'],
      ['--rows', 'x'],
    ]) {
      const { status, stderr } = run(...args)
      assert.equal(status, 2, args.join(' '))
      assert.match(stderr, /^bench:model: --/)
    }
  })
})
