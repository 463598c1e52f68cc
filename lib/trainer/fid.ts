/** FID in a training: of samples of the averaged weights, with the images that are trained on. */
import type { TrainingData } from '../data/training-data'
import type { DeviceName } from '../device'
import type { DDPM } from '../diffusion/models/ddpm'
import { DiffusionError } from '../errors'
import { evaluateSamples } from '../evaluate/evaluate-samples'
import type { FeatureExtractor } from '../evaluate/feature-extractor'
import { type ImageSet, samplesOf } from '../evaluate/images'
import { openInception } from '../evaluate/open-inception'
import { dataStatistics } from '../evaluate/reference'
import type { ImageStatistics } from '../evaluate/statistics'
import type { ResolvedTrainOptions } from '../train/options'
import { fidScalar, type Scalars } from '../train/scalars'
import type { TrainHooks } from './hooks'
import { trainedLabels } from './labels'

export class Fid {
  #reference: ImageStatistics | undefined

  private constructor(
    readonly extractor: FeatureExtractor,
    /** Whether it is the training's to release. */
    readonly owned: boolean,
    readonly data: TrainingData,
    readonly options: ResolvedTrainOptions,
  ) {}

  /**
   * `before`: the identity of the extractor that the resumed run was evaluated by. Throws what openInception throws, and
   * `invalid-argument` for another extractor.
   */
  static async open(
    ddpm: DDPM,
    options: ResolvedTrainOptions,
    o: { readonly data: () => Promise<TrainingData>; readonly before: string | undefined },
  ): Promise<Fid | undefined> {
    const { inception, fidEvery } = options
    if (fidEvery === undefined) return undefined
    const owned = typeof inception !== 'object'
    const extractor = owned ? await openInception(inception, { device: ddpm.device.name as DeviceName }) : inception
    try {
      if (o.before !== undefined && extractor.identity !== undefined && o.before !== extractor.identity) {
        const problem =
          'inception has other weights than those that this run was evaluated by: its FIDs could not be compared'
        throw new DiffusionError('invalid-argument', problem, { argument: 'inception' })
      }
      return new Fid(extractor, owned, await o.data(), options)
    } catch (error) {
      if (owned) extractor.release()
      throw error
    }
  }

  /** The same samples, but for the weights, after any step. Changes nothing in the training. Throws `aborted`. */
  async evaluate(ddpm: DDPM, step: number, { signal, onProgress, onWarning }: TrainHooks): Promise<Scalars> {
    const { extractor, data } = this
    const { batchSize, fidCount, data: path } = this.options
    const tell = (what: 'reference' | 'samples') => (at: { done: number; total: number }) =>
      onProgress?.({ step, what, done: at.done, total: at.total })
    this.#reference ??= await dataStatistics(
      data,
      {
        ...{
          extractor,
          batchSize,
          signal,
          onProgress: tell('reference'),
          onWarning: (warning) => onWarning?.(warning),
        },
        ...(data.length === 0 && { limit: fidCount }),
      },
      typeof path === 'string' ? path : undefined,
    )
    const reference = this.#reference
    const { fid } = await ddpm.emaScope(() =>
      evaluateSamples(this.#samples(ddpm, signal), {
        ...{ extractor, reference, signal },
        onProgress: ({ phase, done, total }) => (phase === 'samples' ? tell(phase)({ done, total }) : undefined),
      }),
    )
    return { [fidScalar]: fid! }
  }

  /** Of a class-conditional model, samples of the images' classes, so that there are as many of each. */
  #samples(ddpm: DDPM, signal: AbortSignal | undefined): ImageSet {
    const { data, options } = this
    const { fidCount: count, fidSteps, batchSize, seed } = options
    const steps = Math.min(fidSteps, ddpm.numTimesteps)
    const own = { steps, seed, batchSize, signal }
    if (ddpm.network?.numClasses === undefined) return samplesOf(ddpm, { ...own, count })
    const labelOf = trainedLabels(ddpm, data)
    return {
      count,
      async *batches() {
        for (let first = 0; first < count; first += batchSize) {
          const n = Math.min(batchSize, count - first)
          const { labels } = await data.batch(first, n)
          const classLabels = labelOf(n, labels)
          yield await ddpm.sample({ ...own, batchSize: n, classLabels, sampleOffset: first })
        }
      },
    }
  }

  [Symbol.dispose](): void {
    if (this.owned) this.extractor.release()
  }
}
