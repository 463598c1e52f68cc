/** One step from x_t to x_{t-1} as one program: denoiser, posterior mean and noise together. */
import { invalidArgument } from '../../errors'
import type { Graph, Value } from '../../graph'
import type { Seed } from '../../options'
import type { Program } from '../../program'
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
import { droppedNoise } from './noise-dropout'
import { nextPlace, type PreparedKind } from './prepared'
import { checkCodebook, quantizedStep, quantizedTables } from './quantized-step'
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
  /** What the network does not compute in the step: see prepared.ts. Default: it computes everything. */
  readonly prepared?: PreparedKind
  /** What the network is given and told is by row, too: betweenTimesteps. */
  readonly between?: boolean
  /** Of the tables. Default: tableRows. */
  readonly rows?: number
  /** What a multistep sampler adds to the fused step; see sampling/plan.ts. */
  readonly multistep?: Multistep
  /** Entries of the codebook that the prediction of x_0 is taken to: see quantized-step.ts. Default: it stays as it is. */
  readonly codes?: number
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
    if (kind.prepared) nextPlace(g, n, kind.prepared)
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
    prepared: kind.prepared?.told ?? '',
    threshold: kind.threshold ? JSON.stringify(kind.threshold) : '',
    codes: kind.codes ?? 0,
  }
  return core.networkProgram('step', key, build, kind.deterministic)
}

