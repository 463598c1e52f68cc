/** The variational bound in bits per dimension: Ho et al. 2020, eq. 5; improved-diffusion's calc_bpd_loop. */
import { checkTensor, type Shape, Tensor } from '../../tensor'
import { type Condition, kindOf } from '../process/condition'
import { type Core, extentOf } from '../process/core'
import { learnedLogVariance, trueVariance } from '../process/learned-variance'
import { denoise, denoiserBindings } from '../process/preconditioning'
import { noiseRow, startRow } from '../process/prediction'
import { drawNoise, qSample, type Stream } from '../process/process'
import { checkAborted } from './loop'

export interface BitsPerDim {
  /** Of each sample, [n]: the sum of all terms. */
  readonly totalBpd: Tensor
  /** KL(q(x_T | x_0) || N(0, 1)), [n]. */
  readonly priorBpd: Tensor
  /** The term of each timestep, [n, T], t ascending: the KL of the posteriors, and at t = 0 the decoder's -log p(x_0 | x_1). */
  readonly vb: Tensor
  /** Mean squared error of the predicted x_0, [n, T]. */
  readonly xstartMse: Tensor
  /** Mean squared error of the predicted noise, [n, T]. */
  readonly mse: Tensor
}

export interface BitsPerDimOptions {
  readonly clipDenoised: boolean
  readonly condition: Condition
  /** The noise of timestep t, in place of drawn noise. */
  readonly noise?: (t: number) => Tensor | Promise<Tensor>
  readonly stream: Stream
  readonly onStep?: (event: { t: number; step: number; total: number }) => unknown
  readonly signal?: AbortSignal
}

/** x: pixels k in 0 ... 255 as k/127.5 - 1. Every timestep is evaluated once, with noise of its own. */
export async function calcBpd(core: Core, x: Tensor, o: BitsPerDimOptions): Promise<BitsPerDim> {
  checkTensor(x, 'x')
  const { n, d } = extentOf(x.shape, 'x')
  core.denoiser.check(x.shape, 'x')
  const { numTimesteps: T } = core
  const truth = await x.data()
  const [vb, xstartMse, mse] = Array.from({ length: 3 }, () => new Float32Array(n * T))
  for (let t = T - 1; t >= 0; t--) {
    checkAborted(o.signal)
    const noise = o.noise ? await o.noise(t) : await drawNoise(core, x.shape, { ...o.stream, step: t })
    checkTensor(noise, 'noise', x.shape)
    const noisy = await qSample(core, x, t, noise)
    const state = await noisy.data()
    const output = await outputAt(core, state, t, x.shape, o.condition)
    const terms = timestepTerms(core, {
      t,
      d,
      truth,
      noise: await noise.data(),
      state,
      clip: o.clipDenoised,
      ...output,
    })
    for (let i = 0; i < n; i++) {
      vb[i * T + t] = terms.vb[i]
      xstartMse[i * T + t] = terms.xstartMse[i]
      mse[i * T + t] = terms.mse[i]
    }
    await o.onStep?.({ t, step: T - t, total: T })
  }
  const priorBpd = priorTerm(core, truth, d)
  const totalBpd = priorBpd.map((prior, i) => vb.subarray(i * T, (i + 1) * T).reduce((a, b) => a + b, prior))
  const perTimestep = (values: Float32Array) => Tensor.wrap(values, [n, T])
  return {
    totalBpd: Tensor.wrap(Float32Array.from(totalBpd), [n]),
    priorBpd: Tensor.wrap(Float32Array.from(priorBpd), [n]),
    vb: perTimestep(vb),
    xstartMse: perTimestep(xstartMse),
    mse: perTimestep(mse),
  }
}

async function outputAt(
  core: Core,
  state: Float32Array,
  t: number,
  shape: Shape,
  condition: Condition,
): Promise<Pick<Evaluated, 'out' | 'logVariance'>> {
  const { n, d } = extentOf(shape, 'x')
  const kind = kindOf(condition)
  const program = await core.networkProgram('denoise', { shape: shape.join('x'), ...kind }, (g) => {
    const x = g.input('x', [n, 1, 1, d])
    const steps = g.input('t', [n, 1, 1, 1], 'i32')
    return { ...denoise(core, g, { x, t: steps, shape, mode: { train: false, condition: kind } }) }
  })
  const x = core.device.upload(state)
  try {
    const steps = new Int32Array(n).fill(t)
    const { prediction, variance } = await program.run({
      x,
      t: steps,
      ...(await denoiserBindings(core, { x, t: steps, shape, condition })),
    })
    return { out: prediction, logVariance: variance && learnedLogVariance(core, variance, steps) }
  } finally {
    x.release()
  }
}

