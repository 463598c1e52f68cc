import assert from 'node:assert/strict'
import { DDPM, type DDPMOptions, type StepEvent, Tensor } from '../../lib/index'

const open = (options: Partial<DDPMOptions> = {}) =>
  new DDPM({ model: (x) => x, imageSize: 2, channels: 1, timesteps: 20, device: 'cpu', seed: 3, ...options })

describe('sampleSteps', () => {
  it('are the steps of sample, one a turn, the last of which is its result', async () => {
    using ddpm = open()
    const options = { batchSize: 2, seed: 5, steps: 6, sampler: 'ddim' } as const
    const expected = await (await ddpm.sample(options)).data()
    const seen: [number, number, number][] = []
    const heard: number[] = []
    let last: Float32Array | undefined
    for await (const { t, step, total, x } of ddpm.sampleSteps({
      ...options,
      onStep: ({ step }) => heard.push(step),
    })) {
      // It waits for whatever the loop does.
      await new Promise((resolve) => setTimeout(resolve, 2))
      seen.push([t, step, total])
      last = await x.data()
      assert.deepEqual(x.shape, [2, 1, 2, 2])
      assert.equal(heard.length, seen.length)
    }
    assert.deepEqual(last, expected)
    assert.deepEqual(
      seen.map(([, step, total]) => [step, total]),
      [1, 2, 3, 4, 5, 6].map((step) => [step, 6]),
    )
    assert.ok(seen.every(([t], i) => i === 0 || t < seen[i - 1][0]))
  })

  it('have the prediction of x_0, as it is kept, which is copied when it is asked for', async () => {
    using ddpm = open({
      model: async (x) =>
        Tensor.from(
          (await x.data()).map((v) => v / 2),
          x.shape,
        ),
    })
    for (const sampler of ['ddpm', 'ddim', 'plms', 'heun', 'dpmsolver++', 'unipc', 'lcm'] as const) {
      const options = { batchSize: 2, seed: 5, steps: 4, sampler } as const
      const kept = await ddpm.sample({ ...options, returnIntermediates: true, logEveryT: 1 })
      const shown: Float32Array[] = []
      let lent: Tensor | undefined
      for await (const { predX0 } of ddpm.sampleSteps(options)) {
        lent = predX0
        assert.deepEqual(predX0.shape, [2, 1, 2, 2])
        shown.push(await predX0.data())
      }
      assert.deepEqual(shown, await Promise.all(kept.predX0.slice(1).map((x0) => x0.data())), sampler)
      await assert.rejects(lent!.data(), { code: 'disposed' })
    }
  })

  it('end with the loop, however it is left', async () => {
    let evaluations = 0
    using ddpm = open({
      model: (x) => {
        evaluations++
        return x
      },
    })
    let lent: Tensor | undefined
    for await (const { step, x } of ddpm.sampleSteps({ batchSize: 1 })) {
      lent = x
      if (step === 3) break
    }
    assert.equal(evaluations, 3)
    await assert.rejects(lent!.data(), { code: 'disposed' })
    const failing = async () => {
      for await (const _ of ddpm.sampleSteps({ batchSize: 1 })) throw new Error('of the loop')
    }
    await assert.rejects(failing, /^Error: of the loop$/)
    assert.equal(evaluations, 4)
    const steps = ddpm.sampleSteps({ batchSize: 1 })
    await steps.return()
    assert.deepEqual(await steps.next(), { value: undefined, done: true })
    assert.equal(evaluations, 4)
    assert.equal((await ddpm.sample({ batchSize: 1 })).size, 4)
  })

  it('throw what sample throws, where they are', async () => {
    using ddpm = open()
    const all = async (steps: AsyncIterable<StepEvent>, each: (event: StepEvent) => void = () => {}) => {
      for await (const event of steps) each(event)
    }
    await assert.rejects(all(ddpm.sampleSteps({ batchSize: 0 })), { code: 'invalid-argument', argument: 'batchSize' })
    await assert.rejects(all(ddpm.sampleSteps({ setps: 5 } as object)), { code: 'unknown-option' })
    const stop = new AbortController()
    const aborted = all(
      ddpm.sampleSteps({ batchSize: 1, signal: stop.signal }),
      ({ step }) => step === 2 && stop.abort(),
    )
    await assert.rejects(aborted, { code: 'aborted' })
    using broken = open({
      model: () => {
        throw new Error('of the denoiser')
      },
    })
    await assert.rejects(all(broken.sampleSteps({ batchSize: 1 })), { code: 'denoiser-failed' })
  })
})
