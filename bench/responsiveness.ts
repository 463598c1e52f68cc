/**
 * How late a timer is while the device is busy: a 10 ms interval beside sampling and training of the CIFAR-10 UNet on all
 * cores, the first call (which draws initial weights and compiles) and a later one, and beside saving and opening it. Prints the
 * number of ticks, the median and the worst delay.
 * Usage: npm run build:ts && node dist/bench/responsiveness.js [--batch n] [--steps n]
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { DDPM } from '../lib/diffusion/models/ddpm'
import { Tensor } from '../lib/tensor'
import { cifar10 } from './cases/unet'

const interval = 10

/** Runs `work` beside the timer and prints how late the timer was, in ms. */
async function watch<T>(what: string, work: () => T | Promise<T>): Promise<T> {
  const delays: number[] = []
  let previous = performance.now()
  const tick = () => {
    const now = performance.now()
    delays.push(now - previous - interval)
    previous = now
  }
  const timer = setInterval(tick, interval)
  const start = performance.now()
  const result = await work()
  const seconds = (performance.now() - start) / 1000
  tick() // what held the loop up until the very end
  clearInterval(timer)
  delays.sort((a, b) => a - b)
  const [median, worst] = [delays[delays.length >> 1], delays[delays.length - 1]]
  const columns = [`${delays.length} ticks`, `median ${median.toFixed(1)} ms`, `worst ${worst.toFixed(1)} ms`]
  console.log(
    `${what.padEnd(26)}${`${seconds.toFixed(1)} s`.padStart(8)}${columns.map((c) => c.padStart(18)).join('')}`,
  )
  return result
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { batch: { type: 'string', default: '4' }, steps: { type: 'string', default: '10' } },
  })
  const [batchSize, steps] = [Number(values.batch), Number(values.steps)]
  const unetConfig = cifar10
  using ddpm = await watch('new DDPM', () => new DDPM({ unetConfig, imageSize: 32, channels: 3, device: 'cpu' }))
  const { name, threads } = ddpm.device.info()
  console.log(`${name}, ${threads} threads, batch ${batchSize}, ${steps} steps\n`)

  await watch('sample, first time', () => ddpm.sample({ batchSize, steps }))
  await watch('sample, again', () => ddpm.sample({ batchSize, steps }))
  await watch('sample, intermediates', () => ddpm.sample({ batchSize, steps, returnIntermediates: true }))
  ddpm.configureOptimizers({ lr: 1e-4 })
  const x = Tensor.randn([batchSize, 3, 32, 32])
  await watch('trainBatch, first time', () => ddpm.trainBatch(x))
  await watch('trainBatch, again', () => ddpm.trainBatch(x))
  await watch('stateDict', () => ddpm.stateDict())
  const folder = await mkdtemp(path.join(tmpdir(), 'ddpm-bench-'))
  try {
    await watch('savePretrained', () => ddpm.savePretrained(folder))
    using opened = await watch('fromPretrained', () => DDPM.fromPretrained(folder, { device: 'cpu' }))
    await watch('its first step', () => opened.sample({ batchSize, steps: 1 }))
  } finally {
    await rm(folder, { recursive: true })
  }
}

void main()
