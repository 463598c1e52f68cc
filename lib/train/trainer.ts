/** A training run: images in, checkpoints, metrics and pictures out. */
import path from 'node:path'
import { ImageFolder } from '../data/image-folder'
import { DDPM } from '../diffusion/ddpm'
import type { DDPMOptions } from '../diffusion/ddpm-options'
import { DiffusionError, invalidArgument } from '../errors'
import {
  type Checkpoint,
  listCheckpoints,
  openCheckpoint,
  type RunState,
  readTrainingState,
  removeLeftovers,
} from '../run/checkpoint'
import type { TrainOptions } from '../run/options'
import { resolveTrainOptions, withClasses } from '../run/resolve-options'
import { RunFolder } from '../run/run-folder'
import type { RunResult, TrainHooks } from './hooks'
import { Journal } from './journal'
import { nextPictureStep } from './pictures'
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
   * Throws `busy` where another training uses the run folder, `io`, `not-found` and `bad-file` for files, `not-finite` when the loss
   * is no number any more, and what a hook throws. What was saved before stays; where the steps since then are whole, they are saved
   * before it throws.
   */
  async run(hooks: TrainHooks = {}): Promise<RunResult> {
    const folder = await RunFolder.open(this.#given.out)
    try {
      await removeLeftovers(folder.path)
      return await this.#locked(folder, hooks)
    } finally {
      await folder.close()
    }
  }

  async #locked(folder: RunFolder, hooks: TrainHooks): Promise<RunResult> {
    const checkpoint = await this.#checkpointToResume()
    const resolved = resolveTrainOptions(this.#given, checkpoint?.state)
    const { unetConfig } = resolved.model
    if (unetConfig.imageWidth !== undefined) {
      throw invalidArgument(
        'model.unetConfig.imageWidth',
        'nothing: trainings are of square images',
        unetConfig.imageWidth,
      )
    }
    const data = await ImageFolder.open(resolved.data, {
      size: Number(unetConfig.imageSize),
      channels: unetConfig.inChannels === 1 ? 1 : 3,
      background: resolved.background,
      svg: resolved.svg,
      flip: resolved.flip,
      classes: resolved.classes,
      seed: resolved.seed,
      cacheBytes: resolved.cacheBytes,
      onUnreadable: hooks.onUnreadable,
    })
    if (checkpoint) refuseOtherData(data, checkpoint.state)
    const named = data.classNames !== undefined && !checkpoint // a checkpoint's options have the names already
    const options = named ? withClasses(resolved, data.classNames!) : resolved

    const { seed, device, precision } = options
    const ddpm = new DDPM({ ...options.model, seed, device, precision } as unknown as DDPMOptions)
    try {
      const { lr, betas, eps, weightDecay, maxGradNorm } = options
      ddpm.configureOptimizers({ lr, betas, eps, weightDecay, maxGradNorm })
      if (checkpoint) await ddpm.loadTrainingState(await readTrainingState(checkpoint))
      const step = checkpoint?.state.step ?? 0
      await hooks.onStart?.({
        step,
        options,
        images: data.length,
        unreadable: data.unreadable,
        parameters: ddpm.parameterCount,
        device: ddpm.device.name,
        firstPicture: nextPictureStep(step, options),
      })
      using journal = new Journal(folder, hooks, step)
      return await new TrainingLoop(ddpm, data, options, hooks, journal).run(checkpoint)
    } finally {
      ddpm.dispose()
    }
  }

  async #checkpointToResume(): Promise<Checkpoint | undefined> {
    const { out, resume } = this.#given
    const found = (await listCheckpoints(out)).length > 0
    if (!found) return undefined // killed before its first checkpoint, or new
    if (resume) return openCheckpoint(out)
    throw new DiffusionError(
      'invalid-argument',
      `${out} holds a training already: resume it, or choose another folder`,
      {
        argument: 'out',
        expected: 'a new run folder, or resume',
        received: out,
      },
    )
  }
}

function withAbsolutePaths(options: TrainOptions): TrainOptions {
  const absolute = (file: string) => (typeof file === 'string' ? path.resolve(file) : file) // others are refused later
  const given = { ...options }
  for (const name of ['data', 'out', 'classes'] as const) {
    if (given[name] !== undefined && given[name] !== 'folders') given[name] = absolute(given[name])
  }
  return given
}

function refuseOtherData(data: ImageFolder, state: RunState): void {
  if (data.fingerprint === state.data.fingerprint) return
  throw new DiffusionError(
    'invalid-argument',
    `${data.folder} is not what this run was trained on: ${state.data.images} readable images then, ${data.length} now, ` +
      'and not under the same names or not in the same classes; a resumed run would not continue the same training',
    { argument: 'data', expected: `${state.data.images} images`, received: `${data.length} images` },
  )
}
