/** A first stage's training run: images in, checkpoints, metrics, pictures and a folder of diffusers out. */
import path from 'node:path'
import { lossOptionsOf } from '../../autoencoder/options'
import { AutoencoderTraining } from '../../autoencoder/training'
import type { JsonObject } from '../../checkpoint/json'
import { openTrainingData } from '../../data/open-data'
import { Device, type DeviceName } from '../../device'
import { AutoencoderKL } from '../../stages/autoencoder-kl'
import { LPIPS } from '../../stages/lpips'
import { VQModel } from '../../stages/vq-model'
import {
  type AutoencoderCheckpoint,
  openAutoencoderCheckpoint,
  readAutoencoderTraining,
} from '../../train/autoencoder/checkpoint'
import type { AutoencoderTrainOptions, ResolvedAutoencoderTrainOptions } from '../../train/autoencoder/options'
import { resolveAutoencoderOptions } from '../../train/autoencoder/resolve-options'
import type { RunFolder } from '../../train/run-folder'
import { World } from '../../world'
import type { RunResult, TrainHooks, TrainStart } from '../hooks'
import { Journal } from '../journal'
import { nextPictureStep } from '../picture-steps'
import { inRunFolder, refuseOther, withAbsolutePaths } from '../places'
import { Ranks } from '../ranks'
import { checkpointToResume, factsOf, ofOneProcess } from '../together'
import { autoencoderOptionsFrom } from './from-config'
import { AutoencoderLoop, type AutoencoderStepMetrics } from './loop'

export interface AutoencoderTrainStart extends Omit<TrainStart, 'options'> {
  readonly options: ResolvedAutoencoderTrainOptions
}

/** See TrainHooks. */
export type AutoencoderTrainHooks = TrainHooks<AutoencoderTrainStart, AutoencoderStepMetrics>

/**
 * new AutoencoderTrainer({ data: 'photos', out: 'runs/vae', size: [64, 64] }).run()
 *
 * At the end `out` has a folder `vae` (with a codebook `vqvae`) of diffusers, with the averaged weights and the scaling factor that gives
 * latents a standard deviation of 1: AutoencoderKL.fromPretrained(out). A resumed run computes what an unstopped one would have, to the bit, on one backend
 * and machine.
 */
export class AutoencoderTrainer {
  readonly #given: AutoencoderTrainOptions

  /** Paths are those of now, wherever the working directory is later. Throws `unknown-option`, `invalid-argument` and `unsupported`. */
  constructor(options: AutoencoderTrainOptions) {
    const given = withAbsolutePaths(options)
    const perceptual = Array.isArray(given.perceptual) ? given.perceptual.map(absolute) : undefined
    this.#given = perceptual ? { ...given, perceptual } : given
    if (!options.resume || typeof options.out !== 'string') resolveAutoencoderOptions(options)
  }

  /**
   * A training as latent-diffusion's main.py makes it of an autoencoder's YAML file, or of what it holds: ddconfig, the loss and its
   * discriminator, base_learning_rate times the images of a step (scale_lr), scheduler_config, batch size, accumulation, no averages but
   * with use_ema or ema_decay. `options` come before them. `perceptual` names the files of the perceptual loss, or `perceptualWeight: 0` leaves it
   * out. Throws what the constructor throws, `not-found`, `io` and `bad-file`, and with the field's name `unknown-option`, `invalid-argument` and
   * `unsupported`.
   */
  static async fromConfig(source: string | JsonObject, options: AutoencoderTrainOptions): Promise<AutoencoderTrainer> {
    return new AutoencoderTrainer(await autoencoderOptionsFrom(source, options))
  }

