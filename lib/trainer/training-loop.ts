/** The loop of a diffusion model's training. */
import path from 'node:path'
import type { ImageBatch, TrainingData } from '../data/training-data'
import type { DDPM } from '../diffusion/models/ddpm'
import { LatentDiffusion } from '../diffusion/models/latent-diffusion'
import type { TrainingState } from '../diffusion/training/training-step'
import { Purpose, words } from '../rng'
import { Tensor } from '../tensor'
import {
  type Checkpoint,
  openCheckpoint,
  type RunState,
  readTrainingState,
  saveCheckpoint,
  saveState,
} from '../train/checkpoint'
import { learningRate } from '../train/lr-schedule'
import { type StepMetrics, scalarsOf } from '../train/metrics'
import { saveModel } from '../train/model-file'
import type { ResolvedTrainOptions } from '../train/options'
import type { Scalars } from '../train/scalars'
import type { Fid } from './fid'
import { heldOutLossesOf } from './held-out-losses'
import type { RunResult } from './hooks'
import type { Pictures } from './journal'
import { trainedLabels } from './labels'
import { drawPictures } from './pictures'
import { type OpenRun, RunLoop } from './run-loop'

/** What a training works with. */
export interface Opened extends OpenRun<ResolvedTrainOptions, StepMetrics> {
  readonly fid: Fid | undefined
  readonly ddpm: DDPM
}

export class TrainingLoop extends RunLoop<ResolvedTrainOptions, StepMetrics> {
  readonly #ddpm: DDPM
  readonly #fid: Fid | undefined
  readonly #labelOf: ReturnType<typeof trainedLabels>

  constructor({ ddpm, fid, ...opened }: Opened, from: Checkpoint | undefined) {
    super(opened, from)
    this.#ddpm = ddpm
    this.#fid = fid
    this.#labelOf = trainedLabels(ddpm, opened.data)
  }

  protected override async gather(needs: boolean): Promise<void> {
    const { options, ranks } = this.o
    if (options.shardOptimizer && (await ranks.any(needs))) await this.#ddpm.gatherShards()
  }

  protected scalarsOf(metrics: StepMetrics): Scalars {
    return scalarsOf(metrics)
  }

  protected warnings(): readonly string[] {
    return this.#ddpm.warnings()
  }

  protected override get samplesEvery(): number | undefined {
    return this.#fid && this.o.options.fidEvery
  }

  protected override sampleScalars(): Promise<Scalars> {
    return this.#fid!.evaluate(this.#ddpm, this.done, this.o)
  }

