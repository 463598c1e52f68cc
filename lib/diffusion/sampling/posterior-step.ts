/** One step from x_t to x_{t-1} as one program: denoiser, posterior mean and noise together. */
import { invalidArgument } from '../../errors'
import type { Graph, Value } from '../../graph'
import type { Seed } from '../../options'
import type { Binding, Program } from '../../program'
import { Purpose } from '../../rng'
import { checkTensor, type Shape, Tensor } from '../../tensor'
import { type Condition, type ConditionKind, kindOf } from '../process/condition'
import { type Core, extentOf } from '../process/core'
import { learnedLogVariance, varianceInput, varianceTableOf } from '../process/learned-variance'
import { denoiserBindings } from '../process/preconditioning'
import { noiseBindings, noiseInputs, posteriorVariances } from '../process/process'
import type { Threshold } from '../process/settings'
import { noiseColumn, posteriorTable, rowLength, tableRows } from '../process/step-tables'
import { parseTimesteps, type Timesteps } from '../process/timesteps'
import { type GuidanceKind, guidedOutput, movedMean } from './guidance/nodes'
import { type Multistep, multistepNodes } from './multistep-nodes'
import { thresholdOf } from './threshold'

export interface StepKind {
  readonly condition: ConditionKind
  readonly shape: Shape
  readonly clip: boolean
  /** drawn in the graph; given for each sample; one given for all (shared); or no noise at all. */
  readonly noise: 'drawn' | 'given' | 'shared' | 'none'
  /** Also return the prediction of x_0. */
  readonly x0: boolean
  /** The noise has the variance that the network learned: input variance, its table. */
  readonly learned?: boolean
  /** Also return what a learned variance is made of. */
  readonly raw?: boolean
  readonly deterministic?: boolean
  /** What becomes of the denoiser's predictions; undefined: nothing. */
  readonly guidance?: GuidanceKind
  /** Dynamic thresholding in place of the clipping. */
  readonly threshold?: Threshold
  /** At its end it counts `row` up and sets `t` to what the input `timesteps`, a table, has there: the next run is the next step. */
  readonly advances?: boolean
  /** What the network is given and told is by row, too: betweenTimesteps. */
  readonly between?: boolean
  /** Of the tables. Default: tableRows. */
  readonly rows?: number
  /** What a multistep sampler adds to the fused step; see sampling/plan.ts. */
  readonly multistep?: Multistep
}

/**
 * Inputs x, t, row (of the tables), table, then noise or (rng, sample, step) as `noise` says, and the denoiser's; outputs y and
 * x0. Multistep samplers have more of both; see multistepNodes.
 */
export function stepProgram(core: Core, kind: StepKind): Promise<Program> {
  const { shape, clip, noise, x0, learned = false, raw = false, advances = false } = kind
  const { n, d } = extentOf(shape, 'x')
  const rows = kind.rows ?? tableRows(core.numTimesteps)
  const { history = 0, corrects = false, starts = false } = kind.multistep ?? {}
  const build = (g: Graph): Record<string, Value> => {
    const x = g.input('x', [n, 1, 1, d])
    const row = g.input('row', [n, 1, 1, 1], 'i32')
    const t = g.input('t', [n, 1, 1, 1], 'i32')
    const outputs = stepNodes(g, core, kind, { x, row, t })
    if (advances) g.nextStep(row, g.input('timesteps', [rows, 1, 1, 1], 'i32'), t)
    return outputs
  }
  const key = {
    shape: shape.join('x'),
    clip,
    noise,
    x0,
    learned,
    raw,
    advances,
    guidance: kind.guidance ? JSON.stringify(kind.guidance) : '',
    ...kind.condition,
    history,
    corrects,
    starts,
    rows,
    between: kind.between ?? false,
    threshold: kind.threshold ? JSON.stringify(kind.threshold) : '',
  }
  return core.networkProgram('step', key, build, kind.deterministic)
}

function stepNodes(
  g: Graph,
  core: Core,
  kind: StepKind,
  { x, row, t }: Record<'x' | 'row' | 't', Value>,
): Record<string, Value> {
  const { shape, clip, noise, x0, learned = false, raw, condition, guidance, multistep } = kind
  const [n, , , d] = x.dims
  const rows = kind.rows ?? tableRows(core.numTimesteps)
  const table = g.input('table', [rows, 1, 1, rowLength])
  const by = kind.between ? { row, rows } : undefined
  const { prediction, variance } = guidedOutput(core, g, { x, t, shape, by }, { condition, guidance })
  const unclipped = () => g.posteriorStep(x, prediction, table, row, { clip: false }).x0
  const scale = kind.threshold && thresholdOf(g, unclipped(), kind.threshold)
  const given =
    noise === 'given' || noise === 'shared' ? g.input('noise', [noise === 'given' ? n : 1, 1, 1, d]) : undefined
  const draw = noise === 'drawn' ? noiseInputs(g, n) : undefined
  const moved = (y: Value) =>
    guidance?.gradient === 'mean' ? movedMean(g, y, { row, rows, variance: variance ?? prediction }) : y
  if (learned && variance) {
    const { y: mean, x0: start } = g.posteriorStep(x, prediction, table, row, { clip, scale })
    const y = moved(mean)
    const z = given ?? (draw && g.gaussianNoise(draw.rng, draw.sample, draw.step, { d, purpose: Purpose.posterior }))
    const noisy = z ? g.varianceNoise(y, variance, varianceInput(core, g, rows), row, z) : y
    return { y: noisy, ...(x0 && { x0: start }), ...(raw && { raw: variance }) }
  }
  const next = g.posteriorStep(x, prediction, table, row, { clip, scale, noise: given, draw })
  if (!multistep) return { y: moved(next.y), ...(x0 && { x0: next.x0 }) }
  const nodes = multistepNodes(g, { ...multistep, x, row, rows, next })
  return {
    y: nodes.y,
    ...(multistep.history > 0 && { m0: nodes.m0 }),
    ...(multistep.corrects && { state: nodes.state }),
    ...(x0 && { x0: nodes.x0 }),
  }
}

