/** What a training is given as its data, opened. */
import { Dataset, type DatasetOptions, sourceOptions } from './dataset'
import { parted } from './held-out'
import { openSource } from './sources/open'
import { givesBatches, UserBatchData, type UserData } from './sources/user'
import type { TrainingData } from './training-data'

/** A path, or an object of the caller's. Throws as Dataset.open does. */
export async function openData(data: string | UserData, options: DatasetOptions): Promise<TrainingData> {
  return givesBatches(data) ? new UserBatchData(data, sourceOptions(options)) : Dataset.open(data, options)
}

/**
 * The images that are trained on and those that are held out: `validation` are others, or a fraction of the first. These are always
 * drawn alike: not mirrored or augmented, and their middles where they have to be cropped. Throws as Dataset.open does, and `invalid-argument`
 * for a fraction that leaves nothing on one side.
 */
export async function openTrainingData(
  data: string | UserData,
  { validation, ...options }: DatasetOptions & { readonly validation?: string | number | UserData },
): Promise<{ data: TrainingData; heldOut: TrainingData | undefined }> {
  const alike = drawnAlike(options)
  if (typeof validation !== 'number' || givesBatches(data)) {
    const heldOut = typeof validation === 'string' || typeof validation === 'object'
    return {
      data: await openData(data, options),
      heldOut: heldOut ? await openData(validation, alike) : undefined,
    }
  }
  const [kept, heldOut] = parted(await openSource(data, sourceOptions(options)), validation, options.seed ?? 0)
  return { data: await Dataset.of(kept, options), heldOut: await Dataset.of(heldOut, alike) }
}

/** The images that are trained on, drawn as those that are held out: what samples are compared with. */
export async function openTrainedImages(
  data: string | UserData,
  { validation, ...options }: DatasetOptions & { readonly validation?: string | number | UserData },
): Promise<TrainingData> {
  const alike = drawnAlike(options)
  if (typeof validation !== 'number' || givesBatches(data)) return openData(data, alike)
  const [kept] = parted(await openSource(data, sourceOptions(options)), validation, options.seed ?? 0)
  return Dataset.of(kept, alike)
}

/** Nothing at random, and all of one size. */
function drawnAlike(options: DatasetOptions): DatasetOptions {
  const { flip: _, flipVertical: __, cropScale: ___, buckets: ____, augment: _____, crop, ...plain } = options
  return { ...plain, crop: crop === 'none' ? 'none' : 'centre' }
}