function stepNodes(
  g: Graph,
  core: Core,
  kind: StepKind,
  { x, row, t }: Record<'x' | 'row' | 't', Value>,
): Record<string, Value> {
  const { shape, clip, noise, x0, learned = false, raw, condition, guidance, multistep, codes, prepared } = kind
  const [n, , , d] = x.dims
  const rows = kind.rows ?? tableRows(core.numTimesteps)
  const table = g.input('table', [rows, 1, 1, rowLength])
  const by = kind.between ? { row, rows } : undefined
  const { prediction, variance } = guidedOutput(core, g, { x, t, shape, by, prepared }, { condition, guidance })
  const unclipped = () => g.posteriorStep(x, prediction, table, row, { clip: false }).x0
  const scale = kind.threshold && thresholdOf(g, unclipped(), kind.threshold)
  const given =
    noise === 'given' || noise === 'shared' ? g.input('noise', [noise === 'given' ? n : 1, 1, 1, d]) : undefined
  const draw = noise === 'drawn' ? noiseInputs(g, n) : undefined
  const posterior = (o: { noise?: Value; draw?: typeof draw }) => {
    if (!codes) return g.posteriorStep(x, prediction, table, row, { clip, scale, ...o })
    return quantizedStep(g, { x, out: prediction, table, row, rows, shape, codes }, { clip, scale, ...o })
  }
  const moved = (y: Value) =>
    guidance?.gradient === 'mean' ? movedMean(g, y, { row, rows, variance: variance ?? prediction }) : y
  if (learned && variance) {
    const { y: mean, x0: start } = posterior({})
    const y = moved(mean)
    const z = given ?? (draw && g.gaussianNoise(draw.rng, draw.sample, draw.step, { d, purpose: Purpose.posterior }))
    const noisy = z ? g.varianceNoise(y, variance, varianceInput(core, g, rows), row, z) : y
    return { y: noisy, ...(x0 && { x0: start }), ...(raw && { raw: variance }) }
  }
  const next = posterior({ noise: given, draw })
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

/** By timestep, with another multiple of the noise. */
function temperedTable(core: Core, temperature: number): Float32Array {
  if (temperature !== 1 && core.settings.varianceType !== 'fixed') {
    throw invalidArgument('temperature', '1 for a model whose variance is learned', temperature)
  }
  const table = posteriorTable(core.schedule, core.settings.parameterization)
  for (let at = noiseColumn; at < table.length; at += rowLength) table[at] *= temperature
  return table
}

/** Of a step at any timesteps. */
interface StepOptions {
  clipDenoised: boolean
  condition: Condition
  /** [codes, c]: the prediction of x_0 is taken to its nearest entries. Default: it stays as it is. */
  codebook?: Tensor
  /** Return the prediction of x_0, too. Default false. */
  returnX0?: boolean
}

/** ddpm.py's p_mean_variance. */
export async function pMeanVariance(core: Core, x: Tensor, t: Timesteps, o: StepOptions) {
  const { y: modelMean, x0, raw, steps } = await runStep(core, x, t, { ...o, noise: 'none', extra: {} })
  const own = { modelMean, ...(x0 && { x0 }) }
  if (raw) {
    const logVariance = learnedLogVariance(core, raw, steps)
    const wrap = (values: Float32Array) => Tensor.wrap(values, x.shape)
    return { ...own, posteriorVariance: wrap(logVariance.map(Math.exp)), posteriorLogVariance: wrap(logVariance) }
  }
  const { posteriorVariance, posteriorLogVarianceClipped } = posteriorVariances(core, steps, x.shape)
  return { ...own, posteriorVariance, posteriorLogVariance: posteriorLogVarianceClipped }
}

export interface PSampleOptions extends StepOptions {
  /** The same noise for all samples. */
  repeatNoise: boolean
  /** Of the noise. Default 1. */
  temperature?: number
  /** How much of the noise is dropped, from 0 to 1. Default 0. */
  noiseDropout?: number
  /** In place of drawn noise: of x's shape, or of one sample with `repeatNoise`. */
  noise?: Tensor
  seed: Seed
}

/** ddpm.py's p_sample. No noise is added where t is 0. */
export async function pSample(
  core: Core,
  x: Tensor,
  t: Timesteps,
  o: PSampleOptions,
): Promise<{ sample: Tensor; x0?: Tensor }> {
  checkTensor(x, 'x')
  const { n } = extentOf(x.shape, 'x')
  const { noiseDropout: p = 0, repeatNoise: repeat } = o
  if (o.noise) checkTensor(o.noise, 'noise', repeat ? [1, ...x.shape.slice(1)] : x.shape)
  const noise =
    p > 0 ? await droppedNoise(x.shape, { seed: o.seed, sampleOffset: 0, step: 0, p, repeat }, o.noise) : o.noise
  const shared = repeat && p === 0
  const extra = noise
    ? { noise: await noise.binding(core.device) }
    : noiseBindings(n, { seed: o.seed, sampleOffset: 0, step: 0 })
  if ('sample' in extra && repeat) extra.sample.fill(0)
  const kind = noise ? (shared ? 'shared' : 'given') : 'drawn'
  const { y: sample, x0 } = await runStep(core, x, t, { ...o, noise: kind, extra })
  return { sample, ...(x0 && { x0 }) }
}

async function runStep(
  core: Core,
  x: Tensor,
  t: Timesteps,
  o: StepOptions & {
    noise: StepKind['noise']
    extra: Parameters<Program['run']>[0]
    temperature?: number
  },
): Promise<{ y: Tensor; x0?: Tensor; raw?: Float32Array; steps: Int32Array }> {
  checkTensor(x, 'x')
  core.denoiser.check(x.shape, 'x')
  if (o.codebook) checkCodebook(o.codebook, x.shape)
  const steps = await parseTimesteps(t, x.shape[0], core.numTimesteps)
  const { temperature = 1, returnX0 = false } = o
  const tempered = temperature !== 1 || o.codebook ? temperedTable(core, temperature) : undefined
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
      x0: returnX0,
      learned,
      raw,
      condition: kindOf(o.condition),
      codes: o.codebook?.shape[0],
    }
    const program = await stepProgram(core, kind)
    const denoiser = await denoiserBindings(core, { x: state, t: steps, shape: x.shape, condition: o.condition })
    const tables = {
      table: tempered ?? posteriorTableOf(core),
      ...(learned && !raw && { variance: varianceTableOf(core) }),
      ...(o.codebook && { codebook: await o.codebook.binding(core.device), ...quantizedTables(tempered!) }),
    }
    const out = await program.run({ x: state, t: steps, row: steps, ...tables, ...o.extra, ...denoiser })
    const wrap = (values: Float32Array) => Tensor.wrap(values, x.shape)
    return { y: wrap(out.y), ...(returnX0 && { x0: wrap(out.x0) }), raw: out.raw, steps }
  } finally {
    if (state !== binding) state.release()
  }
}
