/** A sampling is queued many steps at a time, and is what it is step by step. */
import assert from 'node:assert/strict'
import { getEventListeners } from 'node:events'
import { setImmediate } from 'node:timers/promises'
import { DDPM, type DDPMOptions, Device, Tensor } from '../../lib/index'
import type { NativeBuffer } from '../../lib/native'
import { Program } from '../../lib/program'
import { assertSameBits } from '../support/compare'
import { testDevice, testedBackends } from '../support/devices'
import { smallUNet } from '../support/small-unet'

const options = { unetConfig: smallUNet, imageSize: 8, timesteps: 100, seed: 1, device: testDevice } as const
const shape = [2, 3, 8, 8]
/** What is counted, and what is queued, is the same with the smallest of networks. */
const oneLevel = { ...smallUNet, modelChannels: 16, normGroups: 4, channelMult: [1], attentionResolutions: [] }
const image = Tensor.randn(shape, { seed: 9 })
const mask = Tensor.from(
  Float32Array.from({ length: 64 }, (_, i) => (i % 3) / 2),
  [1, 1, 8, 8],
)

/** With weights that are not zero in the last layer. */
async function modelOf(more: Partial<DDPMOptions> = {}): Promise<DDPM> {
  const ddpm = new DDPM({ ...options, ...more } as DDPMOptions)
  const dict = await ddpm.stateDict()
  for (const name of Object.keys(dict).filter((key) => key.endsWith('out.2.weight'))) {
    dict[name] = Tensor.from(
      (await Tensor.randn(dict[name].shape, { seed: 2 }).data()).map((v) => v / 10),
      dict[name].shape,
    )
  }
  await ddpm.loadStateDict(dict)
  return ddpm
}

/** A device whose calls are counted by method, those of its buffers too. */
function counting(device: Device): { readonly calls: Map<string, number>; restore(): void } {
  const calls = new Map<string, number>()
  const count = <T extends object>(object: T, method: keyof T & string, after = (result: unknown) => result) => {
    const original = object[method] as (...args: unknown[]) => unknown
    const value = (...args: unknown[]) => {
      calls.set(method, (calls.get(method) ?? 0) + 1)
      return after(original.apply(object, args))
    }
    Object.defineProperty(object, method, { value, configurable: true })
  }
  count(device.native, 'runAll')
  count(device.native, 'synchronize')
  count(device.native, 'allocate', (buffer) => {
    for (const method of ['read', 'write', 'copyFrom'] as const) count(buffer as NativeBuffer, method)
    return buffer
  })
  const { run } = Program.prototype
  Program.prototype.run = function (bindings) {
    calls.set('run', (calls.get('run') ?? 0) + 1)
    return run.call(this, bindings)
  }
  const restore = () => {
    Program.prototype.run = run
    for (const method of ['runAll', 'synchronize', 'allocate']) Reflect.deleteProperty(device.native, method)
  }
  return { calls, restore }
}

const samplers: Record<string, object> = {
  ancestral: {},
  'DDIM with noise': { sampler: 'ddim', steps: 50, eta: 0.5 },
  PLMS: { sampler: 'plms', steps: 50 },
  'DPM-Solver++': { sampler: 'dpmsolver++', steps: 40, solverOrder: 3 },
  UniPC: { sampler: 'unipc', steps: 40, solverOrder: 3 },
  'image to image': { image, strength: 0.7 },
  inpainting: { image, mask },
  'inpainting with PLMS': { image, mask, sampler: 'plms', steps: 50 },
}

