// Models in worker threads: several at once, and terminated in the middle of what they do.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import path from 'node:path'
import { Worker } from 'node:worker_threads'
import { DDPM } from '../../lib/index'
import { options } from './worker-sampling'

const script = path.join(__dirname, 'worker-sampling.js')
const start = (workerData: 'once' | 'forever' | 'models') => new Worker(script, { workerData })
const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

async function draw(): Promise<Float32Array> {
  using ddpm = new DDPM(options)
  return (await ddpm.sample({ batchSize: 2, seed: 1, steps: 3 })).data()
}

describe('models in worker threads', () => {
  it('draw at once what the main thread draws, and the workers end by themselves', async () => {
    const expected = await draw()
    const workers = Array.from({ length: 4 }, () => start('once'))
    const exits = workers.map((worker) => once(worker, 'exit'))
    const messages = workers.map((worker) => once(worker, 'message'))
    assert.deepEqual(await draw(), expected)
    for (const message of messages) assert.deepEqual(await message, [expected])
    for (const exit of exits) assert.deepEqual(await exit, [0])
  })

  it('can be terminated while they sample, and others go on', async () => {
    const survivor = start('forever')
    await once(survivor, 'message')
    for (let round = 0; round < 5; round++) {
      const workers = [start('forever'), start('forever')]
      await Promise.all(workers.map((worker) => once(worker, 'message')))
      await wait(3 * round)
      assert.deepEqual(await Promise.all(workers.map((worker) => worker.terminate())), [1, 1])
    }
    await once(survivor, 'message')
    await survivor.terminate()
    assert.equal((await draw()).length, 2 * 3 * 16 * 16)
  })

  it('can be terminated while they compile, train and close', async () => {
    for (let round = 0; round < 6; round++) {
      const worker = start('models')
      await once(worker, 'online')
      await wait(40 + 25 * round)
      assert.equal(await worker.terminate(), 1)
    }
    assert.equal((await draw()).length, 2 * 3 * 16 * 16)
  })
})
