/** What a training is given as its data, opened. */
import { Dataset, type DatasetOptions, sourceOptions } from './dataset'
import { givesBatches, UserBatchData, type UserData } from './sources/user'
import type { TrainingData } from './training-data'

/** A path, or an object of the caller's. Throws as Dataset.open does. */
export async function openData(data: string | UserData, options: DatasetOptions): Promise<TrainingData> {
  return givesBatches(data) ? new UserBatchData(data, sourceOptions(options)) : Dataset.open(data, options)
}
