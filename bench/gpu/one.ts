/**
 * This project's side, one measurement in this process: node one.js <kind> <batch> <precision> <seconds> <device> <folder>.
 * The last line of its output is JSON. `device` alone as the kind prints what the device is.
 */
import { Device, type DeviceName } from '../../lib/device'
import { DDPM } from '../../lib/diffusion/models/ddpm'
import type { DDPMOptions } from '../../lib/diffusion/options/ddpm-options'
import type { Graph, Value } from '../../lib/graph'
import { Program } from '../../lib/program'
import { Tensor } from '../../lib/tensor'
import { learningRate, readWeights, unetConfig } from '../peers/workload'
import { median } from './report'
import {
  type Bandwidth,
  comparedSamples,
  comparedSteps,
  elements,
  type Kind,
  type Measured,
  readInputs,
  resultFile,
  writeResult,
} from './workload'

/** Milliseconds of each call after two that warm up, for `seconds` but at least three. */
async function times(seconds: number, run: () => Promise<unknown>): Promise<number[]> {
  await run()
  await run()
  const all: number[] = []
  const start = performance.now()
  while (all.length < 3 || performance.now() - start < 1000 * seconds) {
    const before = performance.now()
    await run()
    all.push(performance.now() - before)
  }
  return all
}

function summary(all: readonly number[], perCall = 1): Measured {
  return { version: '', medianMs: median(all) / perCall, minMs: Math.min(...all) / perCall, samples: all.length }
}

async function open(device: DeviceName, precision: string, folder: string): Promise<DDPM> {
  const options: Record<string, unknown> = { unetConfig, useEma: false, device, seed: 1 }
  if (precision !== 'fp32') options.precision = precision
  const ddpm = new DDPM(options as DDPMOptions)
  await ddpm.loadStateDict(await readWeights(folder))
  return ddpm
}

/** x_t to x_{t-1}, network and posterior step, as ddpm.sample() does it: x stays on the device. */
async function sampling(o: Arguments): Promise<Measured> {
  using ddpm = await open(o.device, o.precision, o.folder)
  const { x, noise, t } = await readInputs(o.folder, o.batch)
  const shape = [o.batch, 3, 32, 32]
  const next = await ddpm.pSample(Tensor.wrap(x, shape), t, { noise: Tensor.wrap(noise, shape) })
  const compared = Math.min(o.batch, comparedSamples) * elements
  writeResult(resultFile(o.folder, `ours ${o.precision}`, 'sampling', o.batch), (await next.data()).slice(0, compared))
  const steps = o.batch <= 16 ? 50 : 20
  return summary(await times(o.seconds, () => ddpm.sample({ batchSize: o.batch, steps, seed: 1 })), steps)
}

/** q_sample, UNet, loss, gradients and AdamW. */
async function training(o: Arguments): Promise<Measured> {
  using ddpm = await open(o.device, o.precision, o.folder)
  ddpm.configureOptimizers({ lr: learningRate })
  const { x, noise, t } = await readInputs(o.folder, o.batch)
  const { device } = ddpm
  const images = (data: Float32Array) =>
    Tensor.onDevice(device, device.upload(data), [o.batch, 3, 32, 32], { owned: true })
  using batch = images(x)
  using given = images(noise)
  const losses: number[] = []
  const all = await times(o.seconds, async () => {
    losses.push((await ddpm.trainBatch(batch, { t, noise: given })).loss)
  })
  const compared = Float32Array.from(losses.slice(0, comparedSteps))
  writeResult(resultFile(o.folder, `ours ${o.precision}`, 'training', o.batch), compared)
  return summary(all)
}

/**
 * Time of one op of many in a program: the difference between twice as many and as many, so that what a run costs beside its
 * kernels does not count.
 */
async function msPerOp(o: Arguments, build: (graph: Graph, ops: number) => Value): Promise<number> {
  const ops = 16
  const inputs = inputsOf(o)
  const device = Device.open(o.device)
  const fastest = async (count: number) => {
    const program = Program.compile(device, (graph) => ({ y: build(graph, count) }), { deterministic: false })
    const bound = Object.fromEntries(
      Object.entries(inputs).map(([name, data]) => [
        name,
        typeof data === 'number' ? device.allocate(data) : device.upload(data),
      ]),
    )
    const used = Object.keys(bound).filter((name) => program.describe().includes(`@${name}+`))
    const y = device.allocate(inputs.y)
    const all = await times(o.seconds / 4, () =>
      program.run({ ...Object.fromEntries(used.map((name) => [name, bound[name]])), y }),
    )
    program.release()
    for (const buffer of [...Object.values(bound), y]) buffer.release()
    return Math.min(...all)
  }
  return ((await fastest(2 * ops)) - (await fastest(ops))) / ops
}