describe('a sampling', () => {
  it('asks for 32 steps at once, whatever the sampler', async () => {
    const device = Device.open('cpu', { threads: 3 }) // nobody else's
    const { calls, restore } = counting(device)
    try {
      using plain = await modelOf({ device, unetConfig: oneLevel })
      using thresholding = await modelOf({ device, unetConfig: oneLevel, thresholding: { ratio: 0.9, max: 3 } })
      const callsOf = async (o: object, ddpm = plain) => {
        calls.clear()
        await ddpm.sample({ batchSize: 2, seed: 3, ...o })
        return Object.fromEntries(calls)
      }
      const all = Object.entries(samplers).map(([name, sampler]) => [name, sampler, plain] as const)
      for (const [name, sampler, ddpm] of [...all, ['thresholding', {}, thresholding] as const]) {
        let steps = 0
        const shown = await callsOf({ ...sampler, onStep: () => steps++ }, ddpm)
        assert.ok(shown.runAll >= steps, 'a step that is shown is waited for')
        const { runAll, allocate, read, write, ...others } = await callsOf(sampler, ddpm)
        // PLMS evaluates once more; the first state comes before.
        assert.ok(runAll <= Math.ceil((steps + 1) / 32) + 1, `${name}: ${runAll} times for ${steps} steps`)
        assert.equal(read, 1, name)
        assert.ok(write <= 40 && write <= allocate, `${name}: ${write} tables and inputs`)
        assert.deepEqual(others, {}, name)
      }
    } finally {
      restore()
    }
  })

  /** One sampler and a small network are enough where GPUs' kernels run on a CPU. */
  const isSlow = (device: string) => device === 'reference' || device.startsWith('cuda-host')
  for (const device of ['reference' as const, ...testedBackends]) {
    it(`has the same bits as step by step (${device})`, async () => {
      using ddpm = isSlow(device)
        ? await modelOf({
            device,
            timesteps: 34,
            unetConfig: oneLevel,
          })
        : await modelOf({ device, unetConfig: { ...smallUNet, numClasses: 3 }, nullClass: 2 })
      const guided = isSlow(device) ? {} : { classLabels: [1, 0], guidanceScale: 2 }
      for (const name of isSlow(device) ? ['inpainting'] : Object.keys(samplers)) {
        const draw = async (more = {}) =>
          (await ddpm.sample({ batchSize: 2, seed: 3, ...samplers[name], ...guided, ...more })).data()
        assertSameBits(await draw(), await draw({ onStep: () => {} }), name)
      }
    }).timeout(600_000)
  }

  it('keeps the states that it is asked for, in the middle of what is queued', async () => {
    using ddpm = await modelOf()
    const o = { batchSize: 2, seed: 3, returnIntermediates: true, logEveryT: 40 } as const
    const [queued, stepwise] = [await ddpm.sample(o), await ddpm.sample({ ...o, onStep: () => {} })]
    assert.equal(queued.intermediates.length, 5) // x_T, after steps 1, 20, 60, 100
    for (const list of ['intermediates', 'predX0'] as const) {
      for (const [i, state] of queued[list].entries()) {
        assertSameBits(await state.data(), await stepwise[list][i].data(), `${list} ${i}`)
      }
    }
  })

  const runs = (ddpm: DDPM) =>
    Object.entries(ddpm.memoryInfo().programs)
      .filter(([name]) => name.startsWith('step '))
      .reduce((sum, [, { launches }]) => sum + launches.direct + launches.replayed, 0)

  /** Until some of the steps have been taken. */
  const underWay = async (ddpm: DDPM) => {
    while (runs(ddpm) < 2) await setImmediate()
  }

  it('that is aborted ends within a step, although more are queued', async () => {
    using ddpm = await modelOf({ timesteps: 1000 })
    const controller = new AbortController()
    const sampling = ddpm.sample({ batchSize: 64, signal: controller.signal })
    const rejected = assert.rejects(sampling, { code: 'aborted', cause: 'enough' })
    await underWay(ddpm)
    controller.abort('enough')
    const before = runs(ddpm)
    await rejected
    assert.ok(runs(ddpm) <= before + 1, `${runs(ddpm) - before} steps after the abort`)
  })

  it('shares its signal with any number of others, of which nothing is left', async () => {
    using ddpm = await modelOf({ timesteps: 1000 })
    const controller = new AbortController()
    const { signal } = controller
    const warnings: string[] = []
    const hear = ({ name }: Error) => void warnings.push(name)
    process.on('warning', hear)
    const all = Array.from({ length: 12 }, () => ddpm.sample({ batchSize: 1, signal }))
    const rejected = Promise.all(all.map((sampling) => assert.rejects(sampling, { code: 'aborted' })))
    await underWay(ddpm)
    controller.abort()
    await rejected
    await setImmediate()
    process.off('warning', hear)
    assert.deepEqual(warnings, [])
    assert.equal(getEventListeners(signal, 'abort').length, 0)
  })

  it('whose model is disposed of ends, too', async () => {
    const device = Device.open('cpu', { threads: 3 }) // nobody else's
    const ddpm = await modelOf({ device, timesteps: 1000 })
    const rejected = assert.rejects(ddpm.sample({ batchSize: 64 }), { code: 'disposed' })
    await underWay(ddpm)
    ddpm.dispose()
    await rejected
    await device.synchronize()
    assert.equal(device.memoryInfo().inUse, 0)
  })

  it('gives another that goes on at the same time its turn after each step', async () => {
    using ddpm = await modelOf({ timesteps: 1000 })
    using other = await modelOf()
    const controller = new AbortController()
    const long = assert.rejects(ddpm.sample({ batchSize: 32, signal: controller.signal }), { code: 'aborted' })
    await underWay(ddpm)
    await other.sample({ batchSize: 1, steps: 5, onStep: () => {} })
    const taken = runs(ddpm)
    controller.abort()
    await long
    // It waits for its turn before the first step, in each, and to be read.
    assert.ok(taken < 5 * 32, `${taken} steps of the one in 5 of the other`)
  })
})
