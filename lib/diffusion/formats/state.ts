/** The state_dict of ddpm.py's DDPM: schedule buffers, network, averages. */
import { DiffusionError, describe } from '../../errors'
import type { StateDict } from '../../nn/weights'
import { sameShape, Tensor } from '../../tensor'
import type { NetworkDenoiser } from '../process/denoiser'
import type { Schedule } from '../process/schedule'
import type { LitEma } from '../training/ema'

/** state_dict names of the schedule's buffers, in the order of register_schedule. lvlb_weights is not persistent. */
const bufferNames: Readonly<Record<string, keyof Schedule>> = {
  betas: 'betas',
  alphas_cumprod: 'alphasCumprod',
  alphas_cumprod_prev: 'alphasCumprodPrev',
  sqrt_alphas_cumprod: 'sqrtAlphasCumprod',
  sqrt_one_minus_alphas_cumprod: 'sqrtOneMinusAlphasCumprod',
  log_one_minus_alphas_cumprod: 'logOneMinusAlphasCumprod',
  sqrt_recip_alphas_cumprod: 'sqrtRecipAlphasCumprod',
  sqrt_recipm1_alphas_cumprod: 'sqrtRecipm1AlphasCumprod',
  posterior_variance: 'posteriorVariance',
  posterior_log_variance_clipped: 'posteriorLogVarianceClipped',
  posterior_mean_coef1: 'posteriorMeanCoef1',
  posterior_mean_coef2: 'posteriorMeanCoef2',
}

/** What ddpm.py makes after a ckpt_path was loaded: the schedule, and logvar. */
export const registeredNames = [...Object.keys(bufferNames), 'logvar']

export const modelPrefix = 'model.diffusion_model.'
const emaPrefix = 'model_ema.'
const emaDecay = 'model_ema.decay'
const emaUpdates = 'model_ema.num_updates'

/** LitEma's buffer of a parameter: its name within the wrapper without any dots. */
export function emaName(name: string): string {
  return `${emaPrefix}diffusion_model${name.replaceAll('.', '')}`
}

/** The parts of a model that have state. */
export interface Stateful {
  readonly schedule: Schedule
  /** Only where it is a parameter (learnLogvar). */
  readonly logvar?: Float32Array
  readonly network?: NetworkDenoiser
  readonly ema?: LitEma
}

export interface LoadReport {
  /** Names that the model has and the dict does not. */
  missing: string[]
  /** Names that the dict has and the model does not. */
  unexpected: string[]
}

export async function stateDict(model: Stateful): Promise<StateDict> {
  const dict: StateDict = {}
  for (const [name, key] of Object.entries(bufferNames)) dict[name] = Tensor.from(model.schedule[key])
  if (model.logvar) dict.logvar = Tensor.from(model.logvar)
  if (!model.network) return dict
  const { weights } = model.network
  const own = model.network.module.parameters
  const [trained, averaged] = await Promise.all([weights.read('weights'), model.ema && weights.read('ema')])
  for (const [name, tensor] of Object.entries(trained)) if (own.get(name)) dict[modelPrefix + name] = tensor
  if (model.ema && averaged) {
    dict[emaDecay] = Tensor.wrap(Float32Array.of(model.ema.decay), [])
    dict[emaUpdates] = Tensor.wrap(Int32Array.of(model.ema.numUpdates), [])
    for (const [name, tensor] of Object.entries(averaged)) if (own.get(name)) dict[emaName(name)] = tensor
  }
  return dict
}

/** What a dict says, sorted by where it goes. */
interface Sorted {
  readonly buffers: Map<keyof Schedule, Tensor>
  readonly weights: StateDict
  readonly averages: StateDict
  logvar?: Tensor
  decay?: Tensor
  numUpdates?: Tensor
}

/**
 * Everything is checked before anything is changed. Names may be ddpm.py's, or the bare names of the network, which then is
 * all that is loaded. Where a dict has weights but no averages, the averages start anew from the weights, as LitEma's do.
 * With `strict`, missing and unexpected names throw `state-mismatch`; a wrong shape always does.
 *
 * @returns the report, and the buffers to be used from now on
 */
export async function loadStateDict(
  model: Stateful,
  dict: StateDict,
  strict: boolean,
): Promise<LoadReport & { schedule?: Schedule; logvar?: Float32Array }> {
  const expected = expectedShapes(model)
  const bare = isBare(model, dict)
  const names = bare
    ? Object.fromEntries(Object.keys(dict).map((k) => [expected.has(k) ? k : modelPrefix + k, dict[k]]))
    : dict
  const wanted = !bare ? [...expected.keys()] : [...expected.keys()].filter((k) => k.startsWith(modelPrefix))
  const report = {
    missing: wanted.filter((name) => !(name in names)),
    unexpected: Object.keys(names).filter((name) => !expected.has(name)),
  }
  checkReport(report, names, expected, strict)
  const sorted = sortDict(model, names)
  return { ...report, ...(await apply(model, sorted)) }
}

