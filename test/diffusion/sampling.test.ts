import assert from 'node:assert/strict'
import { DDPM, Tensor } from '../../lib/index'
import { UNet } from '../../lib/nn/unet/unet'
import { assertClose, assertCloseToScale, assertSameBits } from '../support/compare'
import { testDevice, testedBackends } from '../support/devices'
import { runGraph } from '../support/run-graph'
import { camelCase, Fixture, goldenModel, randomize, settled } from './fixture'

/** A list of tensors as one array, stacked. */
async function stacked(tensors: readonly Tensor[]): Promise<Float32Array> {
  const parts = await Promise.all(tensors.map((tensor) => tensor.data()))
  return Float32Array.from(parts.flatMap((part) => [...part]))
}

/** All chains on one backend, a short one on every other: same-image.test has one of 50 steps there. */
const chains = [
  { name: 'sampling_T50', device: testDevice, only: undefined },
  { name: 'sampling_T1000', device: testDevice, only: undefined },
  ...testedBackends
    .filter((name) => name !== testDevice)
    .map((device) => ({ name: 'sampling_T50', device, only: 'ddim_S10_eta1' })),
]

/** Kernels of GPUs on a CPU: seconds where nothing else runs. */
const slow = 600_000

for (const { name, device, only } of chains) {
  describe(`${name} on ${device}`, () => {
    it('replayed chains end where the recorded ones do, intermediates included', async () => {
      const fixture = await Fixture.load(name)
      const tolerance = fixture.tolerance.suggest.final
      for (const c of fixture.config.cases) {
        if (only !== undefined && c.id !== only) continue
        const { id, S, eta, clipDenoised, logEveryT = 1, parameterization = 'eps' } = camelCase(c)
        using ddpm = await goldenModel(fixture, { parameterization, logEveryT, clipDenoised, device })
        const sampler = c.kind === 'ddpm' ? {} : { sampler: c.kind, steps: S, eta, ddimDiscretize: 'uniform' as const }
        const { samples, intermediates, predX0 } = await ddpm.pSampleLoop(fixture.config.shape, {
          ...sampler,
          xT: fixture.tensor(`in/${id}/x_T`),
          noise: (i) => fixture.row(`in/${id}/noise`, i),
          returnIntermediates: true,
        })
        assertCloseToScale(await samples.data(), fixture.numbers(`out/${id}/final`), tolerance, `${id} final`)
        const states = fixture.numbers(`out/${id}/x_inter`)
        assertCloseToScale(await stacked(intermediates), states, tolerance, `${id} x_inter`)
        if (!fixture.has(`out/${id}/pred_x0`)) continue
        assertCloseToScale(await stacked(predX0), fixture.numbers(`out/${id}/pred_x0`), tolerance, `${id} pred_x0`)
      }
    }).timeout(slow)
  })
}

const tiny = { timesteps: 20, device: testDevice, imageSize: 2, channels: 1 } as const

describe('a network with centerInput', () => {
  const config = {
    ...{ imageSize: 4, inChannels: 1, outChannels: 1, modelChannels: 8, normGroups: 4, channelMult: [1] },
    ...{ numResBlocks: 1, attentionResolutions: [] },
  }
  it('draws what a function does that gives 2x - 1 to the same network without it', async () => {
    const common = { timesteps: 20, useEma: false, device: testDevice } as const
    using centered = await randomize(new DDPM({ ...common, unetConfig: { ...config, centerInput: true } }))
    const unet = new UNet(config)
    const state = await centered.stateDict()
    const own = unet.parameters.slots.map(({ name }) => [name, state[`model.diffusion_model.${name}`]])
    const { flat } = await unet.parameters.fromStateDict(Object.fromEntries(own))
    using expected = new DDPM({
      ...common,
      async model(x, t) {
        const [n, channels, height, width] = x.shape
        const data = (await x.data()).map((v) => 2 * v - 1)
        const feeds = {
          x: { dims: [n, 1, 1, data.length / n] as const, data },
          t: { dims: [n, 1, 1, 1] as const, data: (await t.values()) as Int32Array },
        }
        const { out } = await runGraph(
          testDevice,
          feeds,
          (g, v) => ({
            out: g.toNchw(unet.build({ graph: g, train: false }, g.toNhwc(v.x, { channels, height, width }), v.t)),
          }),
          { banks: { weights: flat } },
        )
        return Tensor.from(out, x.shape)
      },
    })
    const draw = async (ddpm: DDPM, o: object) =>
      (await ddpm.pSampleLoop([2, 1, 4, 4], { seed: 3, returnIntermediates: false, ...o })).data()
    for (const o of [{ sampler: 'ddim', steps: 4 }, { sampler: 'heun', steps: 4 }, {}]) {
      assertCloseToScale(await draw(centered, o), await draw(expected, o), 1e-4, JSON.stringify(o))
    }
  })
})

