/** The schedule that options ask for. */
import { invalidArgument } from '../errors'
import type { ScheduleOptions } from './model-options'
import { checkBetas, makeBetaSchedule, makeSchedule, rescaleZeroTerminalSnr, type Schedule } from './schedule'
import type { Settings } from './settings'

type ScheduleSettings = Required<Omit<ScheduleOptions, 'givenBetas'>> & ScheduleOptions

/** Throws `invalid-argument`. */
export function scheduleOf(o: ScheduleSettings, settings: Settings): Schedule {
  const betas = betasOf(o, settings)
  if (!o.zeroTerminalSnr) return makeSchedule(betas, settings)
  if (settings.parameterization === 'eps') {
    throw invalidArgument('zeroTerminalSnr', "false with parameterization 'eps', which has no x_0 at the end", true)
  }
  return makeSchedule(rescaleZeroTerminalSnr(betas), settings)
}

/** Before they are rescaled to zero terminal SNR. */
export function betasOf(o: ScheduleSettings, { parameterization }: Settings): Float64Array {
  return o.givenBetas
    ? checkBetas(o.givenBetas, 'givenBetas', parameterization !== 'eps')
    : checkBetas(makeBetaSchedule(o.betaSchedule, o.timesteps, o), 'linearStart, linearEnd')
}