interface Evaluated {
  readonly t: number
  readonly d: number
  readonly truth: Float32Array
  readonly noise: Float32Array
  readonly state: Float32Array
  readonly out: Float32Array
  /** Of each element, where it is learned. */
  readonly logVariance?: Float32Array
  readonly clip: boolean
}

/** Of each sample, in bits per dimension; in float64. */
function timestepTerms(core: Core, e: Evaluated): { vb: number[]; xstartMse: number[]; mse: number[] } {
  const { schedule, settings } = core
  const { t, d } = e
  const bar = schedule.alphasCumprod[t]
  const start = startRow(settings.parameterization, bar)
  const eps = noiseRow('x0', bar)
  const [ofStart, ofState] = [schedule.posteriorMeanCoef1[t], schedule.posteriorMeanCoef2[t]]
  const trueLogVar = Math.log(trueVariance(schedule, t))
  const fixedLogVar = modelLogVariance(core, t)
  const n = e.truth.length / d
  const [vb, xstartMse, mse] = [new Array<number>(n), new Array<number>(n), new Array<number>(n)]
  for (let i = 0; i < n; i++) {
    let [term, startError, noiseError] = [0, 0, 0]
    for (let k = i * d; k < (i + 1) * d; k++) {
      let x0 = start[0] * e.state[k] + start[1] * e.out[k]
      if (e.clip) x0 = Math.min(Math.max(x0, -1), 1)
      const modelLogVar = e.logVariance?.[k] ?? fixedLogVar
      const mean = ofStart * x0 + ofState * e.state[k]
      const trueMean = ofStart * e.truth[k] + ofState * e.state[k]
      term +=
        t > 0
          ? normalKl(trueMean, trueLogVar, mean, modelLogVar)
          : -discretizedLogLikelihood(e.truth[k], mean, modelLogVar)
      startError += (x0 - e.truth[k]) ** 2
      noiseError += (eps[0] * e.state[k] + eps[1] * x0 - e.noise[k]) ** 2
    }
    vb[i] = term / d / Math.LN2
    xstartMse[i] = startError / d
    mse[i] = noiseError / d
  }
  return { vb, xstartMse, mse }
}

/** Of a fixed variance, by vPosterior; at t = 0 beta_tilde's part is the next one's, as improved-diffusion has it. */
function modelLogVariance(core: Core, t: number): number {
  const { vPosterior } = core.settings
  const tilde = trueVariance(core.schedule, t)
  const beta = t === 0 ? tilde : core.schedule.betas[t]
  return Math.log((1 - vPosterior) * tilde + vPosterior * beta)
}

/** ddpm.py's _prior_bpd, [n]. */
export async function priorBpd(core: Core, xStart: Tensor): Promise<Tensor> {
  checkTensor(xStart, 'xStart')
  const { n, d } = extentOf(xStart.shape, 'xStart')
  return Tensor.wrap(Float32Array.from(priorTerm(core, await xStart.data(), d)), [n])
}

/** KL(q(x_T | x_0) || N(0, 1)) in bits per dimension. */
function priorTerm({ schedule, numTimesteps }: Core, truth: Float32Array, d: number): Float64Array {
  const t = numTimesteps - 1
  const [a, logVar] = [schedule.sqrtAlphasCumprod[t], schedule.logOneMinusAlphasCumprod[t]]
  return Float64Array.from({ length: truth.length / d }, (_, i) => {
    const values = truth.subarray(i * d, (i + 1) * d)
    return values.reduce((sum, v) => sum + normalKl(a * v, logVar, 0, 0), 0) / d / Math.LN2
  })
}

/** KL of two normal distributions, in nats. */
function normalKl(mean1: number, logVar1: number, mean2: number, logVar2: number): number {
  const spread = Math.exp(logVar1 - logVar2) + (mean1 - mean2) ** 2 * Math.exp(-logVar2)
  return 0.5 * (-1 + logVar2 - logVar1 + spread)
}

/** log of the probability of the pixel's interval of 1/127.5: Ho et al. 2020, eq. 13. */
function discretizedLogLikelihood(x: number, mean: number, logVar: number): number {
  const scale = Math.exp(-0.5 * logVar)
  const above = normalCdf(scale * (x - mean + 1 / 255))
  const below = normalCdf(scale * (x - mean - 1 / 255))
  const probability = x < -0.999 ? above : x > 0.999 ? 1 - below : above - below
  return Math.log(Math.max(probability, 1e-12))
}

/** The approximation by tanh that the field's numbers are computed with (Page 1977). */
function normalCdf(x: number): number {
  return 0.5 * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))
}