  protected losses(heldOut: TrainingData): Promise<Scalars> {
    const { options, hooks, ranks } = this.o
    const { batchSize, seed, validationCount: limit } = options
    return heldOutLossesOf(ranks, this.#ddpm, heldOut, { limit, batchSize, seed, signal: hooks.signal })
  }

  protected async takeStep(step: number, batches: readonly ImageBatch[], start: number): Promise<StepMetrics> {
    const { options, ranks } = this.o
    const { batchSize, accumulate } = options
    const { own, first } = ranks.share(accumulate)
    const lr = learningRate(step, options)
    const losses: number[] = []
    let gradNorm: number | null = null
    let lossScale: number | undefined
    for (const [i, { images, shape, labels, augmentation, captions }] of batches.entries()) {
      using x = Tensor.wrap(images, shape)
      const names = step * accumulate + first + i
      const result = await this.#ddpm.trainBatch(x, {
        ...this.#told(captions, names),
        y: this.#labelOf(shape[0], labels),
        vector: augmentation && Tensor.wrap(augmentation, [shape[0], augmentation.length / shape[0]]),
        step: names, // of the noise, so each batch must have its own
        update: i === own - 1,
        accumulate: own,
        lr,
      })
      losses.push(result.loss, result.lossDict['train/loss_simple'], result.lossDict['train/loss_vlb'])
      gradNorm = result.gradNorm ?? null
      lossScale = result.lossScale
    }
    const all = await ranks.inOrder(losses)
    const mean = (which: number) => all.reduce((sum, loss, i) => (i % 3 === which ? sum + loss / accumulate : sum), 0)
    const seconds = (performance.now() - start) / 1000
    return {
      step: step + 1,
      loss: mean(0),
      loss_simple: mean(1),
      loss_vlb: mean(2),
      gradNorm,
      ...(lossScale !== undefined && { lossScale }),
      lr,
      imagesPerSecond: (batchSize * accumulate) / seconds,
      time: new Date().toISOString(),
    }
  }

  /** The captions of a model that has them, some of them empty: as the second word of each image's stream says, see withDropout. */
  #told(captions: readonly string[] | undefined, step: number): { xc?: readonly string[] } {
    const { captionDropout = 0, seed } = this.o.options
    if (!captions || !(this.#ddpm instanceof LatentDiffusion) || !this.#ddpm.conditioningKey) return {}
    const isDropped = (i: number) => words(seed, Purpose.timesteps, i, step, 2)[1] < captionDropout * 2 ** 32
    return { xc: captions.map((caption, i) => (isDropped(i) ? '' : caption)) }
  }

  /** Sampling changes nothing in the training. */
  protected drawPictures(): Promise<Pictures> {
    const { data, options, hooks } = this.o
    return drawPictures(this.#ddpm, data, options, hooks.signal)
  }

  protected async export(run: string, best: RunResult['best'], metrics: StepMetrics | undefined): Promise<string> {
    const { options } = this.o
    const ddpm = this.#ddpm
    const file = path.join(run, 'model.safetensors')
    if (best) await ddpm.loadTrainingState(await readTrainingState(await openCheckpoint(best.checkpoint)))
    if (ddpm instanceof LatentDiffusion) {
      await ddpm.savePretrained(path.join(run, 'model'))
      return path.join(run, 'model')
    }
    const own = best ? { step: best.step, [String(options.monitor)]: best.value } : { loss: metrics?.loss }
    if (options.model.lora) await ddpm.saveLora(path.join(path.dirname(file), 'lora.safetensors'))
    const { freeze: _, lora, ...config } = options.model
    using merged = lora ? await ddpm.merged() : undefined
    await saveModel(file, merged ?? ddpm, { config, training: { ...this.#summary(), ...own } })
    return file
  }

  protected async write(run: string): Promise<string> {
    const training = await this.#ddpm.trainingState()
    return saveCheckpoint(run, this.#state(run, training), training, this.saving)
  }

  protected async rewriteState(run: string, folder: string): Promise<void> {
    const { draws, emaUpdates, optimizerStep, lossScale } = (await openCheckpoint(folder)).state
    await saveState(run, this.#state(run, { draws, emaUpdates, optimizerStep, lossScale }))
  }

  /** `of`: the model's own counters. */
  #state(out: string, of: Pick<TrainingState, 'optimizerStep' | 'emaUpdates' | 'draws' | 'lossScale'>): RunState {
    const { options } = this.o
    const { identity: extractor } = this.#fid?.extractor ?? {}
    const { step, samples, time, ...others } = this.state
    return {
      format: 'ddpm-native checkpoint',
      version: 1,
      step,
      samples,
      optimizerStep: of.optimizerStep,
      emaUpdates: of.emaUpdates,
      draws: of.draws ?? 0,
      ...(of.lossScale && { lossScale: of.lossScale }),
      ...others,
      ...(extractor !== undefined && { extractor }),
      options: { ...options, out, ...withoutObjects(options) },
      time,
    }
  }

  #summary(): Record<string, unknown> {
    const { data, options } = this.o
    const { batchSize, accumulate, lr, scaleLr, warmup, lrSchedule, seed, flip, augment } = options
    const own = { batchSize, accumulate, lr, scaleLr, warmup, lrSchedule, seed, flip, augment }
    return { step: this.done, images: data.length, ...own }
  }
}

/** An object of the caller's is no option that could be saved: a resume is given it again. */
function withoutObjects({ data, validation, inception }: ResolvedTrainOptions) {
  const saved = <T>(value: T) => (typeof value === 'object' ? '' : (value as Exclude<T, object>))
  return { data: saved(data), validation: saved(validation), inception: saved(inception) }
}
