/** The closed forms of the forward process and its posterior (Ho et al. 2020, eq. 4 to 7; ddpm.py's q_* and predict_*). */
import type { Graph } from '../../graph'
import type { NativeBuffer } from '../../native'
import type { Seed } from '../../options'
import type { Binding, Program } from '../../program'
import { Purpose, type PurposeId, rngWords } from '../../rng'
import { checkTensor, type Shape, Tensor } from '../../tensor'
import { type Core, type Extent, extentOf } from './core'
import type { Schedule } from './schedule'
import { parseTimesteps, type Timesteps } from './timesteps'

/** table[t] for each sample, [n, 1, ...] with as many dimensions as the samples: ddpm.py's extract_into_tensor. */
function extract(table: Float32Array, t: Int32Array, shape: Shape, f: (v: number) => number = (v) => v): Tensor {
  return Tensor.wrap(
    Float32Array.from(t, (i) => f(table[i])),
    [t.length, ...shape.slice(1).map(() => 1)],
  )
}

/** a[t]*x + b[t]*z with two of the schedule's buffers; `minus` negates b. */
async function affine(
  core: Core,
  o: { x: Tensor; z?: Tensor; t: Int32Array; a: keyof Schedule; b?: keyof Schedule; minus?: boolean },
): Promise<Tensor> {
  const { n, d } = extentOf(o.x.shape, 'x')
  const program = core.program('affine', { n, d, z: o.z !== undefined }, (g) => {
    const x = g.input('x', [n, 1, 1, d])
    const t = g.input('t', [n, 1, 1, 1], 'i32')
    const a = g.input('a', [core.numTimesteps, 1, 1, 1])
    if (!o.z) return { y: g.timestepAffine(x, a, t) }
    const b = g.input('b', [core.numTimesteps, 1, 1, 1])
    return { y: g.timestepAffine(x, a, t, g.input('z', [n, 1, 1, d]), b) }
  })
  const bindings: Record<string, Binding> = { x: await o.x.binding(core.device), t: o.t, a: core.buffer(o.a) }
  if (o.z && o.b) {
    const { b, minus } = o
    bindings.z = await o.z.binding(core.device)
    bindings.b = minus ? negated(core, b) : core.buffer(b)
  }
  const { y } = await program.run(bindings)
  return Tensor.wrap(y, o.x.shape)
}

/** A buffer of the schedule with the other sign, on the device. */
export function negated(core: Core, name: keyof Schedule): NativeBuffer {
  return core.table(`-${name}`, () => core.schedule[name].map((v) => -v))
}

/** v of x_0 and its noise: Salimans & Ho 2022, section 4; get_v of ddpm.py. */
export async function velocity(core: Core, xStart: Tensor, t: Int32Array, noise: Tensor): Promise<Tensor> {
  const [a, b] = ['sqrtAlphasCumprod', 'sqrtOneMinusAlphasCumprod'] as const
  return affine(core, { x: noise, z: xStart, t, a, b, minus: true })
}

/** Where the random numbers of a batch come from: samples from `sampleOffset` on, at `step`. */
export interface Stream {
  readonly seed: Seed
  readonly sampleOffset: number
  readonly step: number
}

/** For a call that was given no noise and no seed: the next of the model's own. */
export function nextStream(core: Core): Stream {
  return { seed: core.seeds.next(), sampleOffset: 0, step: 0 }
}

/** Normal numbers for samples of `d` elements; inputs as noiseBindings makes them, output y. */
export function noiseProgram(core: Core, { n, d }: Extent, purpose: PurposeId): Program {
  return core.program('noise', { n, d, purpose }, (g) => {
    const { rng, sample, step } = noiseInputs(g, n)
    return { y: g.gaussianNoise(rng, sample, step, { d, purpose }) }
  })
}

/** The inputs that place a sample's noise: the seed, the sample's index, the step. */
export function noiseInputs(g: Graph, n: number) {
  return {
    rng: g.input('rng', [1, 1, 1, 4], 'i32'),
    sample: g.input('sample', [n, 1, 1, 1], 'i32'),
    step: g.input('step', [n, 1, 1, 1], 'i32'),
  }
}

export function noiseBindings(
  n: number,
  { seed, sampleOffset, step }: Stream,
): { rng: Int32Array; sample: Int32Array; step: Int32Array } {
  return {
    rng: rngWords(seed),
    sample: Int32Array.from({ length: n }, (_, i) => sampleOffset + i),
    step: new Int32Array(n).fill(step),
  }
}

