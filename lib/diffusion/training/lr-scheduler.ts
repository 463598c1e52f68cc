/**
 * ddpm.py's scheduler_config: what the learning rate is multiplied by in each update, by the classes of CompVis' ldm/lr_scheduler.py,
 * which its configure_optimizers gives to torch's LambdaLR.
 */
import { isObject, type JsonObject } from '../../checkpoint/json'
import { DiffusionError, describe, invalidArgument } from '../../errors'
import { array, integer, number, parseOptions, required, unknownOption } from '../../options'

/** As in a YAML file of latent-diffusion. */
export interface LrSchedulerConfig {
  /** The Python class: 'ldm.lr_scheduler.LambdaLinearScheduler', or its name alone. */
  target: string
  /** Its arguments, by their Python names. */
  params: Readonly<Record<string, unknown>>
}

/** The factor of update n, counted from 0; defined up to `last`. */
interface Factor {
  readonly at: (n: number) => number
  readonly last: number
}

const steps = required(integer(undefined, { min: 0 }))
const factor = required(number())
const list = required(array(number()))
/** How often the class prints its state; here the rates are among the metrics. */
const verbosity_interval = integer(0)

interface Cycle {
  readonly warmUp: number
  readonly start: number
  readonly max: number
  readonly min: number
  readonly length: number
}

/** From start to max in `warmUp` steps. */
function rising(n: number, { warmUp, start, max }: Cycle): number {
  return ((max - start) / warmUp) * n + start
}

/** From max to min by half a cosine, in what is left of the cycle after the warm-up (Loshchilov & Hutter 2017, eq. 5). */
function cosine(n: number, cycle: Cycle): number {
  if (n < cycle.warmUp) return rising(n, cycle)
  const t = Math.min(1, (n - cycle.warmUp) / (cycle.length - cycle.warmUp))
  return cycle.min + 0.5 * (cycle.max - cycle.min) * (1 + Math.cos(t * Math.PI))
}

/** A line that would be at max at the cycle's beginning and is at min at its end: after the warm-up it begins below max, as there. */
function linear(n: number, cycle: Cycle): number {
  if (n < cycle.warmUp) return rising(n, cycle)
  return cycle.min + ((cycle.max - cycle.min) * (cycle.length - n)) / cycle.length
}

const cycleSchema = {
  warm_up_steps: list,
  f_min: list,
  f_max: list,
  f_start: list,
  cycle_lengths: list,
  verbosity_interval,
}

/** One after another. The last update of a cycle is one after its length, as in find_in_interval. */
function cycles(owner: string, params: unknown, curve: (n: number, cycle: Cycle) => number): Factor {
  const p = parseOptions(owner, params, cycleSchema)
  const lists = [p.warm_up_steps, p.f_min, p.f_max, p.f_start, p.cycle_lengths]
  const count = p.cycle_lengths.length
  if (count === 0 || lists.some(({ length }) => length !== count)) {
    throw invalidArgument('params', 'lists of one length, an entry for each cycle', params)
  }
  const ends: number[] = []
  const all = p.cycle_lengths.map((length, i) => {
    const warmUp = p.warm_up_steps[i]
    for (const [name, value] of Object.entries({ warm_up_steps: warmUp, cycle_lengths: length })) {
      if (!Number.isSafeInteger(value) || value < 0) throw invalidArgument(name, 'integers of at least 0', value)
    }
    if (length <= warmUp && curve === cosine) throw invalidArgument('cycle_lengths', 'more than warm_up_steps', length)
    if (length < 1) throw invalidArgument('cycle_lengths', 'at least 1', length)
    ends.push((ends.at(-1) ?? 0) + length)
    return { warmUp, start: p.f_start[i], max: p.f_max[i], min: p.f_min[i], length }
  })
  const last = ends[count - 1]
  const at = (n: number) => {
    const i = ends.findIndex((end) => n <= end)
    return curve(n - (ends[i - 1] ?? 0), all[i])
  }
  return { at, last }
}

const warmUpCosineSchema = {
  warm_up_steps: steps,
  lr_min: factor,
  lr_max: factor,
  lr_start: factor,
  max_decay_steps: steps,
  verbosity_interval,
}

/** By the name of the class. */
const classes: Readonly<Record<string, (owner: string, params: unknown) => Factor>> = {
  LambdaWarmUpCosineScheduler: (owner, params) => {
    const p = parseOptions(owner, params, warmUpCosineSchema)
    const length = p.max_decay_steps
    if (length <= p.warm_up_steps) throw invalidArgument('max_decay_steps', 'more than warm_up_steps', length)
    const cycle = { warmUp: p.warm_up_steps, start: p.lr_start, max: p.lr_max, min: p.lr_min, length }
    return { at: (n) => cosine(n, cycle), last: Number.POSITIVE_INFINITY }
  },
  LambdaWarmUpCosineScheduler2: (owner, params) => cycles(owner, params, cosine),
  LambdaLinearScheduler: (owner, params) => cycles(owner, params, linear),
}

/**
 * Throws `unsupported` for another class, `unknown-option` and `invalid-argument` for arguments that it does not have or take.
 * `argument`: what the configuration is called where it was given.
 */
export function lrFactor(config: LrSchedulerConfig, argument = 'lrSchedule'): Factor {
  if (!isObject(config)) throw invalidArgument(argument, '{ target, params }', config)
  const { target, params, ...others } = config as unknown as JsonObject
  const [extra] = Object.keys(others)
  if (extra !== undefined) throw unknownOption(argument, extra, ['target', 'params'])
  const name = typeof target === 'string' ? target.replace(/^ldm\.lr_scheduler\./, '') : ''
  if (Object.hasOwn(classes, name)) return classes[name](name, params)
  const known = Object.keys(classes).map((own) => `ldm.lr_scheduler.${own}`)
  const message = `${argument}.target: only ${known.join(', ')} are supported, got ${describe(target)}`
  throw new DiffusionError('unsupported', message, { argument, expected: known.join(', '), received: describe(target) })
}

/** The factor of update n. Throws `invalid-argument` behind the last cycle, where the Python class has none, either. */
export function lrFactorAt(config: LrSchedulerConfig, n: number, argument = 'lrSchedule'): number {
  const { at, last } = lrFactor(config, argument)
  if (n <= last) return at(n)
  throw invalidArgument(argument, `cycles for ${n + 1} updates or more; these end with update ${last + 1}`, config)
}
