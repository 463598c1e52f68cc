/** Samples that all ranks draw, each some of the batches, and the one that leads compares. */
import { type EvaluateSamplesOptions, evaluateSamples, type SampleQuality } from '../evaluate/evaluate-samples'
import { type FeatureRows, featuresOf } from '../evaluate/feature-rows'
import type { Tensor } from '../tensor'
import type { Ranks } from './ranks'

export interface DrawnByRanks {
  /** Images in all. */
  readonly count: number
  /** Images in a batch. */
  readonly batchSize: number
  /** A batch, counted from 0: asked for in their order, of those that are this rank's. */
  draw(index: number): Promise<Tensor>
}

/** What evaluateSamples gives, on all ranks. The leader has the reference. Throws what that throws; an abort of one is one of all. */
export async function evaluateTogether(
  ranks: Ranks,
  { count, batchSize, draw }: DrawnByRanks,
  options: EvaluateSamplesOptions,
): Promise<SampleQuality> {
  const { extractor, signal } = options
  const rows = (): AsyncGenerator<FeatureRows> =>
    ranks.divided(Math.ceil(count / batchSize), async (index) => {
      using images = await draw(index)
      return featuresOf(images, extractor)
    })
  if (!ranks.leads) {
    for await (const _ of rows());
    return ranks.byLeader(() => Promise.reject())
  }
  let told: Promise<SampleQuality> | undefined
  const samples = {
    ...{ count, features: extractor.features, identity: extractor.identity },
    async *rows() {
      yield* rows()
      told = ranks.byLeader(() => compared) // the others wait for it
      told.catch(() => {}) // as `compared` does
    },
  }
  // Of several, the rounds end together.
  const compared = evaluateSamples(samples, { ...options, signal: ranks.world ? undefined : signal })
  await compared
  return told!
}