export async function qMeanVariance(core: Core, xStart: Tensor, t: Timesteps) {
  checkTensor(xStart, 'xStart')
  const steps = await parseTimesteps(t, xStart.shape[0], core.numTimesteps)
  const { schedule } = core
  return {
    mean: await affine(core, { x: xStart, t: steps, a: 'sqrtAlphasCumprod' }),
    variance: extract(schedule.alphasCumprod, steps, xStart.shape, (bar) => 1 - bar),
    logVariance: extract(schedule.logOneMinusAlphasCumprod, steps, xStart.shape),
  }
}

export async function drawNoise(core: Core, shape: Shape, stream: Stream): Promise<Tensor> {
  const { n, d } = extentOf(shape, 'xStart')
  const { y } = await noiseProgram(core, { n, d }, Purpose.training).run(noiseBindings(n, stream))
  return Tensor.wrap(y, shape)
}

/** noise defaults to the next of the model's own. */
export async function qSample(core: Core, xStart: Tensor, t: Timesteps, noise?: Tensor): Promise<Tensor> {
  checkTensor(xStart, 'xStart')
  if (noise) checkTensor(noise, 'noise', xStart.shape)
  const steps = await parseTimesteps(t, xStart.shape[0], core.numTimesteps)
  const z = noise ?? (await drawNoise(core, xStart.shape, nextStream(core)))
  return affine(core, { x: xStart, z, t: steps, a: 'sqrtAlphasCumprod', b: 'sqrtOneMinusAlphasCumprod' })
}

export async function predictStartFromNoise(core: Core, xT: Tensor, t: Timesteps, noise: Tensor): Promise<Tensor> {
  checkTensor(xT, 'xT')
  checkTensor(noise, 'noise', xT.shape)
  const steps = await parseTimesteps(t, xT.shape[0], core.numTimesteps)
  const [a, b] = ['sqrtRecipAlphasCumprod', 'sqrtRecipm1AlphasCumprod'] as const
  return affine(core, { x: xT, z: noise, t: steps, a, b, minus: true })
}

/** ddpm.py's _predict_eps_from_xstart: the noise of x_t and its x_0. */
export async function predictEpsFromXstart(core: Core, xT: Tensor, t: Timesteps, predXstart: Tensor): Promise<Tensor> {
  checkTensor(xT, 'xT')
  checkTensor(predXstart, 'predXstart', xT.shape)
  const { d } = extentOf(xT.shape, 'xT')
  const steps = await parseTimesteps(t, xT.shape[0], core.numTimesteps)
  const [values, start] = [await xT.data(), await predXstart.data()]
  const { sqrtRecipAlphasCumprod: a, sqrtRecipm1AlphasCumprod: b } = core.schedule
  const eps = values.map((v, i) => {
    const own = steps[Math.floor(i / d)]
    return (a[own] * v - start[i]) / b[own]
  })
  return Tensor.wrap(eps, xT.shape)
}

export async function qPosterior(core: Core, xStart: Tensor, xT: Tensor, t: Timesteps) {
  checkTensor(xStart, 'xStart')
  checkTensor(xT, 'xT', xStart.shape)
  const steps = await parseTimesteps(t, xT.shape[0], core.numTimesteps)
  return {
    posteriorMean: await affine(core, {
      x: xStart,
      z: xT,
      t: steps,
      a: 'posteriorMeanCoef1',
      b: 'posteriorMeanCoef2',
    }),
    ...posteriorVariances(core, steps, xT.shape),
  }
}

export function posteriorVariances(core: Core, t: Int32Array, shape: Shape) {
  return {
    posteriorVariance: extract(core.schedule.posteriorVariance, t, shape),
    posteriorLogVarianceClipped: extract(core.schedule.posteriorLogVarianceClipped, t, shape),
  }
}

/** [n, h, w, c] or [n, h, w] to float32 [n, c, h, w]: ddpm.py's rearrangement in get_input. */
export async function nhwcToNchw(core: Core, x: Tensor): Promise<Tensor> {
  const [n, h, w, c = 1] = x.shape
  if (c === 1) return Tensor.wrap(await x.data(), [n, c, h, w])
  extentOf(x.shape, 'x')
  const program = core.program('nhwcToNchw', { n, h, w, c }, (g) => ({ y: g.toNchw(g.input('x', [n, h, w, c])) }))
  const { y } = await program.run({ x: await x.binding(core.device) })
  return Tensor.wrap(y, [n, c, h, w])
}