describe('sampling', () => {
  it('counts steps down and hands out each state', async () => {
    using ddpm = new DDPM({ ...tiny, model: (x) => x })
    const seen: [number, number, number][] = []
    let last: Float32Array | undefined
    const samples = await ddpm.sample({
      batchSize: 2,
      seed: 1,
      onStep: async ({ t, step, total, x }) => {
        seen.push([t, step, total])
        last = await x.data()
      },
    })
    assert.deepEqual(
      seen,
      Array.from({ length: 20 }, (_, i) => [19 - i, i + 1, 20]),
    )
    assertSameBits(last!, await samples.data(), 'the last state')
  })

  it('a state is only lent', async () => {
    using ddpm = new DDPM({ ...tiny, model: (x) => x })
    let kept: Tensor | undefined
    await ddpm.sample({
      batchSize: 1,
      onStep: ({ x }) => {
        kept = x
      },
    })
    await assert.rejects(kept!.data(), { code: 'disposed' })
  })

  it('keeps x_T, the state after the first step and those that logEveryT divides', async () => {
    using ddpm = new DDPM({ ...tiny, model: (x) => x, logEveryT: 7 })
    const { samples, intermediates, predX0 } = await ddpm.sample({ batchSize: 1, returnIntermediates: true })
    assert.equal(intermediates.length, 5) // x_T, 19, 14, 7, 0
    assert.equal(predX0.length, 5)
    assertSameBits(await intermediates[4].data(), await samples.data(), 'the last one')
  })

  it('without a seed draws other images each time, which a new model of the same seed repeats', async () => {
    const draw = async () => {
      using ddpm = new DDPM({ ...tiny, model: (x) => x, seed: 5 })
      return [await (await ddpm.sample({ batchSize: 1 })).data(), await (await ddpm.sample({ batchSize: 1 })).data()]
    }
    const [a, b] = [await draw(), await draw()]
    assert.notDeepEqual(a[0], a[1])
    assert.deepEqual(a, b)
  })

  it('two at once are what they would be one after the other', async () => {
    using ddpm = new DDPM({ ...tiny, model: (x) => x })
    const draw = async (seed: number) => (await ddpm.sample({ batchSize: 3, seed })).data()
    const together = await Promise.all([draw(1), draw(2)])
    assertSameBits(together[0], await draw(1), 'the first')
    assertSameBits(together[1], await draw(2), 'the second')
  })

  it('an abort ends it within a step, with the reason as cause', async () => {
    using ddpm = new DDPM({ ...tiny, model: (x) => x })
    const controller = new AbortController()
    const reason = new Error('enough')
    let steps = 0
    const sampling = ddpm.sample({
      batchSize: 1,
      signal: controller.signal,
      onStep: () => {
        steps++
        if (steps === 3) controller.abort(reason)
      },
    })
    await assert.rejects(sampling, (e: Error & { code?: string }) => e.code === 'aborted' && e.cause === reason)
    assert.equal(steps, 3)
    await assert.rejects(ddpm.sample({ signal: AbortSignal.abort() }), { code: 'aborted' })
  })

  it('leaves nothing on the device', async () => {
    using ddpm = new DDPM({ ...tiny, model: (x) => x })
    await ddpm.sample({ batchSize: 4, returnIntermediates: true })
    await settled(ddpm.device)
    const { inUse } = ddpm.memoryInfo().device
    for (let i = 0; i < 5; i++) await ddpm.sample({ batchSize: 4, returnIntermediates: true })
    await assert.rejects(ddpm.sample({ batchSize: 4, returnIntermediates: true, signal: AbortSignal.abort() }))
    await settled(ddpm.device)
    assert.equal(ddpm.memoryInfo().device.inUse, inUse)
  })

  it('DDIM of a network that predicts x0 equals that of one that predicts the noise', async () => {
    const target = Tensor.from([0.5, -0.5, 0.25, 1], [1, 1, 2, 2])
    const goal = await target.data()
    using x0 = new DDPM({ ...tiny, parameterization: 'x0', model: () => target })
    using eps = new DDPM({
      ...tiny,
      model: async (x, t) => {
        const [state, [i]] = [await x.data(), await t.data()]
        const bar = eps.alphasCumprod[i]
        const noise = state.map((v, e) => (v - Math.sqrt(bar) * goal[e]) / Math.sqrt(1 - bar))
        return Tensor.from(noise, x.shape)
      },
    })
    const options = { batchSize: 1, seed: 3, sampler: 'ddim', steps: 5, eta: 0.7 } as const
    const [a, b] = [await (await x0.sample(options)).data(), await (await eps.sample(options)).data()]
    assertClose(a, b, { abs: 1e-4, rel: 1e-4 }, 'samples')
  })
})
