/** The numbers that a training logs. */

export type Scalars = Readonly<Record<string, number>>

/** The names of a loss by quarter of the timesteps. */
export const quarters: Readonly<Record<string, readonly string[]>> = {
  'val/loss': [0, 1, 2, 3].map((q) => `val/loss_q${q}`),
  'val/loss_ema': [0, 1, 2, 3].map((q) => `val/loss_q${q}_ema`),
}

/** Of validation, as ddpm.py's validation_step. */
export const heldOutScalars: readonly string[] = [
  ...['val/loss_simple', 'val/loss_vlb', 'val/loss'].flatMap((name) => [name, `${name}_ema`]),
  ...Object.values(quarters).flat(),
]

/** Of samples. */
export const fidScalar = 'fid'

/** What only an evaluation tells. */
export function isEvaluated(name: string): boolean {
  return name === fidScalar || name.startsWith('val/')
}

/** Of training: what can be monitored. The smaller the better, as of the others. */
export const trainScalars: readonly string[] = ['train/loss', 'train/loss_simple', 'train/loss_vlb', 'train/grad_norm']