export function posteriorTableOf(core: Core) {
  return core.table('posterior', () => posteriorTable(core.schedule, core.settings.parameterization))
}

/** With another multiple of the noise. */
function temperedTable(core: Core, temperature: number): Binding {
  if (temperature === 1) return posteriorTableOf(core)
  if (core.settings.varianceType !== 'fixed') {
    throw invalidArgument('temperature', '1 for a model whose variance is learned', temperature)
  }
  const table = posteriorTable(core.schedule, core.settings.parameterization)
  for (let at = noiseColumn; at < table.length; at += rowLength) table[at] *= temperature
  return table
}

/** ddpm.py's p_mean_variance. */
export async function pMeanVariance(
  core: Core,
  x: Tensor,
  t: Timesteps,
  o: { clipDenoised: boolean; condition: Condition },
) {
  const { y, raw, steps } = await runStep(core, x, t, { ...o, noise: 'none', extra: {} })
  if (raw) {
    const logVariance = learnedLogVariance(core, raw, steps)
    const wrap = (values: Float32Array) => Tensor.wrap(values, x.shape)
    return { modelMean: y, posteriorVariance: wrap(logVariance.map(Math.exp)), posteriorLogVariance: wrap(logVariance) }
  }
  const { posteriorVariance, posteriorLogVarianceClipped } = posteriorVariances(core, steps, x.shape)
  return { modelMean: y, posteriorVariance, posteriorLogVariance: posteriorLogVarianceClipped }
}

export interface PSampleOptions {
  clipDenoised: boolean
  /** The same noise for all samples. */
  repeatNoise: boolean
  /** Of the noise. Default 1. */
  temperature?: number
  /** In place of drawn noise: of x's shape, or of one sample with `repeatNoise`. */
  noise?: Tensor
  seed: Seed
  condition: Condition
}

/** ddpm.py's p_sample. No noise is added where t is 0. */
export async function pSample(core: Core, x: Tensor, t: Timesteps, o: PSampleOptions): Promise<Tensor> {
  checkTensor(x, 'x')
  const { n } = extentOf(x.shape, 'x')
  if (o.noise) {
    checkTensor(o.noise, 'noise', o.repeatNoise ? [1, ...x.shape.slice(1)] : x.shape)
    const extra = { noise: await o.noise.binding(core.device) }
    return (await runStep(core, x, t, { ...o, noise: o.repeatNoise ? 'shared' : 'given', extra })).y
  }
  const extra = noiseBindings(n, { seed: o.seed, sampleOffset: 0, step: 0 })
  if (o.repeatNoise) extra.sample.fill(0)
  return (await runStep(core, x, t, { ...o, noise: 'drawn', extra })).y
}

async function runStep(
  core: Core,
  x: Tensor,
  t: Timesteps,
  o: {
    clipDenoised: boolean
    noise: StepKind['noise']
    extra: Parameters<Program['run']>[0]
    temperature?: number
    condition: Condition
  },
): Promise<{ y: Tensor; raw?: Float32Array; steps: Int32Array }> {
  checkTensor(x, 'x')
  core.denoiser.check(x.shape, 'x')
  const steps = await parseTimesteps(t, x.shape[0], core.numTimesteps)
  const binding = await x.binding(core.device)
  // A function sees x as a tensor on the device, as it does in a sampling loop.
  const state = ArrayBuffer.isView(binding) ? core.device.upload(binding) : binding
  try {
    const learned = core.settings.varianceType !== 'fixed'
    const raw = learned && o.noise === 'none'
    const kind = {
      shape: x.shape,
      clip: o.clipDenoised,
      noise: o.noise,
      x0: false,
      learned,
      raw,
      condition: kindOf(o.condition),
    }
    const program = await stepProgram(core, kind)
    const denoiser = await denoiserBindings(core, { x: state, t: steps, shape: x.shape, condition: o.condition })
    const table = o.temperature === undefined ? posteriorTableOf(core) : temperedTable(core, o.temperature)
    const variance = learned && !raw && { variance: varianceTableOf(core) }
    const out = await program.run({ x: state, t: steps, row: steps, table, ...variance, ...o.extra, ...denoiser })
    return { y: Tensor.wrap(out.y, x.shape), raw: out.raw, steps }
  } finally {
    if (state !== binding) state.release()
  }
}
