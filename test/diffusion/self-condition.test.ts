// Networks that are given their own last estimate of x_0, where closed forms say what becomes of it.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import type { Value } from '../../lib/graph'
import { DDPM, type SampleOptions, Tensor } from '../../lib/index'
import { LucidrainsUNet } from '../../lib/nn/lucidrains/unet'
import type { BuildContext, Conditioning, Network } from '../../lib/nn/network'
import { ParameterTable } from '../../lib/nn/parameters'
import { Golden } from '../nn/golden'
import { assertClose, assertCloseToScale, assertSameBits } from '../support/compare'
import { testDevice } from '../support/devices'
import { numbersOf } from '../support/numbers'
import { runGraph } from '../support/run-graph'

abstract class Toy implements Network {
  readonly inChannels = 1
  readonly outChannels = 1
  readonly imageSize = 2
  readonly divisor = 1
  readonly selfCondition = true
  readonly parameters = new ParameterTable()
  protected readonly slot = this.parameters.add('weight', [1, 2, 1, 1], { kind: 'zeros' }, { layer: 'conv2d' })

  abstract build(context: BuildContext, x: Value, t: Value, conditioning: Conditioning): Value
}

/** Half of the estimate and a quarter: from 0 on after k times (1 - 2^-k) / 2. */
class Halves extends Toy {
  build({ graph }: BuildContext, _x: Value, _t: Value, { estimate }: Conditioning): Value {
    return graph.affine(estimate!, { scale: 0.5, shift: 0.25 })
  }
}

/** A linear map of estimate and x. */
class Linear extends Toy {
  build({ graph }: BuildContext, x: Value, _t: Value, { estimate }: Conditioning): Value {
    const weight = graph.parameter(this.slot)
    return graph.conv2d(graph.concat([estimate!, x]), weight, undefined, { stride: 1, padding: [0, 0, 0, 0] })
  }
}

const common = { parameterization: 'x0', clipDenoised: false, useEma: false, device: testDevice } as const
const x = Tensor.randn([3, 1, 2, 2], { seed: 1 })
const noise = Tensor.randn([3, 1, 2, 2], { seed: 2 })
const close = { rel: 1e-5, abs: 1e-6 }

