/** The addon in several threads, and what remains when one of them ends in the middle of a step. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { Worker } from 'node:worker_threads'
import { native } from '../../lib/native'

const script = path.join(__dirname, 'endless-worker.js')

describe('worker threads', () => {
  it('the addon survives their termination in the middle of a step', async () => {
    for (let round = 0; round < 3; round++) {
      const workers = [0, 1, 2].map(() => new Worker(script))
      await Promise.all(workers.map((worker) => once(worker, 'message')))
      await new Promise((resolve) => setTimeout(resolve, 7 * round))
      const codes = await Promise.all(workers.map((worker) => worker.terminate()))
      assert.deepEqual(codes, [1, 1, 1])
    }
    const device = native.openDevice('cpu', 0, 1)
    const buffer = device.allocate(4)
    buffer.write(Float32Array.of(1, 2, 3, 4))
    assert.deepEqual([...(await buffer.read())], [1, 2, 3, 4])
    device.close()
  })

  it('a worker that has nothing left to do ends by itself, with its devices open', async () => {
    const code = `
      const { native } = require(${JSON.stringify(require.resolve('../../lib/native'))})
      const buffer = native.openDevice('cpu', 0, 1).allocate(16)
      buffer.read().then((data) => require('node:worker_threads').parentPort.postMessage(data.length))`
    const worker = new Worker(code, { eval: true })
    const ended = once(worker, 'exit')
    assert.deepEqual(await once(worker, 'message'), [16])
    assert.deepEqual(await ended, [0])
  })
})

describe('device', () => {
  it('a process that exits in the middle of a step ends cleanly', () => {
    const code = `require(${JSON.stringify(script)}); setTimeout(() => process.exit(7), 200)`
    const { status, signal, stderr } = spawnSync(process.execPath, ['-e', code], { encoding: 'utf8', timeout: 60_000 })
    assert.deepEqual({ status, signal, stderr }, { status: 7, signal: null, stderr: '' })
  })

  it('close() rejects what waits, ends what runs, and frees everything', async () => {
    const device = native.openDevice('cpu', 0, 1)
    const buffer = device.allocate(1 << 22)
    const reads = Array.from({ length: 50 }, () => buffer.read())
    device.close()
    const results = await Promise.allSettled(reads)
    const failures = results.filter((r) => r.status === 'rejected')
    assert.ok(failures.length > 0)
    for (const failure of failures) assert.equal(failure.reason.code, 'closed')
    assert.equal(device.memoryInUse(), 0)
    assert.throws(() => buffer.read(), { code: 'closed' })
    assert.throws(() => device.allocate(1), { code: 'closed' })
    await assert.rejects(device.synchronize(), { code: 'closed' })
    device.close()
  })

  it('work is done in the order in which it was asked for', async () => {
    const device = native.openDevice('cpu', 0, 1)
    const [a, b] = [device.allocate(8), device.allocate(8)]
    const data = Float32Array.from({ length: 8 }, (_, i) => i)
    a.write(data)
    data.fill(-1) // it was copied
    b.copyFrom(a, 2, 4, 3)
    const first = b.read()
    a.write(Int32Array.of(7), 0)
    a.release() // after what was asked for before
    assert.deepEqual([...(await first)], [0, 0, 0, 0, 2, 3, 4, 0])
    assert.deepEqual([...(await b.read(4, 2))], [2, 3])
    device.close()
  })

  it('ranges, types and devices are checked', () => {
    const device = native.openDevice('cpu', 0, 1)
    const buffer = device.allocate(8)
    const refused = { code: 'invalid-argument' }
    assert.throws(() => buffer.write(new Float32Array(9)), refused)
    assert.throws(() => buffer.write(new Float32Array(4), 5), refused)
    assert.throws(() => buffer.write(new Float64Array(4) as unknown as Float32Array), refused)
    assert.throws(() => buffer.read(-1, 2), refused)
    assert.throws(() => buffer.read(0.5, 1), refused)
    assert.throws(() => buffer.read(0, Number.NaN), refused)
    assert.throws(() => buffer.copyFrom({} as never), refused)
    assert.throws(() => device.allocate(0), refused)
    assert.throws(() => device.allocate(2 ** 31), refused)
    assert.throws(() => native.openDevice('cpu', 1, 0), { code: 'device-unavailable' })
    assert.throws(() => native.openDevice('../cpu', 0, 0), refused)
    device.close()
  })

  it('memory that does not fit is an error, and work goes on', async () => {
    const device = native.openDevice('cpu', 0, 1)
    const dims = [1, 1, 2 ** 15, 2 ** 16 - 1]
    const graph = native.createGraph()
    const [x] = graph.add('input', [], { name: 'x', dims, dtype: 'f32' })
    // So many values at once that they take more than the machine has.
    const many = Math.ceil(device.info().memoryBytes / (4 * dims[2] * dims[3])) + 1
    const values = Array.from({ length: many }, () => graph.add('silu', [x], {})[0])
    const sum = values.reduce((a, b) => graph.add('add', [a, b], {})[0])
    const [small] = graph.add('slice', [sum], { start: 0, count: 1 })
    assert.throws(() => graph.compile(device, { small }, {}), { code: 'out-of-memory' })
    const buffer = device.allocate(4)
    assert.deepEqual([...(await buffer.read())], [0, 0, 0, 0])
    device.close()
  })
})
