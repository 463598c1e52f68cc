/** The loop of a first stage's training. */
import path from 'node:path'
import type { AutoencoderTraining } from '../../autoencoder/training'
import type { ImageBatch, TrainingData } from '../../data/training-data'
import { DiffusionError } from '../../errors'
import { Tensor } from '../../tensor'
import {
  type AutoencoderCheckpoint,
  type AutoencoderRunState,
  countersOf,
  openAutoencoderCheckpoint,
  readAutoencoderTraining,
  saveAutoencoderCheckpoint,
  type TrainingCounters,
} from '../../train/autoencoder/checkpoint'
import type { ResolvedAutoencoderTrainOptions } from '../../train/autoencoder/options'
import { saveState } from '../../train/checkpoint-folder'
import { learningRate } from '../../train/lr-schedule'
import type { CommonMetrics } from '../../train/metrics'
import type { Scalars } from '../../train/scalars'
import type { RunResult } from '../hooks'
import type { Pictures } from '../journal'
import { type OpenRun, RunLoop } from '../run-loop'
import { drawReconstructions } from './pictures'
import { scaleFactor } from './scale-factor'

/** What a step reports; losses by upstream's names are means over the accumulated batches. */
export interface AutoencoderStepMetrics extends CommonMetrics {
  /** Mean distance of the images' numbers from their reconstructions'. */
  readonly rec_loss: number
  /** What upstream makes of it: for an AutoencoderKL the sum over a sample's numbers. */
  readonly nll_loss: number
  /** The posterior's divergence in nats a sample; without a codebook. */
  readonly kl_loss?: number
  /** The codebook's loss; with one. */
  readonly quant_loss?: number
  /** With a perceptual loss: the mean distance, which is in rec_loss by its weight. */
  readonly p_loss?: number
  /** From discStart on: the generator's adversarial loss, and what it counts for but for disc_factor. */
  readonly g_loss?: number
  readonly d_weight?: number
  readonly disc_factor?: number
  /** The discriminator's loss, and its mean logits of images and reconstructions. */
  readonly disc_loss?: number
  readonly logits_real?: number
  readonly logits_fake?: number
}

type Options = ResolvedAutoencoderTrainOptions

export class AutoencoderLoop extends RunLoop<Options, AutoencoderStepMetrics> {
  readonly #training: AutoencoderTraining

  constructor(
    opened: OpenRun<Options, AutoencoderStepMetrics>,
    training: AutoencoderTraining,
    from: AutoencoderCheckpoint | undefined,
  ) {
    super(opened, from)
    this.#training = training
  }

  protected scalarsOf({ step, time, loss, lr, gradNorm, imagesPerSecond, ...own }: AutoencoderStepMetrics): Scalars {
    const losses = Object.entries(own).map(([name, value]) => [`train/${name}`, value as number] as const)
    return {
      'train/total_loss': loss,
      ...Object.fromEntries(losses),
      ...(gradNorm !== null && { 'train/grad_norm': gradNorm }),
      lr_abs: lr,
      images_per_second: imagesPerSecond,
    }
  }

  protected warnings(): readonly string[] {
    return []
  }