const normBatch = (o: Arguments) => Math.ceil((2 * o.batch) / 3)
/** Elements of the inputs, or their values. */
const inputsOf = (o: Arguments) => ({
  x: o.batch * 32 * elements,
  out: o.batch * 32 * elements,
  table: 1000 * 8,
  t: new Int32Array(o.batch * 32),
  rng: new Int32Array(4),
  sample: new Int32Array(o.batch * 32),
  step: new Int32Array(o.batch * 32),
  image: normBatch(o) * 32 * 32 * 128,
  gamma: 128,
  beta: 128,
  y: Math.max(o.batch * 32 * elements, normBatch(o) * 32 * 32 * 128),
})

/** A copy, the fused posterior step and GroupNorm with SiLU, in bytes that had to be read and written, once each. */
async function bandwidth(o: Arguments): Promise<Bandwidth[]> {
  const device = Device.open(o.device)
  const n = o.batch * 32
  const size = n * elements
  const [from, to] = [device.allocate(size), device.allocate(size)]
  const copies = 20
  const copying = await times(o.seconds / 4, async () => {
    for (let i = 0; i < copies; i++) to.copyFrom(from)
    await device.synchronize()
  })
  from.release()
  to.release()
  const posterior = await msPerOp(o, (g, ops) => {
    const out = g.input('out', [n, 1, 1, elements])
    const table = g.input('table', [1000, 1, 1, 8])
    const integers = (name: string, dims: readonly [number, number, number, number]) => g.input(name, dims, 'i32')
    const t = integers('t', [n, 1, 1, 1])
    const draw = {
      rng: integers('rng', [1, 1, 1, 4]),
      sample: integers('sample', [n, 1, 1, 1]),
      step: integers('step', [n, 1, 1, 1]),
    }
    let x = g.input('x', [n, 1, 1, elements])
    for (let i = 0; i < ops; i++) x = g.posteriorStep(x, out, table, t, { clip: true, draw }).y
    return x
  })
  const norm = await msPerOp(o, (g, ops) => {
    const [gamma, beta] = [g.input('gamma', [1, 1, 1, 128]), g.input('beta', [1, 1, 1, 128])]
    let x = g.input('image', [normBatch(o), 32, 32, 128])
    for (let i = 0; i < ops; i++) x = g.silu(g.groupNorm(x, gamma, beta, { groups: 32, eps: 1e-5 }))
    return x
  })
  const rate = (name: string, bytes: number, ms: number) => ({ name, gigabytesPerSecond: bytes / ms / 1e6 })
  return [
    rate('copy', 8 * size * copies, Math.min(...copying)),
    rate('posterior step, noise drawn', 12 * size, posterior),
    rate('GroupNorm + SiLU, 128 channels at 32x32', 8 * normBatch(o) * 32 * 32 * 128, norm),
  ]
}

interface Arguments {
  readonly batch: number
  readonly precision: string
  readonly seconds: number
  readonly device: DeviceName
  readonly folder: string
}

async function main([kind, batch, precision, seconds, device, folder]: string[]): Promise<void> {
  const o: Arguments = {
    batch: Number(batch),
    precision,
    seconds: Number(seconds),
    device: device as DeviceName,
    folder,
  }
  const kinds: Record<Kind | 'device', () => unknown> = {
    sampling: () => sampling(o),
    training: () => training(o),
    bandwidth: () => bandwidth(o),
    device: () => ({ ...Device.open(o.device).info(), libraries: Device.open(o.device).libraries() }),
  }
  console.log(JSON.stringify(await kinds[kind as Kind]()))
}

main(process.argv.slice(2)).catch((error: Error & { code?: string }) => {
  console.log(JSON.stringify({ error: error.message, code: error.code }))
  process.exitCode = 1
})
