/** The timesteps that k-diffusion and diffusers' schedulers after it take. */
import { invalidArgument } from '../../errors'
import { roundToEven, type TimestepSpacing } from '../schedule'

/** Descending; with 'linspace' they may lie between whole ones. Throws `invalid-argument` for more than there are. */
export function floatTimesteps(steps: number, numTimesteps: number, spacing: TimestepSpacing, offset = 0): number[] {
  const spread = (at: (i: number) => number) => Array.from({ length: steps }, (_, i) => at(steps - 1 - i))
  const timesteps = {
    linspace: () => spread((i) => (steps === 1 ? 0 : (i * (numTimesteps - 1)) / (steps - 1))),
    leading: () => spread((i) => i * Math.floor(numTimesteps / steps) + offset),
    trailing: () => spread((i) => roundToEven(((i + 1) * numTimesteps) / steps) - 1),
  }[spacing]()
  if (timesteps[0] < numTimesteps) return timesteps
  throw invalidArgument('steps_offset', 'timesteps within the schedule', offset)
}