  protected async takeStep(
    step: number,
    batches: readonly ImageBatch[],
    start: number,
  ): Promise<AutoencoderStepMetrics> {
    const { options, ranks } = this.o
    const { batchSize, accumulate } = options
    const { own, first } = ranks.share(accumulate)
    const lr = learningRate(step, options)
    const losses: Record<string, number>[] = []
    let gradNorm: number | null = null
    for (const [i, { images, shape }] of batches.entries()) {
      using x = Tensor.wrap(images, shape)
      const result = await this.#training.trainingStep(x, {
        step: step * accumulate + first + i, // names the noise, so each batch must have its own
        update: i === own - 1,
        accumulate: own,
        lr,
      })
      losses.push(result.log)
      gradNorm = result.gradNorm ?? null
    }
    const { total_loss: loss, logvar: _, ...means } = await this.#means(losses)
    const seconds = (performance.now() - start) / 1000
    return {
      step: step + 1,
      loss,
      ...(means as Pick<AutoencoderStepMetrics, 'rec_loss' | 'nll_loss'>),
      gradNorm,
      lr,
      imagesPerSecond: (batchSize * accumulate) / seconds,
      time: new Date().toISOString(),
    }
  }

  /** Of all batches of a step, of which these are this process'. */
  async #means(losses: readonly Readonly<Record<string, number>>[]): Promise<Record<string, number>> {
    const { ranks, options } = this.o
    const names = Object.keys(losses[0])
    const all = await ranks.inOrder(losses.flatMap((own) => names.map((name) => own[name])))
    const sums: Record<string, number> = {}
    for (const [i, value] of all.entries()) {
      const name = names[i % names.length].slice('train/'.length)
      sums[name] = (sums[name] ?? 0) + value / options.accumulate
    }
    return sums
  }

  /** Of the plain and the averaged weights, with the same noise every time. */
  protected async losses(heldOut: TrainingData): Promise<Scalars> {
    const { options, hooks, ranks } = this.o
    const { batchSize, validationCount, useEma } = options
    const images = Math.min(heldOut.length || validationCount, validationCount)
    const sizeOf = (index: number) => Math.min(batchSize, images - index * batchSize)
    const lossesOf = async (index: number) => {
      const first = index * batchSize
      const batch = await heldOut.batch(first, sizeOf(index))
      using x = Tensor.wrap(batch.images, batch.shape)
      const all: Readonly<Record<string, number>>[] = []
      for (const ema of useEma ? [false, true] : [false]) {
        if (hooks.signal?.aborted) {
          throw new DiffusionError('aborted', 'the evaluation was aborted', { cause: hooks.signal.reason })
        }
        all.push(await this.#training.validationStep(x, { ema, sampleOffset: first }))
      }
      return all
    }
    const sums: Record<string, number> = {}
    let index = 0
    for await (const all of ranks.divided(Math.ceil(images / batchSize), lossesOf)) {
      const n = sizeOf(index++)
      for (const losses of all)
        for (const [name, loss] of Object.entries(losses)) sums[name] = (sums[name] ?? 0) + (loss * n) / images
    }
    return sums
  }

  protected async drawPictures(): Promise<Pictures> {
    const { data, options } = this.o
    return drawReconstructions(this.#training, data, options)
  }

  /** A folder of diffusers: `vae`, or `vqvae` with a codebook. */
  protected async export(run: string, best: RunResult['best']): Promise<string> {
    const { data, options } = this.o
    if (best) {
      const checkpoint = await openAutoencoderCheckpoint(best.checkpoint)
      await this.#training.loadTrainingState(await readAutoencoderTraining(checkpoint))
    }
    using stage = await this.#training.averaged()
    using scaled = await this.#training.averaged(await scaleFactor(stage, data, options))
    const folder = path.join(run, options.nEmbed === undefined ? 'vae' : 'vqvae')
    await scaled.savePretrained(folder)
    return folder
  }

  protected async write(run: string): Promise<string> {
    const training = await this.#training.trainingState()
    const state = this.#state(run, countersOf(training))
    return saveAutoencoderCheckpoint(run, state, training, this.saving)
  }

  protected async rewriteState(run: string, folder: string): Promise<void> {
    const { autoencoder, discriminator } = (await openAutoencoderCheckpoint(folder)).state
    await saveState(run, this.#state(run, { autoencoder, ...(discriminator && { discriminator }) }))
  }

  #state(out: string, counters: TrainingCounters): AutoencoderRunState {
    const { options } = this.o
    // An object of the caller's is no option that could be saved: a resume is given it again.
    const saved = <T>(value: T) => (typeof value === 'object' ? '' : (value as Exclude<T, object>))
    const paths = { out, data: saved(options.data), validation: saved(options.validation) }
    return {
      format: 'ddpm-native autoencoder checkpoint',
      version: 1,
      ...counters,
      ...this.state,
      options: { ...options, ...paths },
    }
  }
}
