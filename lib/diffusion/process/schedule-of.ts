/** The schedule that options ask for. */
import { invalidArgument } from '../../errors'
import type { ScheduleOptions } from './model-options'
import { type Parameterization, predictionOf } from './prediction'
import {
  checkBetas,
  defaultSchedule,
  makeBetaSchedule,
  makeSchedule,
  rescaleZeroTerminalSnr,
  type Schedule,
} from './schedule'

type ScheduleSettings = Required<Omit<ScheduleOptions, 'givenBetas' | 'betaSchedule'>> & ScheduleOptions
/** What a schedule depends on beside its own options. */
interface Settings {
  readonly parameterization: Parameterization
  readonly sigmaData?: number
  readonly vPosterior: number
}

/** Throws `invalid-argument`. */
export function scheduleOf(o: ScheduleSettings, settings: Settings): Schedule {
  const betas = betasOf(o, settings)
  const formulas = { vPosterior: settings.vPosterior, parameterization: predictionOf(settings) }
  if (!o.zeroTerminalSnr) return makeSchedule(betas, formulas)
  const name = o.givenBetas ? undefined : (o.betaSchedule ?? defaultSchedule(settings.parameterization))
  if (name === 'edm' || name === 'flow') {
    throw invalidArgument('zeroTerminalSnr', `false with betaSchedule '${name}'`, true)
  }
  if (!endsInNoise(settings.parameterization)) {
    throw invalidArgument(
      'zeroTerminalSnr',
      `false with parameterization '${settings.parameterization}', which has no x_0 at the end`,
      true,
    )
  }
  return makeSchedule(rescaleZeroTerminalSnr(betas), formulas)
}

/** Before they are rescaled to zero terminal SNR. */
export function betasOf(o: ScheduleSettings, { parameterization }: Settings): Float64Array {
  const ends = endsInNoise(parameterization)
  if (o.givenBetas) return checkBetas(o.givenBetas, 'givenBetas', ends)
  const { betaSchedule = defaultSchedule(parameterization) } = o
  if (betaSchedule === 'flow' && !ends) {
    throw invalidArgument(
      'betaSchedule',
      `another than 'flow' with parameterization '${parameterization}'`,
      betaSchedule,
    )
  }
  const argument = { edm: 'sigmaMin, sigmaMax', flow: 'flowShift' }[betaSchedule as string] ?? 'linearStart, linearEnd'
  return checkBetas(makeBetaSchedule(betaSchedule, o.timesteps, o), argument, betaSchedule === 'flow')
}

/** The output says something of the image where nothing of it is left. */
function endsInNoise(parameterization: Parameterization): boolean {
  return parameterization !== 'eps' && parameterization !== 'edm'
}