describe('self-conditioning', () => {
  const evaluations: [SampleOptions, number][] = [
    [{ sampler: 'euler', steps: 3 }, 3],
    [{ sampler: 'heun', steps: 3 }, 5],
    [{ sampler: 'ddpm', steps: 4 }, 4],
    [{ sampler: 'dpmsolver++', steps: 1 }, 1],
  ]
  for (const [options, count] of evaluations) {
    it(`${JSON.stringify(options)}: each evaluation has the estimate of the one before`, async () => {
      using ddpm = new DDPM({ model: new Halves(), ...common })
      const { predX0 } = await ddpm.sample({
        batchSize: 2,
        seed: 3,
        ...options,
        returnIntermediates: true,
        logEveryT: 1,
      })
      const last = await predX0[predX0.length - 1].data()
      assertClose(last, new Array(8).fill((1 - 2 ** -count) / 2), close, 'the last prediction')
    })
  }

  it('the last step leads to the last estimate, with thresholding and given noise, too', async () => {
    for (const thresholding of [undefined, { ratio: 1, max: 5 }]) {
      using ddpm = new DDPM({ model: new Halves(), ...common, thresholding })
      const xT = Tensor.randn([1, 1, 2, 2], { seed: 5 })
      const samples = await ddpm.pSampleLoop([1, 1, 2, 2], { xT, steps: 3, sampler: 'euler', noise: () => xT })
      assertClose(await samples.data(), new Array(4).fill(0.4375), close, String(thresholding))
    }
  })

  it('losses: with the estimate outside of training, and in half of its steps', async () => {
    using ddpm = new DDPM({ model: new Halves(), ...common })
    const image = await x.data()
    const lossAt = (estimate: number) => image.reduce((sum, v) => sum + (0.5 * estimate + 0.25 - v) ** 2, 0) / 12
    const [without, own] = [lossAt(0), lossAt(0.25)]
    ddpm.eval()
    assertClose([(await ddpm.pLosses(x, 5, noise)).loss], [own], close, 'validation')
    ddpm.train()
    const steps = 64
    let conditioned = 0
    for (let i = 0; i < steps; i++) {
      const { loss } = await ddpm.pLosses(x, 5, noise)
      const isOwn = Math.abs(loss - own) < Math.abs(loss - without)
      assertClose([loss], [isOwn ? own : without], close, `step ${i}`)
      if (isOwn) conditioned++
    }
    assert.ok(Math.abs(conditioned - steps / 2) <= 4 * Math.sqrt(steps / 4), `${conditioned} of ${steps}`)
  })

  it('gradients stop at the estimate', async () => {
    using ddpm = new DDPM({ model: new Linear(), ...common })
    const [w1, w2] = [0.3, -0.7]
    await ddpm.loadStateDict({ weight: Tensor.from([w1, w2], [1, 2, 1, 1]) })
    ddpm.eval()
    const { gradients } = await ddpm.lossAndGradients(x, 300, noise)
    const [image, state] = [await x.data(), await (await ddpm.qSample(x, 300, noise)).data()]
    const expected = [0, 0]
    for (const [i, v] of state.entries()) {
      const estimate = w2 * v
      const error = w1 * estimate + w2 * v - image[i]
      expected[0] += (2 * error * estimate) / state.length
      expected[1] += (2 * error * v) / state.length
    }
    assertClose(await gradients.weight.data(), expected, { rel: 1e-4, abs: 1e-6 }, 'gradients')
  })

  it('a UNet trains, resumes to the bit, and is kept by its own files alone', async () => {
    const unetConfig = {
      ...{ imageSize: 4, inChannels: 2, outChannels: 2, modelChannels: 8, normGroups: 4, channelMult: [1] },
      ...{ numResBlocks: 1, attentionResolutions: [], selfCondition: true },
    }
    const make = () => new DDPM({ unetConfig, device: testDevice, seed: 6 })
    const batch = Tensor.randn([2, 2, 4, 4], { seed: 1 })
    using whole = make()
    using first = make()
    using second = make()
    for (const ddpm of [whole, first, second]) ddpm.configureOptimizers({ lr: 1e-3 })
    for (let i = 0; i < 6; i++) await whole.trainBatch(batch)
    for (let i = 0; i < 3; i++) await first.trainBatch(batch)
    await second.loadTrainingState(await first.trainingState())
    for (let i = 0; i < 3; i++) await second.trainBatch(batch)
    assert.deepEqual(await numbersOf(await second.stateDict()), await numbersOf(await whole.stateDict()))
    assert.deepEqual((await whole.stateDict())['model.diffusion_model.input_blocks.0.0.weight'].shape, [8, 4, 3, 3])
    using again = new DDPM({ ...whole.config, device: testDevice })
    await again.loadStateDict(await whole.stateDict())
    const draw = async (ddpm: DDPM) => (await ddpm.sample({ batchSize: 2, seed: 1, steps: 4, sampler: 'ddim' })).data()
    const images = await draw(whole)
    assertSameBits(await draw(again), images, 'images')
    const alone = await again.sample({ batchSize: 1, sampleOffset: 1, seed: 1, steps: 4, sampler: 'ddim' })
    assertClose(await alone.data(), images.slice(32), { rel: 1e-4, abs: 1e-5 }, 'the second image alone')
    const folder = mkdtempSync(path.join(tmpdir(), 'self-condition-'))
    try {
      await assert.rejects(whole.savePretrained(folder), { code: 'unsupported', argument: 'selfCondition' })
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})

describe("denoising-diffusion-pytorch's self_condition", () => {
  const open = async () => {
    const golden = await Golden.open('lucidrains_self_condition.safetensors')
    const unetConfig = {
      ...(golden.unetOptions({ imageSize: 8 }) as object),
      architecture: 'lucidrains' as const,
      dim: 4,
    }
    const weights = await golden.parameters(() => true)
    return { golden, unetConfig, weights }
  }

  it('the network, with an estimate and without one', async () => {
    const { golden, unetConfig, weights } = await open()
    const unet = new LucidrainsUNet(unetConfig)
    const { flat } = await unet.parameters.fromStateDict(weights)
    const [n, channels, height, width] = golden.tensors['in/x'].shape
    const images = (name: string) => ({
      dims: [n, 1, 1, channels * height * width] as const,
      data: golden.floats(name),
    })
    const t = { dims: [n, 1, 1, 1] as const, data: Int32Array.from(golden.floats('in/t')) }
    for (const name of ['estimate', 'none']) {
      const given = images('in/estimate')
      const estimate = name === 'none' ? { ...given, data: new Float32Array(given.data.length) } : given
      const { out } = await runGraph(
        testDevice,
        { x: images('in/x'), estimate, t },
        (g, v) => {
          const inner = (value: Value) => g.toNhwc(value, { channels, height, width })
          const built = unet.build({ graph: g, train: false }, inner(v.x), v.t, { estimate: inner(v.estimate) })
          return { out: g.toNchw(built) }
        },
        { banks: { weights: flat } },
      )
      assertCloseToScale(out, golden.floats(`out/${name}`), 1e-4, name)
    }
  })

  it('ddim_sample: each step has the estimate of the one before', async () => {
    const { golden, unetConfig, weights } = await open()
    using ddpm = new DDPM({
      ...{
        unetConfig,
        parameterization: 'v',
        givenBetas: [...golden.floats('betas')],
        useEma: false,
        device: testDevice,
      },
    })
    const named = Object.entries(weights).map(([name, tensor]) => [`model.diffusion_model.${name}`, tensor])
    await ddpm.loadStateDict(Object.fromEntries(named), { strict: false })
    const samples = await ddpm.pSampleLoop([2, 2, 8, 8], {
      xT: Tensor.from(golden.floats('xT'), [2, 2, 8, 8]),
      ...{ sampler: 'ddim', steps: 5, timestepSpacing: 'trailing', clipDenoised: true, clippedNoise: true },
    })
    assertCloseToScale(await samples.data(), golden.floats('ddim5'), 1e-4, 'samples')
  })
})
