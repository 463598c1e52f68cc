import assert from 'node:assert/strict'
import { DDPM, type DDPMOptions, type StateDict, Tensor } from '../../lib/index'
import { assertClose, assertSameBits } from '../support/compare'
import { testDevice, testedBackends } from '../support/devices'
import { Random } from '../support/random'
import { camelCase, Fixture, goldenModel } from './fixture'

/** Rows of a qkv bias that softmax ignores: the middle one of each head's three parts. */
function withoutKeyRows(name: string, values: Float32Array): Float32Array {
  if (!name.endsWith('qkv.bias')) return values
  const third = values.length / 3 // one head
  return values.filter((_, i) => i < third || i >= 2 * third)
}

const norm = (values: Float32Array) => Math.sqrt(values.reduce((sum, v) => sum + v * v, 0))

/** ||actual - expected|| / ||expected - start||, per tensor; parameters whose gradient is only noise absolutely. */
async function compareUpdates(
  fixture: Fixture,
  o: { actual: StateDict; start: StateDict; expected: (name: string) => Float32Array | undefined; what: string },
): Promise<void> {
  const { noise_params: noiseParams, suggest } = fixture.tolerance
  for (const name of Object.keys(o.actual)) {
    const expected = o.expected(name)
    if (!expected) continue
    const length = expected.length // the first slice of a large tensor, or all of it
    const actual = (await o.actual[name].data()).slice(0, length)
    if (noiseParams.includes(name)) {
      assertClose(actual, expected, { abs: suggest.noise_params_atol, rel: 0 }, `${o.what} ${name}`)
      continue
    }
    const start = withoutKeyRows(name, (await o.start[name].data()).slice(0, length))
    const [a, b] = [withoutKeyRows(name, actual), withoutKeyRows(name, expected)]
    const off = norm(a.map((v, i) => v - b[i])) / norm(b.map((v, i) => v - start[i]))
    assert.ok(off < suggest.update_rel_l2, `${o.what} ${name}: off by ${off} of the update`)
  }
}

const curves = ['train_curve', 'train_curve_l1_x0'].flatMap((name) =>
  testedBackends.map((device) => ({ name, device })),
)
for (const { name, device } of curves) {
  describe(`${name} on ${device}`, () => {
    it('losses, gradient norms, trained weights and averages are those of PyTorch', async () => {
      const fixture = await Fixture.load(name)
      const { optimizer, steps } = fixture.config
      using ddpm = await goldenModel(fixture, { device })
      const { weightDecay, lr, betas, eps } = camelCase(optimizer)
      ddpm.configureOptimizers({ lr, betas, eps, weightDecay })
      const { weights: start } = await ddpm.trainingState()
      const { loss_rtol: rel, grad_norm_rtol: normRel } = fixture.tolerance.suggest
      // Kernels of GPUs take their time on a CPU: the other curve, which is short, is the one that they follow to its end.
      const taken = device === 'cuda-host' ? Math.min(steps, 5) : steps
      for (let k = 0; k < taken; k++) {
        const { loss, lossDict, gradNorm } = await ddpm.trainBatch(fixture.row('in/x', k), {
          t: fixture.row('in/t', k),
          noise: fixture.row('in/noise', k),
        })
        const at = (key: string) => [fixture.numbers(`out/${key}`)[k]]
        assertClose([loss], at('loss'), { rel, abs: 0 }, `loss ${k}`)
        assertClose([lossDict['train/loss_simple']], at('loss_simple'), { rel, abs: 0 }, `loss_simple ${k}`)
        assertClose([lossDict['train/loss_vlb']], at('loss_vlb'), { rel, abs: 0 }, `loss_vlb ${k}`)
        assertClose([gradNorm!], at('grad_norm'), { rel: normRel, abs: 0 }, `gradient norm ${k}`)
      }
      if (taken < steps) return
      const { weights, ema, emaUpdates } = await ddpm.trainingState()
      assert.equal(emaUpdates, fixture.config.ema.num_updates_after)
      const final = fixture.config.final_in ? await Fixture.load('train_curve_final') : fixture
      const stored = (file: Fixture, prefix: string) => (n: string) =>
        [`${prefix}/${n}`, `${prefix}_row0/${n}`].filter((key) => file.has(key)).map((key) => file.numbers(key))[0]
      await compareUpdates(fixture, { actual: weights, start, expected: stored(final, 'param'), what: 'weights' })
      await compareUpdates(fixture, { actual: ema!, start, expected: stored(fixture, 'ema'), what: 'averages' })
    }).timeout(600_000) // kernels of GPUs on a CPU: seconds where nothing else runs
  })
}

