/** On the stand-in for the CUDA runtime: stand-in-child.js SCENE ARGUMENT. Prints what happened as a line of JSON. */
import { DDPM, Device, type DeviceName, DiffusionError, type Precision } from '../../lib/index'
import { smallUNet } from '../support/small-unet'

const [scene, argument] = process.argv.slice(2)

/** `deterministic`: no algorithms are timed, so that a fault meets the calls of the model's own programs. */
const modelOn = (
  device: DeviceName,
  more: { precision?: Precision; deterministic?: boolean } = { deterministic: true },
) => new DDPM({ unetConfig: smallUNet, imageSize: 8, timesteps: 20, seed: 1, device, ...more })

async function work(ddpm: DDPM, { batchSize = 2, trains = true } = {}): Promise<number> {
  const images = await ddpm.sample({ batchSize, steps: 5 })
  const { length } = await images.data()
  if (trains) {
    ddpm.configureOptimizers({ lr: 1e-3 })
    const batch = new Float32Array(batchSize * 3 * 64)
    for (let step = 0; step < 3; step++) await ddpm.trainBatch(batch, { step, update: true, accumulate: 1 })
  }
  return length
}

export interface Attempt {
  pixels?: number
  code?: string
  message?: string
}

/** Anything but a DiffusionError ends the process. */
async function attempt(run: () => Promise<number>): Promise<Attempt> {
  try {
    return { pixels: await run() }
  } catch (error) {
    if (!(error instanceof DiffusionError)) throw error
    return { code: error.code, message: error.message }
  }
}

async function onceOn(device: DeviceName): Promise<number> {
  using ddpm = modelOn(device)
  return await work(ddpm)
}

const scenes: Record<string, () => Promise<unknown>> = {
  /** Sampling and training, in every precision, on every device. */
  async work() {
    const results: unknown[] = []
    for (let index = 0; index < Number(argument); index++) {
      for (const precision of ['fp32', 'bf16', 'fp16'] as const) {
        const name = `cuda:${index}` as DeviceName
        const ddpm = modelOn(name, { precision })
        const pixels = await work(ddpm)
        results.push({ name, precision, pixels, warnings: ddpm.warnings() })
        ddpm.dispose()
      }
    }
    const device = Device.open('cuda')
    await device.synchronize()
    return { results, libraries: device.libraries(), inUse: device.memoryInfo().inUse }
  },

  /** Samples, with algorithms chosen by times. */
  async sample() {
    const ddpm = modelOn('cuda', { precision: argument as Precision })
    const pixels = await work(ddpm, { trains: false })
    return { pixels, warnings: ddpm.warnings(), libraries: ddpm.device.libraries() }
  },

  /** ARGUMENT is a fault: what a call gives whose device or process it strikes, and what goes on then. */
  async fault() {
    const ddpm = modelOn('cuda')
    const first = await attempt(() => work(ddpm, { trains: false }))
    process.env.FAKE_CUDART_FAIL = argument
    const struck: Attempt[] = []
    for (let i = 0; i < 3; i++) struck.push(await attempt(() => work(ddpm, { batchSize: 2 + (i % 2) })))
    delete process.env.FAKE_CUDART_FAIL
    const result = {
      first,
      struck,
      after: await attempt(() => work(ddpm)),
      warnings: ddpm.warnings(),
      another: await attempt(() => onceOn('cuda:1')),
      cpu: await attempt(() => onceOn('cpu')),
    }
    return result
  },

  /** Devices, one after the other: each with a fault of its own in one call of a whole life. ARGUMENT: faults as JSON. */
  async faults() {
    const results: unknown[] = []
    for (const [i, fail] of (JSON.parse(argument) as string[]).entries()) {
      process.env.FAKE_CUDART_FAIL = fail
      const struck = await attempt(() => onceOn(`cuda:${i}` as DeviceName))
      delete process.env.FAKE_CUDART_FAIL
      results.push({ fail, struck, after: await attempt(() => onceOn(`cuda:${i}` as DeviceName)) })
    }
    return { results, cpu: await attempt(() => onceOn('cpu')) }
  },

  /** Images of ARGUMENT x 64 x 3 numbers, then of one. */
  async large() {
    const ddpm = modelOn('cuda')
    const refused = await attempt(() => work(ddpm, { batchSize: Number(argument) }))
    Device.open(ddpm.device, { memoryLimit: 2 ** 50 }) // what the device has not got
    return {
      refused,
      large: await attempt(() => work(ddpm, { batchSize: Number(argument) })),
      small: await attempt(() => work(ddpm, { batchSize: 1 })),
    }
  },
}

scenes[scene]().then((result) => console.log(JSON.stringify(result)))
