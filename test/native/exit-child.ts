/**
 * A process that ends in the middle of something: exit-child.js DEVICE WORK WAY MILLISECONDS. Its exit code is 7, but for ways
 * that have codes of their own.
 */
import { Worker } from 'node:worker_threads'
import { DDPM, Device, type DeviceName } from '../../lib/index'
import { native } from '../../lib/native'
import { smallUNet } from '../support/small-unet'

const [device, work, way, delay] = process.argv.slice(2) as [DeviceName, string, string, string]

const works: Record<string, () => void> = {
  train: () => {
    const ddpm = modelOf()
    ddpm.configureOptimizers({ lr: 1e-4 })
    const batch = new Float32Array(4 * 3 * 64)
    const next = (): unknown => ddpm.trainBatch(batch).then(next)
    next()
  },
  sample: () => {
    const ddpm = modelOf()
    const next = (): unknown => ddpm.sample({ batchSize: 4 }).then(next)
    next()
  },
  compile: () => {
    let size = 1
    const ddpm = modelOf()
    const next = (): unknown => ddpm.sample({ batchSize: 1 + (size++ % 40), steps: 1 }).then(next)
    next()
  },
  copy: () => {
    const opened = Device.open(device)
    const [a, b] = [opened.allocate(1 << 22), opened.allocate(1 << 22)]
    const next = (): unknown => {
      b.copyFrom(a)
      return b.read().then(next)
    }
    next()
    next()
  },
}

function modelOf(): DDPM {
  return new DDPM({ unetConfig: smallUNet, device, seed: 1 })
}

const ways: Record<string, () => void> = {
  exit: () => process.exit(7),
  /** No 'exit' event. */
  reallyExit: () => (process as unknown as { reallyExit(code: number): void }).reallyExit(7),
  /** After our own handler of the event. */
  'exit in a handler of exit': () => {
    process.on('exit', () => {
      native.openDevice('cpu', 0, 2).allocate(1 << 20)
      process.exit(7)
    })
    process.exit(3)
  },
  'exit in a handler of a signal': () => {
    process.on('SIGTERM', () => process.exit(7))
    process.kill(process.pid, 'SIGTERM')
  },
  'exit after a close': () => {
    native.closeDevices()
    process.exit(7)
  },
  'work in a handler of exit': () => {
    process.on('exit', () => {
      try {
        works[work]()
      } catch {
        // its device is closed by then
      }
    })
    process.exit(7)
  },
  'exit in a microtask': () => void Promise.resolve().then(() => process.exit(7)),
  'an exception': () => {
    process.on('exit', () => {
      process.exitCode = 7
    })
    process.on('uncaughtException', () => process.exit())
    throw new Error('nobody catches it')
  },
  'exit with a worker at work': () => {
    const worker = new Worker(__filename, { argv: [device, work, 'nothing', '0'] })
    worker.on('online', () => setTimeout(() => process.exit(7), 150))
  },
  nothing: () => {},
}

works[work]()
setTimeout(ways[way], Number(delay))
