// Sampling that does not come to its end, by an abort or by a mistake of the user's functions: it ends within the step under
// way, leaves nothing on the device, and the model works as before.
import assert from 'node:assert/strict'
import { setImmediate } from 'node:timers/promises'
import { DDPM, type DDPMOptions, Device, DiffusionError, Tensor } from '../../lib/index'

/** One of its own: what is held on it is counted, and other tests leave things to the garbage collector. */
const device = Device.open('cpu', { threads: 3 })
const unetConfig = {
  imageSize: 8,
  inChannels: 1,
  outChannels: 1,
  modelChannels: 32,
  channelMult: [1, 2],
  numResBlocks: 1,
  attentionResolutions: [2],
}
const networkModel = { unetConfig, timesteps: 40, imageSize: 8, channels: 1, device } as const
const tiny = { timesteps: 10, imageSize: 2, channels: 1, device } as const

async function inUse(ddpm: DDPM): Promise<number> {
  await ddpm.device.synchronize()
  return ddpm.memoryInfo().device.inUse
}

/** That `fail` rejects as expected, and that afterwards no more is held and the same images are drawn as before. */
async function leavesNothing(
  options: DDPMOptions,
  fail: (ddpm: DDPM) => Promise<unknown>,
  expected: (error: unknown) => boolean,
): Promise<void> {
  using ddpm = new DDPM(options)
  const draw = async () => (await ddpm.sample({ batchSize: 2, seed: 3, returnIntermediates: true })).samples.data()
  const first = await draw()
  const before = await inUse(ddpm)
  for (let i = 0; i < 3; i++) await assert.rejects(fail(ddpm), expected)
  assert.equal(await inUse(ddpm), before, 'bytes on the device')
  assert.deepEqual(await draw(), first)
}

describe('an abort', () => {
  it('from outside, while a step runs, ends sampling after that step', async () => {
    using ddpm = new DDPM(networkModel)
    const controller = new AbortController()
    const reason = new Error('enough')
    let [steps, stepsBefore] = [0, 0]
    const sampling = ddpm.sample({ batchSize: 4, signal: controller.signal, onStep: () => steps++ })
    const aborting = (async () => {
      while (steps < 3) await setImmediate()
      stepsBefore = steps
      controller.abort(reason)
    })()
    await assert.rejects(sampling, (e) => e instanceof DiffusionError && e.code === 'aborted' && e.cause === reason)
    await aborting
    assert.ok(steps <= stepsBefore + 1, `${steps - stepsBefore} steps after the abort`)
  })

  it('before the start calls nothing', async () => {
    let calls = 0
    const count = (x: Tensor) => {
      calls++
      return x
    }
    using ddpm = new DDPM({ ...tiny, model: count })
    const o = { batchSize: 1, signal: AbortSignal.abort('no'), onStep: () => calls++ }
    for (const sampler of [{}, { steps: 5 }, { sampler: 'ddim', steps: 5 }] as const) {
      await assert.rejects(ddpm.sample({ ...o, ...sampler }), { code: 'aborted', cause: 'no' })
    }
    assert.equal(calls, 0)
  })

  it('in the denoiser or in the noise function ends it within the step', async () => {
    const controller = new AbortController()
    let calls = 0
    const count = (x: Tensor) => {
      if (++calls === 4) controller.abort()
      return x
    }
    using ddpm = new DDPM({ ...tiny, model: count })
    await assert.rejects(ddpm.sample({ batchSize: 1, signal: controller.signal }), { code: 'aborted' })
    assert.equal(calls, 4)

    const other = new AbortController()
    const noise = (i: number) => {
      if (i === 2) other.abort()
      return Tensor.randn([1, 1, 2, 2], { seed: i })
    }
    calls = 10
    await assert.rejects(ddpm.pSampleLoop([1, 1, 2, 2], { noise, signal: other.signal }), { code: 'aborted' })
    assert.equal(calls, 13)
  })

  it('of one sampling leaves another of the same model alone', async () => {
    using ddpm = new DDPM(networkModel)
    const alone = await (await ddpm.sample({ batchSize: 2, seed: 1 })).data()
    const controller = new AbortController()
    const onStep = ({ step }: { step: number }) => void (step === 5 && controller.abort())
    const [kept, aborted] = await Promise.allSettled([
      ddpm.sample({ batchSize: 2, seed: 1 }),
      ddpm.sample({ batchSize: 2, seed: 2, signal: controller.signal, onStep }),
    ])
    assert.equal(aborted.status, 'rejected')
    assert.ok(kept.status === 'fulfilled')
    assert.deepEqual(await kept.value.data(), alone)
  })

  it('leaves nothing behind', async () => {
    const abortAt = (last: number) => {
      const controller = new AbortController()
      const onStep = ({ step }: { step: number }) => void (step === last && controller.abort())
      return { batchSize: 2, returnIntermediates: true, signal: controller.signal, onStep }
    }
    const aborted = (e: unknown) => e instanceof DiffusionError && e.code === 'aborted'
    await leavesNothing(networkModel, (ddpm) => ddpm.sample(abortAt(3)), aborted)
    await leavesNothing({ ...tiny, model: (x) => x }, (ddpm) => ddpm.sample(abortAt(9)), aborted)
  })
})

describe('a mistake in the middle of sampling leaves nothing behind', () => {
  const codeIs = (code: string) => (e: unknown) => e instanceof DiffusionError && e.code === code
  const nan = (x: Tensor) => Tensor.from(new Float32Array(x.size).fill(Number.NaN), x.shape)
  const fails = (): never => {
    throw new RangeError('no')
  }

  const cases: [what: string, wrong: (x: Tensor) => unknown, code: string][] = [
    ['a denoiser that throws', fails, 'denoiser-failed'],
    ['a denoiser that returns the wrong shape', () => Tensor.from([1, 2]), 'denoiser-output'],
    ['a denoiser that returns NaN', nan, 'not-finite'],
  ]
  for (const [what, wrong, code] of cases) {
    it(what, async () => {
      let failing = false
      const model = (x: Tensor) => (failing ? (wrong(x) as Tensor) : x)
      const fail = async (ddpm: DDPM) => {
        try {
          const onStep = ({ step }: { step: number }) => {
            failing = step === 3
          }
          await ddpm.sample({ batchSize: 2, returnIntermediates: true, onStep })
        } finally {
          failing = false
        }
      }
      await leavesNothing({ ...tiny, model }, fail, codeIs(code))
    })
  }

  it('an onStep that throws: its own error comes out', async () => {
    const error = new RangeError('no')
    const onStep = ({ step }: { step: number }) => {
      if (step === 3) throw error
    }
    await leavesNothing(
      networkModel,
      (ddpm) => ddpm.sample({ batchSize: 2, onStep, returnIntermediates: true }),
      (e) => e === error,
    )
  })

  it('noise of the wrong shape', async () => {
    const noise = (i: number) => Tensor.randn(i === 3 ? [2, 1, 4, 4] : [2, 1, 8, 8])
    using ddpm = new DDPM(networkModel)
    const fail = () => assert.rejects(ddpm.pSampleLoop([2, 1, 8, 8], { noise }), codeIs('invalid-argument'))
    await fail() // compiles
    const before = await inUse(ddpm)
    await fail()
    assert.equal(await inUse(ddpm), before)
  })
})
