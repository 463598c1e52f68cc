// Averages by power functions: EDM2's (Karras et al. 2024).
import assert from 'node:assert/strict'
import { gammaOf, powerDecay, reconstruct, sigmaRelOf, widestSigmaRel } from '../../lib/diffusion/training/power-ema'
import { DDPM, Tensor } from '../../lib/index'
import { assertClose, assertSameBits } from '../support/compare'
import { testDevice } from '../support/devices'

const unetConfig = {
  ...{ imageSize: 2, inChannels: 1, outChannels: 1, modelChannels: 8, normGroups: 4, channelMult: [1] },
  ...{ numResBlocks: 1, attentionResolutions: [] },
}
const sigmaRels = [0.05, 0.1]
const name = 'input_blocks.0.0.weight'

/** By the closed form: weights of step t, from 1, in the average after `steps`. */
function profile(steps: number, sigmaRel: number): number[] {
  const power = gammaOf(sigmaRel) + 1
  return Array.from({ length: steps }, (_, i) => ((i + 1) / steps) ** power - (i / steps) ** power)
}

describe('averages by power functions', () => {
  it('sigma_rel and gamma are the paper’s', () => {
    // Section 3.1: 16.97 and 6.94.
    assertClose([gammaOf(0.05), gammaOf(0.1)], [16.97, 6.94], { abs: 0.005, rel: 0 }, 'gamma')
    assertClose([sigmaRelOf(0)], [widestSigmaRel], { abs: 1e-12, rel: 0 }, 'widest')
    assert.equal(powerDecay(1, 3), 0)
    assertClose([powerDecay(4, 1)], [0.5625], { abs: 1e-12, rel: 0 }, 'decay')
  })

  it('a training’s are their closed form, also in steps of two calls, and after a resume to the bit', async () => {
    const make = () => new DDPM({ unetConfig, emaSigmaRels: sigmaRels, device: testDevice, seed: 2 })
    using whole = make()
    using halves = make()
    using first = make()
    using second = make()
    for (const ddpm of [whole, halves, first, second]) ddpm.configureOptimizers({ lr: 1e-2 })
    const x = Tensor.randn([2, 1, 2, 2], { seed: 1 })
    const image = Tensor.from(await x.data(), [2, 2, 2, 1])
    const steps = 12
    const weights: Float32Array[] = []
    for (let i = 0; i < steps; i++) {
      await whole.trainBatch(x)
      weights.push(await (await whole.trainingState()).weights[name].data())
      await halves.trainingStep({ image })
      await halves.onTrainBatchEnd()
      await (i < 4 ? first : second).trainBatch(x)
      if (i === 3) await second.loadTrainingState(await first.trainingState())
    }
    const state = await whole.trainingState()
    for (const [k, sigmaRel] of sigmaRels.entries()) {
      const shares = profile(steps, sigmaRel)
      const expected = weights[0].map((_, i) => shares.reduce((sum, share, t) => sum + share * weights[t][i], 0))
      assertClose(await state.powerEmas![k][name].data(), expected, { rel: 1e-5, abs: 1e-6 }, `${sigmaRel}`)
      const found = (await halves.trainingState()).powerEmas![k][name]
      assertSameBits(await found.data(), await state.powerEmas![k][name].data(), `${sigmaRel}, two calls`)
    }
    assert.deepEqual((await second.trainingState()).powerEmas, state.powerEmas)
    using without = new DDPM({ unetConfig, device: testDevice, seed: 2 })
    without.configureOptimizers({ lr: 1e-2 })
    await without.trainBatch(x)
    const refused = whole.loadTrainingState(await without.trainingState())
    await assert.rejects(refused, { code: 'state-mismatch', argument: 'powerEmas' })
  })

  it('a snapshot is reconstructed by itself; another length is five times nearer with twice the snapshots', () => {
    const evenly = (count: number) =>
      Array.from({ length: count }, (_, i) => Math.round((1000 * (i + 1)) / count)).flatMap((step) =>
        sigmaRels.map((sigmaRel) => ({ step, sigmaRel })),
      )
    const snapshots = evenly(8)
    for (const [i, snapshot] of snapshots.entries()) {
      const expected = snapshots.map((_, k) => (k === i ? 1 : 0))
      assertClose(reconstruct(snapshots, snapshot), expected, { abs: 1e-6, rel: 0 }, JSON.stringify(snapshot))
    }
    // Of a path that bends, in the place of weights.
    const path = Array.from({ length: 1000 }, (_, t) => Math.sin(t / 250) + t / 1000)
    const average = (step: number, sigmaRel: number) =>
      profile(step, sigmaRel).reduce((sum, share, t) => sum + share * path[t], 0)
    const targets = [
      { step: 1000, sigmaRel: 0.075 },
      { step: 1000, sigmaRel: 0.14 },
      { step: 900, sigmaRel: 0.1 },
    ]
    for (const target of targets) {
      const errors = [8, 16, 32].map((count) => {
        const from = evenly(count)
        const found = reconstruct(from, target).reduce(
          (sum, share, i) => sum + share * average(from[i].step, from[i].sigmaRel),
          0,
        )
        return Math.abs(found - average(target.step, target.sigmaRel))
      })
      assert.ok(errors[0] > 5 * errors[1] && errors[1] > 5 * errors[2], `${JSON.stringify(target)}: ${errors}`)
      assert.ok(errors[2] < 5e-4, `${JSON.stringify(target)}: ${errors[2]}`)
    }
    assert.throws(() => reconstruct([], snapshots[0]), { argument: 'snapshots' })
    assert.throws(() => reconstruct([snapshots[0], snapshots[0]], snapshots[0]), { argument: 'snapshots' })
  })

  it('refuses lengths that no power function has, and two that are the same', () => {
    for (const emaSigmaRels of [[0.3], [0], [0.1, 0.1]]) {
      const make = () => new DDPM({ unetConfig, emaSigmaRels, device: testDevice })
      assert.throws(make, { code: 'invalid-argument', argument: 'emaSigmaRels' })
    }
  })
})
