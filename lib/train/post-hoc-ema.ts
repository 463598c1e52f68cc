/** Averages of a run's weights that were not kept, from those in its checkpoints. */
import path from 'node:path'
import { type EmaProfile, reconstruct, widestSigmaRel } from '../diffusion/training/power-ema'
import { DiffusionError, invalidArgument } from '../errors'
import type { StateDict } from '../nn/weights'
import { number, parseOptions, required, type SchemaOf } from '../options'
import { Tensor } from '../tensor'
import { listCheckpoints, openCheckpoint, powerEmaFile } from './checkpoint'
import { readStateDict } from './state-dict-file'

export interface PostHocEmaOptions {
  /** Standard deviation of the average's profile, as a part of the training: from 0.001 (the last steps) to 0.288. */
  sigmaRel: number
  /** The step at which the average ends. Default: that of the newest checkpoint. */
  step?: number
}

const schema = {
  sigmaRel: required(number(undefined, { min: 1e-3, max: widestSigmaRel })),
  step: number(undefined, { min: 1 }),
} satisfies SchemaOf<PostHocEmaOptions>

/**
 * The average with any `sigmaRel`, from the checkpoints of a run that was trained with `emaSigmaRels`, by the network's names: for
 * `ddpm.loadStateDict`. More checkpoints (`keep`) make it more exact. Karras et al. 2024, section 3.2. Throws `not-found`, `bad-file`,
 * `not-configured` for a run without such averages, and `invalid-argument` for a step beyond the newest checkpoint.
 */
export async function postHocEma(run: string, options: PostHocEmaOptions): Promise<StateDict> {
  const o = parseOptions('postHocEma', options, schema)
  const snapshots: (EmaProfile & { readonly file: string })[] = []
  for (const folder of await listCheckpoints(run)) {
    const { state } = await openCheckpoint(folder)
    for (const sigmaRel of (state.options.model.emaSigmaRels ?? []) as number[]) {
      snapshots.push({ step: state.optimizerStep, sigmaRel, file: path.join(folder, powerEmaFile(sigmaRel)) })
    }
  }
  if (snapshots.length === 0) {
    throw new DiffusionError('not-configured', `${run} has no averages by emaSigmaRels`, { argument: 'emaSigmaRels' })
  }
  const newest = Math.max(...snapshots.map(({ step }) => step))
  const { step = newest } = o
  if (step > newest) throw invalidArgument('step', `at most ${newest}, the newest checkpoint's`, step)
  const weights = reconstruct(snapshots, { step, sigmaRel: o.sigmaRel })
  const sums = new Map<string, { sum: Float64Array; shape: readonly number[] }>()
  for (const [i, { file }] of snapshots.entries()) {
    for (const [name, tensor] of Object.entries((await readStateDict(file)).dict)) {
      const values = await tensor.data()
      const { sum } = sums.get(name) ?? { sum: new Float64Array(values.length) }
      for (let k = 0; k < sum.length; k++) sum[k] += weights[i] * values[k]
      sums.set(name, { sum, shape: tensor.shape })
    }
  }
  return Object.fromEntries(
    [...sums].map(([name, { sum, shape }]) => [name, Tensor.wrap(Float32Array.from(sum), shape)]),
  )
}
