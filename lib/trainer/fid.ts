/** FID in a training: of samples of the averaged weights, with the images that are trained on. */
import type { TrainingData } from '../data/training-data'
import type { DeviceName } from '../device'
import type { DDPM } from '../diffusion/models/ddpm'
import { DiffusionError } from '../errors'
import type { FeatureExtractor } from '../evaluate/feature-extractor'
import { openInception } from '../evaluate/open-inception'
import { dataStatistics } from '../evaluate/reference'
import type { ImageStatistics } from '../evaluate/statistics'
import type { ResolvedTrainOptions } from '../train/options'
import { fidScalar, type Scalars } from '../train/scalars'
import { type DrawnByRanks, evaluateTogether } from './evaluate-together'
import type { TrainHooks } from './hooks'
import { trainedLabels } from './labels'
import type { Ranks } from './ranks'

type FidHooks = Pick<TrainHooks, 'signal' | 'onProgress' | 'onWarning'>

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

  /**
   * The same samples, but for the weights, after any step, which all ranks draw and the leader compares. Changes nothing in the training.
   * Throws `aborted`.
   */
  async evaluate(
    ddpm: DDPM,
    step: number,
    { hooks, ranks }: { readonly hooks: FidHooks; readonly ranks: Ranks },
  ): Promise<Scalars> {
    const { extractor } = this
    const { signal, onProgress } = hooks
    const tell = (what: 'reference' | 'samples') => (at: { done: number; total: number }) =>
      onProgress?.({ step, what, done: at.done, total: at.total })
    await ranks.together(async () => {
      if (ranks.leads) await this.#refer(hooks, tell('reference'))
    })
    const { fid } = await ddpm.emaScope(() =>
      evaluateTogether(ranks, this.#samples(ddpm, signal), {
        ...{ extractor, reference: this.#reference, signal },
        onProgress: ({ phase, done, total }) => (phase === 'samples' ? tell(phase)({ done, total }) : undefined),
      }),
    )
    return { [fidScalar]: fid! }
  }

  async #refer(
    { signal, onWarning }: FidHooks,
    onProgress: (at: { done: number; total: number }) => unknown,
  ): Promise<void> {
    const { extractor, data } = this
    const { batchSize, fidCount, data: path } = this.options
    this.#reference ??= await dataStatistics(
      data,
      {
        ...{ extractor, batchSize, signal, onProgress, onWarning: (warning) => onWarning?.(warning) },
        ...(data.length === 0 && { limit: fidCount }),
      },
      typeof path === 'string' ? path : undefined,
    )
  }

  /** Of a class-conditional model, samples of the images' classes, so that there are as many of each. */
  #samples(ddpm: DDPM, signal: AbortSignal | undefined): DrawnByRanks {
    const { data, options } = this
    const { fidCount: count, fidSteps, batchSize, seed } = options
    const steps = Math.min(fidSteps, ddpm.numTimesteps)
    const labelOf = ddpm.network?.numClasses === undefined ? undefined : trainedLabels(ddpm, data)
    const draw = async (index: number) => {
      const first = index * batchSize
      const n = Math.min(batchSize, count - first)
      const classLabels = labelOf?.(n, (await data.batch(first, n)).labels)
      return ddpm.sample({ steps, seed, signal, classLabels, batchSize: n, sampleOffset: first })
    }
    return { count, batchSize, draw }
  }

  [Symbol.dispose](): void {
    if (this.owned) this.extractor.release()
  }
}
