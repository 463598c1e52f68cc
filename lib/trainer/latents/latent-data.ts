/** A latent model's training data: latents in place of the images, and the scale that goes with them. */
import path from 'node:path'
import { Dataset } from '../../data/dataset'
import { LatentData } from '../../data/latents/latent-data'
import { LatentFile, type LatentHeader } from '../../data/latents/latent-file'
import type { TrainingData } from '../../data/training-data'
import type { LatentDiffusionOptions } from '../../diffusion/options/latent-options'
import { DiffusionError, invalidArgument } from '../../errors'
import type { ModelConfig, ResolvedTrainOptions } from '../../train/options'
import type { TrainHooks } from '../hooks'
import type { Ranks } from '../ranks'
import { type LatentTraining, latentsFolder } from './latent-model'
import { openLatents } from './make-latents'

interface Opened {
  readonly data: TrainingData
  readonly heldOut: TrainingData | undefined
}

/**
 * To be disposed of. The process that leads computes the latents, and the others read its file. Throws `aborted`, `rank-failed` where they
 * don't see it, and what openLatents throws.
 */
export async function openLatentData(
  { stages, told }: LatentTraining,
  images: Opened,
  options: ResolvedTrainOptions,
  {
    hooks: { signal, onProgress },
    ranks,
  }: { readonly hooks: Pick<TrainHooks, 'signal' | 'onProgress'>; readonly ranks: Ranks },
): Promise<Opened & { options: ResolvedTrainOptions } & AsyncDisposable> {
  const { seed, flip, cacheBytes: keepBytes } = options
  const files: LatentFile[] = []
  const close = async () => {
    for (const file of files) await file.close()
  }
  const open = async (data: TrainingData, { flip, name }: { flip: boolean; name: 'data' | 'validation' }) => {
    if (!(data instanceof Dataset))
      throw invalidArgument(name, 'a path, or an object with get(), with firstStage', data)
    if (told && !data.source.captionOf) throw invalidArgument(name, 'images with captions, with textEncoder', data.name)
    const tell = (o: { done: number; total: number }) => onProgress?.({ step: 0, what: 'latents', ...o })
    const folder = latentsFolder(options)
    const stage = stages.firstStage!
    const make = () => openLatents({ stage, images: data, folder, flip, keepBytes, signal, onProgress: tell })
    const made = await ranks.together(async () => (ranks.leads ? await make() : undefined))
    const written = await ranks.ofLeader(made && { name: path.basename(made.file), header: made.header })
    const file = made ?? (await openWritten(path.join(folder, written!.name), written!.header, keepBytes, ranks.rank))
    files.push(file)
    return { images: data, file }
  }
  try {
    const { file, images: own } = await open(images.data, { flip, name: 'data' })
    const { scaleFactor = file.std > 0 ? 1 / file.std : 1 } = options
    const heldOut = images.heldOut && (await open(images.heldOut, { flip: false, name: 'validation' }))
    return {
      data: new LatentData(file, own, { seed, scaleFactor, flip }),
      heldOut: heldOut && new LatentData(heldOut.file, heldOut.images, { seed, scaleFactor, flip: false }),
      options: { ...options, scaleFactor, model: { ...options.model, scaleFactor } },
      [Symbol.asyncDispose]: close,
    }
  } catch (error) {
    await close()
    throw error
  }
}

async function openWritten(file: string, header: LatentHeader, keepBytes: number, rank: number): Promise<LatentFile> {
  const found = await LatentFile.open(file, header, keepBytes)
  if (found) return found
  throw new DiffusionError('rank-failed', `rank ${rank} doesn't find the latents that rank 0 has in ${file}`, {
    argument: 'latents',
    expected: 'a folder that all processes see',
    received: file,
  })
}

/** Of a model's configuration, what is no stage. */
export function plainOptions({ firstStage: _, condStage: __, ...own }: ModelConfig): LatentDiffusionOptions {
  return own as LatentDiffusionOptions
}
