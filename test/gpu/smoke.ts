/**
 * A GPU's first minute: node dist/test/gpu/smoke.js [device]. The device, one op, one sampling and one training step, each
 * beside the CPU, a line each. Exit code 3 where there is no such device, 1 where something is wrong.
 */
import { Device, type DeviceName } from '../../lib/device'
import { DDPM, type DDPMOptions, DiffusionError, Tensor } from '../../lib/index'
import { assertClose } from '../support/compare'
import { Random } from '../support/random'
import { normals, runGraph } from '../support/run-graph'
import { smallUNet } from '../support/small-unet'

const noSuchDevice = 3
const device = (process.argv[2] ?? 'cuda') as DeviceName
const options = { unetConfig: smallUNet, imageSize: 8, timesteps: 20, seed: 1 }

type Model = { readonly device: DeviceName; readonly precision: 'fp32' | 'bf16' }

async function withModel<T>(model: Model, use: (ddpm: DDPM) => Promise<T>): Promise<T> {
  using ddpm = new DDPM({ ...options, ...model } as DDPMOptions)
  return await use(ddpm)
}

const samples = (model: Model) =>
  withModel(model, async (ddpm) => (await ddpm.sample({ batchSize: 2, steps: 5, seed: 7 })).data())

const losses = (model: Model) =>
  withModel(model, async (ddpm) => {
    ddpm.configureOptimizers({ lr: 1e-3 })
    const x = Tensor.randn([4, 3, 8, 8], { seed: 2 })
    const all: number[] = []
    for (let step = 0; step < 3; step++) {
      all.push((await ddpm.trainBatch(x, { step, update: true, accumulate: 1 })).loss)
    }
    return Float32Array.from(all)
  })

const cpu: Model = { device: 'cpu', precision: 'fp32' }

/** The tolerances of the tests of the same things (test/diffusion). */
const checks: Readonly<Record<string, () => Promise<void>>> = {
  'silu, beside the CPU': async () => {
    const x = normals(new Random(1), [1, 8, 8, 33], 3)
    const run = (name: DeviceName) => runGraph(name, { x }, (g, v) => ({ y: g.silu(v.x) }))
    assertClose((await run(device)).y, (await run('cpu')).y, { abs: 1e-6, rel: 1e-5 }, 'y')
  },
  'sampling, fp32': async () => {
    assertClose(await samples({ device, precision: 'fp32' }), await samples(cpu), { abs: 1e-3, rel: 0 }, 'image')
  },
  'training, fp32': async () => {
    assertClose(await losses({ device, precision: 'fp32' }), await losses(cpu), { abs: 0, rel: 1e-3 }, 'loss')
  },
  'training, bf16': async () => {
    assertClose(await losses({ device, precision: 'bf16' }), await losses(cpu), { abs: 0, rel: 1.5e-2 }, 'loss')
  },
}

async function main(): Promise<number> {
  try {
    const opened = Device.open(device)
    const { name, isa, memoryBytes } = opened.info()
    console.log(`${name} (${isa}), ${(memoryBytes / 2 ** 30).toFixed(0)} GiB; ${opened.libraries()}`)
  } catch (error) {
    const { code, message } = error as DiffusionError
    console.error(message)
    return code === 'device-unavailable' ? noSuchDevice : 1
  }
  let failed = 0
  for (const [name, check] of Object.entries(checks)) {
    const start = performance.now()
    const problem = await check().then(
      () => undefined,
      (error) => (error instanceof DiffusionError ? `${error.code}: ${error.message}` : String(error.message)),
    )
    if (problem !== undefined) failed++
    console.log(
      `${problem === undefined ? 'ok' : `WRONG ${problem}:`} ${name}, ${(performance.now() - start).toFixed(0)} ms`,
    )
  }
  return failed > 0 ? 1 : 0
}

main().then((code) => {
  process.exitCode = code
})
