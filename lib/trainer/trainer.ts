/** A training run: images in, checkpoints, metrics and pictures out. */
import type { JsonObject } from '../checkpoint/json'
import type { DatasetOptions } from '../data/dataset'
import { openTrainedImages, openTrainingData } from '../data/open-data'
import type { DeviceName } from '../device'
import { DDPM } from '../diffusion/models/ddpm'
import { LatentDiffusion } from '../diffusion/models/latent-diffusion'
import type { DDPMOptions } from '../diffusion/options/ddpm-options'
import { openCheckpoint, readTrainingState } from '../train/checkpoint'
import { imagesOf } from '../train/network-options'
import type { TrainOptions } from '../train/options'
import { resolveTrainOptions, withClasses } from '../train/resolve-options'
import type { RunFolder } from '../train/run-folder'
import { World } from '../world'
import { Fid } from './fid'
import { trainOptionsFrom } from './from-config'
import type { RunResult, TrainHooks } from './hooks'
import { Journal } from './journal'
import { openLatentData, plainOptions } from './latents/latent-data'
import { openLatentTraining } from './latents/latent-model'
import { nextPictureStep } from './picture-steps'
import { inRunFolder, refuseOther, withAbsolutePaths } from './places'
import { Ranks } from './ranks'
import { openStart, startConfig, takeOver, withMoreClasses } from './start-from'
import { checkpointToResume, factsOf, ofOneProcess } from './together'
import { TrainingLoop } from './training-loop'

/**
 * new Trainer({ data: 'photos', out: 'runs/photos' }).run()
 *
 * A resumed run computes what an unstopped one would have, to the bit, on one backend and machine. Only one training at a time
 * may use a run folder.
 */
export class Trainer {
  readonly #given: TrainOptions

  /** Paths are those of now, wherever the working directory is later. Throws `unknown-option` and `invalid-argument`. */
  constructor(options: TrainOptions) {
    this.#given = withAbsolutePaths(options)
    if (!options.resume) resolveTrainOptions(options)
    else if (typeof options.out !== 'string') resolveTrainOptions(options)
  }

  /**
   * A training as latent-diffusion's main.py makes it of a YAML file, or of what it holds: the model and its `monitor`,
   * base_learning_rate times the images of a step (scale_lr), scheduler_config, data.params.batch_size,
   * lightning.trainer.accumulate_grad_batches, torch's AdamW, no warm-up, no clipping. `options` come before them. Throws what the
   * constructor and readCompVisConfig throw, and `unsupported` for a ckpt_path without `from`.
   */
  static async fromConfig(source: string | JsonObject, options: TrainOptions): Promise<Trainer> {
    return new Trainer(await trainOptionsFrom(source, options))
  }

  /**
   * Throws `busy` where another training uses the run folder, `io`, `not-found` and `bad-file` for files, `not-finite` when the loss
   * is no number any more, and what a hook throws. What was saved before stays; where the steps since then are whole, they are saved
   * before it throws.
   */
  async run(hooks: TrainHooks = {}): Promise<RunResult> {
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
  async #run(folder: RunFolder | undefined, hooks: TrainHooks, ranks: Ranks): Promise<RunResult> {
    const checkpoint = await checkpointToResume(this.#given, ranks, openCheckpoint)
    const { from } = this.#given
    using start = from !== undefined && !checkpoint ? await openStart(from) : undefined
    const { distributed } = this.#given
    using latent = await ranks.leaderFirst(() => openLatentTraining(this.#given, checkpoint, { writes: ranks.leads }))
    const given = ofOneProcess(latent?.given ?? this.#given, ranks, checkpoint)
    const resolved = resolveTrainOptions(given, checkpoint?.state, start && startConfig(start))
    ranks.share(resolved.accumulate)
    const { size, width, channels } = imagesOf(resolved.model.unetConfig)
    const reading = {
      size: latent?.size ?? ([size, width] as const),
      channels: latent?.channels ?? channels,
      captions: latent?.told,
      background: resolved.background,
      svg: resolved.svg,
      flip: resolved.flip,
      flipVertical: resolved.flipVertical,
      crop: resolved.crop,
      cropScale: resolved.cropScale,
      augment: resolved.augment,
      buckets: resolved.buckets as DatasetOptions['buckets'],
      range: resolved.range as DatasetOptions['range'],
      classes: resolved.classes,
      seed: resolved.seed,
      cacheBytes: latent ? 0 : resolved.cacheBytes, // latents are what is kept
      onUnreadable: hooks.onUnreadable,
      validation: resolved.validation,
    }
    const opened = await openTrainingData(resolved.data, reading)
    if (checkpoint) {
      refuseOther(opened.data, checkpoint.state.data, 'data')
      if (opened.heldOut && checkpoint.state.heldOut)
        refuseOther(opened.heldOut, checkpoint.state.heldOut, 'validation')
    }
    const { classNames } = opened.data
    const named = classNames !== undefined && !checkpoint // a checkpoint's options have the names already
    const addClasses = start ? withMoreClasses : withClasses
    const classed = named ? addClasses(resolved, classNames) : resolved
    await ranks.compare(factsOf(classed, opened))
    await using latents = latent && (await openLatentData(latent, opened, classed, { hooks, ranks }))
    const { data, heldOut, options } = latents ?? { ...opened, options: classed }

    const { seed, device, memoryLimit, precision, shardOptimizer } = options
    const compute = { seed, device: device as DeviceName, memoryLimit, precision, distributed, shardOptimizer }
    const ddpm = latent
      ? new LatentDiffusion({ ...plainOptions(options.model), ...latent.stages, ...compute })
      : new DDPM({ ...(options.model as unknown as DDPMOptions), ...compute })
    try {
      const { lr, optimizer, betas, eps, weightDecay, maxGradNorm } = options
      ddpm.configureOptimizers({ lr, optimizer, betas, eps, weightDecay, maxGradNorm })
      if (start) await takeOver(ddpm, start)
      if (checkpoint) await ddpm.loadTrainingState(await readTrainingState(checkpoint))
      using fid = await ranks.leaderFirst(() =>
        Fid.open(ddpm, options, {
          data: () => openTrainedImages(resolved.data, { ...reading, onUnreadable: undefined }),
          before: checkpoint?.state.extractor,
        }),
      )
      const step = checkpoint?.state.step ?? 0
      const told = {
        step,
        options,
        images: data.length,
        unreadable: data.unreadable,
        parameters: ddpm.parameterCount,
        device: ddpm.device.name,
        firstPicture: nextPictureStep(step, options),
        heldOut: heldOut && Math.min(heldOut.length || options.validationCount, options.validationCount),
        best: checkpoint?.state.monitor?.best,
      }
      await ranks.together(async () => hooks.onStart?.(told))
      using journal = folder && new Journal(folder, hooks, step)
      return await new TrainingLoop({ ddpm, data, heldOut, fid, options, hooks, journal, ranks }, checkpoint).run()
    } finally {
      ddpm.dispose()
    }
  }
}
