/** The timesteps that k-diffusion and diffusers' schedulers after it take. */
import { invalidArgument } from '../../errors'
import { evenly, type TimestepSpacing, trailingTimesteps } from '../process/schedule'

/** Descending; with 'linspace' they may lie between whole ones. Throws `invalid-argument` for more than there are. */
export function floatTimesteps(steps: number, numTimesteps: number, spacing: TimestepSpacing, offset = 0): number[] {
  const timesteps = {
    linspace: () => evenly(steps, numTimesteps - 1).reverse(),
    leading: () => Array.from({ length: steps }, (_, i) => (steps - 1 - i) * Math.floor(numTimesteps / steps) + offset),
    trailing: () => trailingTimesteps(steps, numTimesteps),
  }[spacing]()
  if (timesteps[0] < numTimesteps) return timesteps
  throw invalidArgument('steps_offset', 'timesteps within the schedule', offset)
}
