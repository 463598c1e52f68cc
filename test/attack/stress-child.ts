/**
 * Scenes in which much goes on at once, again and again: node --expose-gc stress-child.js SCENE BACKEND SECONDS SEED. At the end
 * it writes JSON: how often, and what was held after the warm-up and after the last one.
 */
import { Worker } from 'node:worker_threads'
import { DDPM, DiffusionError, Tensor } from '../../lib/index'
import { Random } from '../support/random'
import { smallUNet } from '../support/small-unet'
import type { Measured } from './stress'
import { resident } from './support/memory'

const [sceneName, backend, seconds, seed] = process.argv.slice(2)
const random = new Random(Number(seed))
const below = (n: number) => Math.floor(n * random.uniform())

const newModel = (n = 0) => {
  return new DDPM({ unetConfig: smallUNet, timesteps: 20, seed: n, device: backend as 'cpu', useEma: n % 2 === 0 })
}

const expected = new Set(['aborted', 'disposed', 'denoiser-failed'])

/** Ends as it should, or with an error that it was given cause for. */
async function settled(...works: Promise<unknown>[]): Promise<void> {
  for (const result of await Promise.allSettled(works)) {
    if (result.status === 'fulfilled') continue
    const { reason } = result
    if (!(reason instanceof DiffusionError) || !expected.has(reason.code)) throw reason
  }
}

const images = (n: number) => random.normals(n * 3 * 64)

/** One iteration each. */
const scenes: Readonly<Record<string, () => Promise<void>>> = {
  'aborts and disposals': async () => {
    const ddpm = newModel(below(2))
    const controller = new AbortController()
    const steps = 3 + below(4)
    const at = below(steps)
    const work = ddpm.sample({
      batchSize: 1 + below(3),
      steps,
      signal: controller.signal,
      onStep: ({ step }) => {
        if (step === at) controller.abort()
      },
    })
    const other = ddpm.sample({ batchSize: 1, steps: 3 })
    if (below(3) === 0) ddpm.dispose()
    await settled(work, other)
    ddpm.dispose()
  },
  evictions: async () => {
    using ddpm = newModel()
    // More shapes than the cache has places, some while others are still running.
    const works = Array.from({ length: 17 }, (_, i) => ddpm.sample({ batchSize: 1 + ((i * 7) % 17), steps: 1 }))
    await settled(...works)
  },
  're-entrancy': async () => {
    using ddpm = newModel()
    ddpm.configureOptimizers({ lr: 1e-4 })
    await ddpm.sample({
      batchSize: 2,
      steps: 3,
      onStep: async ({ step }) => {
        if (step === 0) await ddpm.trainBatch(images(2))
        if (step === 1) await ddpm.sample({ batchSize: 1, steps: 2, onStep: () => ddpm.stateDict() })
        if (step === 2) ddpm.registerSchedule({ timesteps: 20 })
      },
    })
  },
  'several models': async () => {
    const models = Array.from({ length: 4 }, (_, i) => newModel(i))
    for (const model of models) model.configureOptimizers({ lr: 1e-4 })
    await settled(
      ...models.map((model) => model.trainBatch(images(2))),
      ...models.map((model) => model.sample({ batchSize: 2, steps: 2 })),
      ...models.map((model) => model.calcBpd(Tensor.from(images(1), [1, 3, 8, 8]))),
    )
    // The last one is left to the garbage collector.
    for (const model of models.slice(0, 3)) model.dispose()
  },
  workers: async () => {
    const code = `
      const { DDPM } = require(${JSON.stringify(require.resolve('../../lib/index'))})
      const ddpm = new DDPM({ unetConfig: ${JSON.stringify(smallUNet)}, timesteps: 20, device: ${JSON.stringify(backend)} })
      const forever = async () => { for (;;) await ddpm.sample({ batchSize: 2, steps: 5 }) }
      require('node:worker_threads').parentPort.postMessage('begun')
      forever()`
    const workers = Array.from({ length: 3 }, () => new Worker(code, { eval: true }))
    await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once('message', resolve))))
    await new Promise((resolve) => setTimeout(resolve, 30 * random.uniform()))
    await Promise.all(workers.map((worker) => worker.terminate()))
  },
}

/** What is held once all garbage is gone. Finalizers run when the loop has been come to. */
async function held(): Promise<{ resident: number; device: number }> {
  for (let i = 0; i < 5; i++) {
    globalThis.gc!()
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  using ddpm = newModel()
  const own = ddpm.memoryInfo().device.inUse
  await ddpm.device.synchronize()
  return { resident: resident('self')?.now ?? process.memoryUsage.rss(), device: own }
}

async function main(): Promise<void> {
  const scene = scenes[sceneName]
  const repeat = async (milliseconds: number) => {
    const until = Date.now() + milliseconds
    let iterations = 0
    while (Date.now() < until || iterations < 2) {
      await scene()
      iterations++
    }
    return iterations
  }
  // The first half is the warm-up: code is compiled, heaps and pools become as large as they have to be.
  await repeat(500 * Number(seconds))
  const before = await held()
  const iterations = await repeat(500 * Number(seconds))
  const after = await held()
  const growth = (after.resident - before.resident) / iterations
  const measured: Measured = { iterations, growth, device: after.device - before.device }
  process.stdout.write(`${JSON.stringify(measured)}\n`)
}

main().catch((error) => {
  process.stderr.write(`${error.stack}\n`)
  process.exit(1)
})