/** Shapes by name, for everything in the model's state_dict. */
function expectedShapes(model: Stateful): Map<string, readonly number[]> {
  const timesteps = [model.schedule.betas.length]
  const shapes = new Map<string, readonly number[]>(Object.keys(bufferNames).map((name) => [name, timesteps]))
  if (model.logvar) shapes.set('logvar', timesteps)
  const slots = model.network?.module.parameters.slots ?? []
  for (const { name, shape } of slots) shapes.set(modelPrefix + name, shape)
  if (model.ema) {
    shapes.set(emaDecay, [])
    shapes.set(emaUpdates, [])
    for (const { name, shape } of slots) shapes.set(emaName(name), shape)
  }
  return shapes
}

function isBare(model: Stateful, dict: StateDict): boolean {
  const slots = new Set(model.network?.module.parameters.slots.map(({ name }) => name))
  return Object.keys(dict).some((name) => slots.has(name))
}

function checkReport(
  { missing, unexpected }: LoadReport,
  dict: StateDict,
  expected: Map<string, readonly number[]>,
  strict: boolean,
): void {
  const problems: string[] = []
  if (strict && missing.length > 0) problems.push(`missing: ${some(missing)}`)
  if (strict && unexpected.length > 0) problems.push(`unexpected: ${some(unexpected)}`)
  for (const [name, tensor] of Object.entries(dict)) {
    const shape = expected.get(name)
    if (!(tensor instanceof Tensor)) problems.push(`${name} is ${describe(tensor)}, not a Tensor`)
    else if (shape && !sameShape(shape, tensor.shape)) {
      problems.push(`${name}: expected shape [${shape.join(', ')}], got [${tensor.shape.join(', ')}]`)
    }
  }
  if (problems.length === 0) return
  throw new DiffusionError('state-mismatch', `the state dict does not fit the model; ${some(problems, '; ')}`, {
    argument: 'dict',
  })
}

function some(items: readonly string[], separator = ', '): string {
  const shown = items.slice(0, 5).join(separator)
  return items.length > 5 ? `${shown} and ${items.length - 5} more` : shown
}

function sortDict(model: Stateful, dict: StateDict): Sorted {
  const sorted: Sorted = { buffers: new Map(), weights: {}, averages: {} }
  for (const [name, key] of Object.entries(bufferNames)) if (dict[name]) sorted.buffers.set(key, dict[name])
  for (const { name } of model.network?.module.parameters.slots ?? []) {
    if (dict[modelPrefix + name]) sorted.weights[name] = dict[modelPrefix + name]
    if (model.ema && dict[emaName(name)]) sorted.averages[name] = dict[emaName(name)]
  }
  if (model.logvar) sorted.logvar = dict.logvar
  if (model.ema) [sorted.decay, sorted.numUpdates] = [dict[emaDecay], dict[emaUpdates]]
  return sorted
}

async function apply(model: Stateful, sorted: Sorted): Promise<{ schedule?: Schedule; logvar?: Float32Array }> {
  const schedule = { ...model.schedule }
  for (const [key, tensor] of sorted.buffers) schedule[key] = await tensor.data()
  const logvar = sorted.logvar ? await sorted.logvar.data() : model.logvar
  const { network, ema } = model
  const isGiven = (dict: StateDict) => Object.keys(dict).length > 0
  const hasWeights = isGiven(sorted.weights)
  const hasAverages = ema !== undefined && isGiven(sorted.averages)
  const dicts = [
    ...(hasWeights ? [['weights', sorted.weights] as const] : []),
    ...(hasAverages ? [['ema', sorted.averages] as const] : []),
  ]
  await network?.weights.writeAll(dicts, { strict: false })
  if (network && ema) {
    if (hasWeights && !hasAverages) {
      network.weights.copy('weights', 'ema')
      if (ema.numUpdates > 0) ema.numUpdates = 0
    }
    if (sorted.decay) ema.decay = (await sorted.decay.data())[0]
    if (sorted.numUpdates) ema.numUpdates = (await sorted.numUpdates.data())[0]
  }
  return { schedule: sorted.buffers.size > 0 ? schedule : undefined, logvar }
}
