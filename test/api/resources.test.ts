// What sampling leaves alone: the event loop while it runs, memory when it is done.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import path from 'node:path'
import { DDPM, Device } from '../../lib/index'

const unetConfig = {
  imageSize: 16,
  inChannels: 3,
  outChannels: 3,
  modelChannels: 64,
  channelMult: [1, 2],
  numResBlocks: 1,
  attentionResolutions: [2],
}
const options = { unetConfig, imageSize: 16, channels: 3, device: 'cpu' } as const

/** How often the event loop comes around while `promise` is pending. */
async function turnsUntil(promise: Promise<unknown>): Promise<number> {
  let [turns, pending] = [0, true]
  const settled = promise.finally(() => {
    pending = false
  })
  while (pending) {
    await new Promise((resolve) => setImmediate(resolve))
    turns++
  }
  await settled
  return turns
}

// How late a timer gets is measured by bench/responsiveness.ts.
describe('the event loop turns', () => {
  it('many times within each step of sampling', async () => {
    using ddpm = new DDPM(options)
    const steps = 5
    await ddpm.sample({ batchSize: 8, steps }) // compiles
    const turns = await turnsUntil(ddpm.sample({ batchSize: 8, steps }))
    assert.ok(turns > 20 * steps, `${turns} turns in ${steps} steps`)
  })

  it('many times within a training step', async () => {
    using ddpm = new DDPM(options)
    ddpm.configureOptimizers({ lr: 1e-3 })
    const batch = new Float32Array(8 * 3 * 16 * 16)
    await ddpm.trainBatch(batch)
    const turns = await turnsUntil(ddpm.trainBatch(batch))
    assert.ok(turns > 20, `${turns} turns in a training step`)
  })
})

describe('memory', () => {
  it('is where it was after the fifth of 50 samplings', () => {
    const script = path.join(__dirname, 'resident-memory.js')
    // Without what V8 takes once, some time in the first hundred samplings: optimized code, room for young objects.
    const quiet = ['--no-opt', '--max-semi-space-size=1']
    const output = execFileSync(process.execPath, ['--expose-gc', ...quiet, script], { encoding: 'utf8' })
    const lines = output.trim().split('\n')
    const [fifth, last] = lines.map((line) => JSON.parse(line) as { resident: number; device: number })
    assert.equal(last.device, fifth.device)
    // Leaking the states of a sampling (10 of 24 KiB on the host, 3 on the device) would make it 10 MiB more.
    const grown = (last.resident - fifth.resident) / 2 ** 20
    assert.ok(grown < 4, `${grown.toFixed(1)} MiB more`)
  })

  it('on the device is given back by dispose()', async () => {
    const device = Device.open('cpu', { threads: 4 }) // nobody else's
    const ddpm = new DDPM({ ...options, device })
    ddpm.configureOptimizers({ lr: 1e-3 })
    await ddpm.trainBatch(new Float32Array(2 * 3 * 16 * 16))
    await ddpm.sample({ batchSize: 2, steps: 2 })
    assert.ok(device.memoryInfo().inUse > 0)
    ddpm.dispose()
    await device.synchronize()
    assert.equal(device.memoryInfo().inUse, 0)
  })
})