  /**
   * Throws `busy` where another training uses the run folder, `io`, `not-found` and `bad-file` for files, `not-finite` when the loss
   * is no number any more, and what a hook throws. What was saved before stays; where the steps since then are whole, they are saved
   * before it throws.
   */
  async run(hooks: AutoencoderTrainHooks = {}): Promise<RunResult<AutoencoderStepMetrics>> {
    const ranks = new Ranks(World.of(this.#given.distributed, this.#given.device as DeviceName | undefined))
    try {
      if (ranks.leads) return await inRunFolder(this.#given.out, (folder) => this.#run(folder, hooks, ranks))
      return await this.#run(undefined, { signal: hooks.signal }, ranks)
    } catch (error) {
      ranks.world?.fail()
      throw error
    }
  }

  /** `folder`: of the process that leads. */
  async #run(
    folder: RunFolder | undefined,
    hooks: AutoencoderTrainHooks,
    ranks: Ranks,
  ): Promise<RunResult<AutoencoderStepMetrics>> {
    const checkpoint = await checkpointToResume(this.#given, ranks, openAutoencoderCheckpoint)
    const options = resolveAutoencoderOptions(ofOneProcess(this.#given, ranks, checkpoint), checkpoint?.state)
    ranks.share(options.accumulate)
    const { data, heldOut } = await openTrainingData(options.data, {
      size: options.size,
      channels: options.ddconfig.inChannels,
      background: options.background,
      svg: options.svg,
      flip: options.flip,
      flipVertical: options.flipVertical,
      crop: options.crop,
      cropScale: options.cropScale,
      range: options.range as readonly [number, number] | undefined,
      seed: options.seed,
      cacheBytes: options.cacheBytes,
      onUnreadable: hooks.onUnreadable,
      validation: options.validation,
    })
    if (checkpoint) {
      refuseOther(data, checkpoint.state.data, 'data')
      if (heldOut && checkpoint.state.heldOut) refuseOther(heldOut, checkpoint.state.heldOut, 'validation')
    }
    await ranks.compare(factsOf(options, { data, heldOut }))
    using stage = firstStage(options)
    const { perceptual, device } = options
    using lpips = perceptual && (await LPIPS.fromFiles(perceptual, { device: device as DeviceName }))
    using training = trainingOf(stage, options, lpips)
    if (checkpoint) await training.loadTrainingState(await readAutoencoderTraining(checkpoint))
    const start = startOf(training, { options, checkpoint, data, heldOut })
    await ranks.together(async () => hooks.onStart?.(start))
    using journal = folder && new Journal(folder, hooks, checkpoint?.state.step ?? 0)
    return await new AutoencoderLoop({ data, heldOut, options, hooks, journal, ranks }, training, checkpoint).run()
  }
}

/** What is no path is refused later. */
const absolute = (file: string) => (typeof file === 'string' ? path.resolve(file) : file)

function firstStage(o: ResolvedAutoencoderTrainOptions): AutoencoderKL | VQModel {
  const { ddconfig, embedDim, nEmbed, seed, memoryLimit, precision } = o
  const device = Device.open(o.device as DeviceName, { memoryLimit })
  const own = { ddconfig, embedDim, seed, device, precision }
  return nEmbed === undefined ? new AutoencoderKL(own) : new VQModel({ ...own, nEmbed })
}

function trainingOf(
  stage: AutoencoderKL | VQModel,
  o: ResolvedAutoencoderTrainOptions,
  perceptual: LPIPS | undefined,
): AutoencoderTraining {
  const { klWeight, seed, distributed } = o
  const training = new AutoencoderTraining(stage, { ...lossOptionsOf(o), klWeight, perceptual, seed, distributed })
  const { lr, optimizer, betas, eps, weightDecay, maxGradNorm } = o
  training.configureOptimizers({ lr, optimizer, betas, eps, weightDecay, maxGradNorm })
  return training
}

interface Found extends Pick<AutoencoderTrainStart, 'options'> {
  readonly checkpoint: AutoencoderCheckpoint | undefined
  readonly data: Awaited<ReturnType<typeof openTrainingData>>['data']
  readonly heldOut: Awaited<ReturnType<typeof openTrainingData>>['heldOut']
}

function startOf(training: AutoencoderTraining, { options, checkpoint, data, heldOut }: Found): AutoencoderTrainStart {
  const step = checkpoint?.state.step ?? 0
  const { validationCount } = options
  return {
    step,
    options,
    images: data.length,
    unreadable: data.unreadable,
    parameters: training.parameterCount,
    device: training.autoencoder.device.name,
    firstPicture: nextPictureStep(step, options),
    heldOut: heldOut && Math.min(heldOut.length || validationCount, validationCount),
    best: checkpoint?.state.monitor?.best,
  }
}
