/** bench/model/scaling against closed forms: what ranks send, when, and what of their time that leaves. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import {
  bytesKept,
  bytesSent,
  exchangeSeconds,
  piecesOf,
  slower,
  stepOf,
  type Timeline,
} from '../../bench/model/scaling/exchange'
import { type Network, networks } from '../../bench/model/scaling/networks'
import { Device } from '../../lib/device'
import { Graph } from '../../lib/graph'

const root = path.join(__dirname, '..', '..', '..')
const near = (actual: number, expected: number) =>
  assert.ok(Math.abs(actual - expected) <= 1e-9 * Math.abs(expected), `${actual}, not ${expected}`)

const free: Network = { name: 'none', bandwidth: Number.POSITIVE_INFINITY, latency: 0, message: 0, source: '' }
const slow: Network = { ...free, bandwidth: 1e6 }

/** Four pieces of the bank, of 2^20 numbers each, of which the last is there first. */
const count = 4 * 2 ** 20
const timeline: Timeline = {
  count,
  written: [4, 3, 2, 1].map((seconds, i) => ({ begin: i * 2 ** 20, end: (i + 1) * 2 ** 20, seconds })),
  gradients: 4,
  update: 0.5,
}

describe('a model of ranks', () => {
  it('one rank sends nothing, and n of them 2 (n - 1) / n of the bank', () => {
    assert.equal(bytesSent(1e6, 1), 0)
    assert.equal(bytesSent(1e6, 4), 1.5e6)
    assert.equal(bytesSent(2e6, 1024), 2 * bytesSent(1e6, 1024))
    assert.equal(bytesSent(1e6, 4, 2), 2.25e6) // 3 batches are two nodes: 1.5 times as much
    assert.deepEqual(stepOf(timeline, 1, slow), { exchanging: 0, seconds: 4.5, efficiency: 1 })
  })

  it('a network without limits costs nothing', () => {
    for (const ranks of [2, 64, 1024])
      assert.deepEqual(stepOf(timeline, ranks, free), { exchanging: 0, seconds: 4.5, efficiency: 1 })
  })

  it('a piece takes both rounds of messages, and its bytes', () => {
    const network: Network = { ...free, bandwidth: 1e9, latency: 1e-3, message: 1e-4 }
    near(exchangeSeconds(4e6, 5, network), 2 * (1e-3 + 4e-4) + 6.4e6 / 1e9)
    near(exchangeSeconds(4e6, 5, network, 2), 3 * (1e-3 + 4e-4) + 9.6e6 / 1e9)
    assert.equal(exchangeSeconds(4e6, 1, network), 0)
  })

  it('pieces go out as they are there, one after the other', () => {
    const piece = 4 * 2 ** 20 // bytes that each of two ranks sends of one
    const fast = stepOf(timeline, 2, { ...free, bandwidth: piece / 0.25 })
    near(fast.seconds, 4 + 0.25 + 0.5) // only the last is not hidden
    near(fast.exchanging, 1)
    near(fast.efficiency, 4.5 / 4.75)
    const busy = stepOf(timeline, 2, { ...free, bandwidth: piece / 10 })
    near(busy.seconds, 1 + 4 * 10 + 0.5) // from when the first is there
    // Four times as slow a device hides more.
    near(stepOf(slower(timeline, 4), 2, { ...free, bandwidth: piece / 10 }).seconds, 4 + 4 * 10 + 2)
    assert.ok(stepOf(slower(timeline, 4), 2, { ...free, bandwidth: piece / 10 }).efficiency > busy.efficiency)
  })

  it('cuts a bank as the sum of a program does', () => {
    const device = Device.open('cpu')
    for (const [numbers, ranks] of [
      [16, 2],
      [35_746_307, 2],
      [35_746_307, 3],
      [35_746_307, 1024],
      [859_520_964, 64],
    ]) {
      const graph = new Graph()
      graph.sumRanks({ count: numbers, rank: 0, ranks, share: 1, keepsParts: false })
      const program = graph.native.compile(device.native, {}, { reserve: false })
      const pieces = piecesOf(numbers, ranks)
      assert.equal(pieces.length, Number(/RankSum: (\d+) pieces/.exec(program.describe())![1]))
      assert.deepEqual([pieces[0].begin, pieces.at(-1)!.end], [0, numbers])
      program.release()
    }
  })

  it('moments and average are what shards divide', () => {
    assert.equal(bytesKept(1000), 5 * 4000)
    assert.equal(bytesKept(1000, 4), 2 * 4000 + 3 * 1000)
    assert.equal(bytesKept(1000, 1000), 2 * 4000 + 3 * 4)
  })

  it('every gradient of a network is written before the update', () => {
    const child = spawnSync(process.execPath, [path.join(__dirname, 'timeline-child.js')], { encoding: 'utf8' })
    assert.equal(child.status, 0, child.stderr)
    const timeline = JSON.parse(child.stdout) as Timeline
    const covered = new Uint8Array(timeline.count)
    for (const { begin, end, seconds } of timeline.written) {
      covered.fill(1, begin, end)
      assert.ok(seconds > 0 && seconds <= timeline.gradients)
    }
    // What is left are the numbers between parameters.
    assert.ok(covered.reduce((a, b) => a + b) > 0.99 * timeline.count)
    assert.ok(timeline.written[0].begin > timeline.count / 2, 'the last layer has its gradients first')
  })

  it('writes a page, and refuses what it has no numbers for', () => {
    const run = (...args: string[]) =>
      spawnSync(process.execPath, [path.join(root, 'dist', 'bench', 'model', 'scaling', 'run.js'), ...args], {
        encoding: 'utf8',
      })
    const folder = mkdtempSync(path.join(tmpdir(), 'ddpm-scaling-'))
    try {
      const output = path.join(folder, 'page.md')
      const { status, stderr } = run('--cifar', '1', '--sd', '', '--output', output)
      assert.equal(status, 0, stderr)
      const page = readFileSync(output, 'utf8')
      assert.match(page, /35\.7 M parameters, 143 MB of gradients/)
      for (const { name } of Object.values(networks)) assert.ok(page.includes(`- ${name}: `), name)
      assert.match(page, /^\| 1 +(\| +[\d.]+ ms, 100\.0 % ){4}\|$/m)
      const refused = run('--networks', 'pigeons')
      assert.equal(refused.status, 2)
      assert.match(refused.stderr, /^bench\/model\/scaling: --networks are of 10gbe, .*, not 'pigeons'/)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})