const unetConfig = { imageSize: 8, modelChannels: 32, channelMult: [1], numResBlocks: 1, attentionResolutions: [] }
const tiny: DDPMOptions = {
  unetConfig: { ...unetConfig, inChannels: 1, outChannels: 1, dropout: 0.1 },
  timesteps: 50,
  device: testDevice,
  seed: 9,
  deterministic: true,
}

const images = (n: number, seed = 1) => Tensor.from(new Random(seed).normals(n * 64, 0.5), [n, 1, 8, 8])
const nhwc = (n: number, seed = 1) => Tensor.from(new Random(seed).normals(n * 64, 0.5), [n, 8, 8, 1])

async function sameState(a: StateDict, b: StateDict, what: string): Promise<void> {
  assert.deepEqual(Object.keys(a), Object.keys(b))
  for (const name of Object.keys(a)) assertSameBits(await a[name].data(), await b[name].data(), `${what} ${name}`)
}

describe('training', () => {
  it('goes on after a resume as if it had never stopped, to the bit', async () => {
    const losses = async (ddpm: DDPM, from: number, to: number) => {
      const list: number[] = []
      for (let k = from; k < to; k++) list.push((await ddpm.trainBatch(images(4, k))).loss)
      return list
    }
    using whole = new DDPM(tiny)
    whole.configureOptimizers({ lr: 1e-3, maxGradNorm: 1 })
    await losses(whole, 0, 3)
    const saved = await whole.trainingState()
    using resumed = new DDPM({ ...tiny, seed: 9 })
    resumed.configureOptimizers({ lr: 1e-3, maxGradNorm: 1 })
    await resumed.loadTrainingState(saved)
    assert.deepEqual(await losses(resumed, 3, 6), await losses(whole, 3, 6))
    const [a, b] = [await resumed.trainingState(), await whole.trainingState()]
    await sameState(a.weights, b.weights, 'weights')
    await sameState(a.ema!, b.ema!, 'averages')
    await sameState(a.v!, b.v!, 'second moments')
  })

  it('with Lion goes one rate towards a sign, keeps one average, and resumes to the bit', async () => {
    const lion = { lr: 1e-3, optimizer: 'lion', weightDecay: 0.1, maxGradNorm: 1 } as const
    using whole = new DDPM(tiny)
    const start = (await whole.trainingState()).weights
    whole.configureOptimizers(lion)
    await whole.trainBatch(images(4, 0))
    const saved = await whole.trainingState()
    assert.equal(saved.v, undefined)
    for (const [name, after] of Object.entries(saved.weights)) {
      const [w, before, m] = await Promise.all([after, start[name], saved.m[name]].map((tensor) => tensor.data()))
      // The first update: m is 0.01 times the gradient, whose sign it has.
      assertClose(
        w,
        Array.from(before, (b, i) => b * (1 - 1e-4) - 1e-3 * Math.sign(m[i])),
        { abs: 1e-6, rel: 0 },
        name,
      )
    }
    using resumed = new DDPM(tiny)
    resumed.configureOptimizers(lion)
    await resumed.loadTrainingState(saved)
    for (const k of [1, 2]) {
      assert.deepEqual(await resumed.trainBatch(images(4, k)), await whole.trainBatch(images(4, k)))
    }
    const [a, b] = [await resumed.trainingState(), await whole.trainingState()]
    await sameState(a.weights, b.weights, 'weights')
    await sameState(a.m, b.m, 'averages of gradients')
    using adamw = new DDPM(tiny)
    adamw.configureOptimizers({ lr: 1e-3 })
    const other = { code: 'state-mismatch', message: /the training state is Lion's, but the optimizer is AdamW/ }
    await assert.rejects(adamw.loadTrainingState(saved), other)
    await assert.rejects(
      async () => resumed.loadTrainingState(await adamw.trainingState()),
      /AdamW's, but the optimizer is Lion/,
    )
  })

  it('refuses what an optimizer does not have', () => {
    using ddpm = new DDPM(tiny)
    const refused = (o: object, argument: string) =>
      assert.throws(() => ddpm.configureOptimizers({ lr: 1e-3, ...o }), { code: 'invalid-argument', argument })
    refused({ optimizer: 'sgd' }, 'optimizer')
    refused({ optimizer: 'lion', eps: 1e-8 }, 'eps')
    refused({ optimizer: 'lion', betas: [0.9] }, 'betas')
  })

  it('goes on from the middle of an accumulation, to the bit', async () => {
    const start = () => {
      const ddpm = new DDPM(tiny)
      ddpm.configureOptimizers({ lr: 1e-3, maxGradNorm: 1 })
      return ddpm
    }
    const part = (ddpm: DDPM, k: number) => ddpm.trainBatch(images(2, k), { update: k % 3 === 2, accumulate: 3 })
    using whole = start()
    for (let k = 0; k < 5; k++) await part(whole, k)
    const saved = await whole.trainingState()
    assert.equal(saved.accumulation?.samples, 4)
    using resumed = start()
    for (let k = 0; k < 1; k++) await part(resumed, k) // what is loaded takes the place of gradients that wait
    await resumed.loadTrainingState(saved)
    const [a, b] = [await part(resumed, 5), await part(whole, 5)]
    assert.deepEqual([a.loss, a.gradNorm], [b.loss, b.gradNorm])
    const states = [await resumed.trainingState(), await whole.trainingState()]
    await sameState(states[0].weights, states[1].weights, 'weights')
    await sameState(states[0].m, states[1].m, 'first moments')
    assert.ok(!('accumulation' in states[0]))
    // Without one, no gradients wait.
    await part(resumed, 0)
    await resumed.loadTrainingState(states[1])
    assert.equal((await resumed.trainingState()).accumulation, undefined)
    assert.deepEqual((await part(resumed, 0)).loss, (await part(whole, 0)).loss)
  })

  it('a batch that fails, and a state that does not fit, leave an accumulation as it was', async () => {
    const start = () => {
      const ddpm = new DDPM({ ...tiny, device: 'cpu' })
      ddpm.configureOptimizers({ lr: 1e-3 })
      return ddpm
    }
    const part = (ddpm: DDPM, k: number) => ddpm.trainBatch(images(2, k), { update: k === 3, accumulate: 4 })
    using whole = start()
    using disturbed = start()
    for (let k = 0; k < 3; k++) await part(whole, k)
    await part(disturbed, 0)
    const bad = Tensor.from(new Float32Array(128).fill(Number.NaN), [2, 1, 8, 8])
    await assert.rejects(disturbed.trainBatch(bad, { update: false, accumulate: 4 }), { code: 'not-finite' })
    await part(disturbed, 1)
    await part(disturbed, 2)
    const saved = await disturbed.trainingState()
    const { accumulation } = saved
    const inUse = disturbed.device.memoryInfo().inUse
    for (const wrong of [
      { further: [] },
      { batches: 0 },
      { batches: Number.POSITIVE_INFINITY },
      { batches: 1e9 },
      { first: 0.5 },
      { first: -3 },
      { gradients: {} },
    ]) {
      const state = { ...saved, accumulation: { ...accumulation!, ...wrong } }
      await assert.rejects(disturbed.loadTrainingState(state), { code: 'state-mismatch' }, JSON.stringify(wrong))
    }
    assert.equal(disturbed.device.memoryInfo().inUse, inUse, 'nothing is left of them')
    assert.equal(disturbed.device.memoryInfo().inUse, whole.device.memoryInfo().inUse)
    const [a, b] = [await part(disturbed, 3), await part(whole, 3)]
    assert.deepEqual([a.loss, a.gradNorm], [b.loss, b.gradNorm])
    await sameState((await disturbed.trainingState()).weights, (await whole.trainingState()).weights, 'weights')
  })

  it('batches that are asked for at once take no more memory than one after the other', async () => {
    const inUse: number[] = []
    for (const atOnce of [false, true]) {
      using ddpm = new DDPM({ ...tiny, device: 'cpu' })
      ddpm.configureOptimizers({ lr: 1e-3 })
      await ddpm.trainBatch(images(2, 0))
      const asked: Promise<unknown>[] = []
      for (let k = 1; k < 6; k++) {
        asked.push(ddpm.trainBatch(images(2, k)))
        if (!atOnce) await asked.at(-1)
      }
      await Promise.all(asked)
      inUse.push(ddpm.device.memoryInfo().inUse)
    }
    assert.equal(inUse[1], inUse[0])
  })

  it('accumulated batches make the step of one large batch', async () => {
    const x = new Random(4).normals(4 * 64, 0.5)
    const part = (i: number) => Tensor.from(x.slice(i * 128, (i + 1) * 128), [2, 1, 8, 8])
    const options = { ...tiny, unetConfig: { ...tiny.unetConfig!, dropout: 0 } }
    using large = new DDPM(options)
    using parts = new DDPM(options)
    for (const ddpm of [large, parts]) ddpm.configureOptimizers({ lr: 1e-3 })
    const one = await large.trainBatch(Tensor.from(x, [4, 1, 8, 8]))
    const first = await parts.trainBatch(part(0), { update: false, accumulate: 2 })
    const second = await parts.trainBatch(part(1), { accumulate: 2 })
    assert.equal(first.gradNorm, undefined)
    assertClose([(first.loss + second.loss) / 2], [one.loss], { rel: 1e-5, abs: 0 }, 'loss')
    assertClose([second.gradNorm!], [one.gradNorm!], { rel: 1e-4, abs: 0 }, 'gradient norm')
    assert.equal(parts.globalStep, 1)
  })

  it('trainingStep and onTrainBatchEnd together do what trainBatch does', async () => {
    using a = new DDPM(tiny)
    using b = new DDPM(tiny)
    for (const ddpm of [a, b]) ddpm.configureOptimizers({ lr: 1e-3 })
    for (let k = 0; k < 2; k++) {
      const { loss } = await a.trainBatch(images(2, k))
      assert.equal((await b.trainingStep({ image: nhwc(2, k) })).loss, loss)
      await b.onTrainBatchEnd()
    }
    const [x, y] = [await a.trainingState(), await b.trainingState()]
    await sameState(x.weights, y.weights, 'weights')
    await sameState(x.ema!, y.ema!, 'averages')
  })

  it('gradients point downhill, and asking for them changes nothing', async () => {
    using ddpm = new DDPM({ ...tiny, unetConfig: { ...tiny.unetConfig!, dropout: 0 } })
    const [x, t, noise] = [images(2), [3, 40], images(2, 8)]
    const before = await ddpm.stateDict()
    const { loss, gradients } = await ddpm.lossAndGradients(x, t, noise)
    await sameState(await ddpm.stateDict(), before, 'state')
    assert.equal(loss, (await ddpm.pLosses(x, t, noise)).loss)
    const step = 1e-3
    const moved: StateDict = {}
    let slope = 0
    for (const [name, gradient] of Object.entries(gradients)) {
      const g = await gradient.data()
      slope += g.reduce((sum, v) => sum + v * v, 0)
      const w = await before[`model.diffusion_model.${name}`].data()
      moved[name] = Tensor.from(
        w.map((v, i) => v - step * g[i]),
        gradient.shape,
      )
    }
    await ddpm.loadStateDict(moved)
    const { loss: lower } = await ddpm.pLosses(x, t, noise)
    assertClose([loss - lower], [step * slope], { rel: 0.1, abs: 0 }, 'decrease')
  })

  it('validationStep has the losses of both sets of weights, without dropout', async () => {
    using ddpm = new DDPM(tiny)
    const keys = ['val/loss_simple', 'val/loss_vlb', 'val/loss']
    const losses = await ddpm.validationStep({ image: nhwc(2) })
    assert.deepEqual(Object.keys(losses), [...keys, ...keys.map((key) => `${key}_ema`)])
    assert.ok(Object.values(losses).every(Number.isFinite))
    assert.equal(ddpm.training, true)
  })

  it('emaScope shows the averages to what it starts, and to nothing else', async () => {
    using ddpm = new DDPM(tiny)
    ddpm.configureOptimizers({ lr: 0.05 })
    await ddpm.trainBatch(images(2))
    await ddpm.trainBatch(images(2))
    const [x, t, noise] = [images(1), 10, images(1, 3)]
    ddpm.eval()
    const plain = (await ddpm.pLosses(x, t, noise)).loss
    const inScope = ddpm.emaScope(async () => {
      await new Promise((resolve) => setTimeout(resolve, 1))
      return (await ddpm.pLosses(x, t, noise)).loss
    })
    const outside = (await ddpm.pLosses(x, t, noise)).loss
    const averaged = await inScope
    assert.equal(outside, plain)
    assert.notEqual(averaged, plain)
    const { ema } = await ddpm.trainingState()
    await ddpm.loadStateDict(ema!)
    assert.equal((await ddpm.pLosses(x, t, noise)).loss, averaged)
  })

  it('logImages draws the rows of ddpm.py', async () => {
    using ddpm = new DDPM({ ...tiny, timesteps: 4, logEveryT: 2 })
    const log = await ddpm.logImages({ image: nhwc(3) }, { N: 2 })
    assert.deepEqual(log.inputs?.shape, [2, 1, 8, 8])
    assert.deepEqual(log.diffusionRow?.shape, [3, 2 * 10 + 2, 3 * 10 + 2]) // t = 0, 2, 3
    assert.deepEqual(log.samples?.shape, [2, 1, 8, 8])
    assert.deepEqual(log.denoiseRow?.shape, [3, 2 * 10 + 2, 4 * 10 + 2]) // x_T and after t = 3, 2, 0
    assert.deepEqual(Object.keys(await ddpm.logImages({ image: nhwc(1) }, { returnKeys: ['inputs'] })), ['inputs'])
  })
})
