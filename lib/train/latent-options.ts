/** What a training's options must be with a first stage, and without. */
import { invalidArgument } from '../errors'
import { integer, parseOptions, type SchemaOf } from '../options'
import type { ResolvedTrainOptions, TrainTextEncoder } from './options'

const encoderSchema = {
  nEmbed: integer(undefined, { min: 1 }),
  nLayer: integer(undefined, { min: 1 }),
  maxSeqLen: integer(undefined, { min: 2 }),
} satisfies SchemaOf<TrainTextEncoder>

const ofFirstStage = ['size', 'textEncoder', 'tokenizer', 'captionDropout', 'scaleFactor', 'latents'] as const
const ofText = ['tokenizer', 'captionDropout'] as const
/** What has no meaning where images are encoded once, or is not there for latents. */
const ofImages = ['flipVertical', 'augment', 'buckets', 'fidEvery', 'from'] as const

/** Throws `invalid-argument`, and `unknown-option` for a size of the text encoder. */
export function checkLatentOptions(o: Omit<ResolvedTrainOptions, 'model' | 'warmup' | 'validationEvery'>): void {
  const refuse = (names: readonly (keyof typeof o)[], why: string): void => {
    const given = names.find((name) => o[name] !== undefined && o[name] !== false)
    if (given) throw invalidArgument(given, why, o[given])
  }
  if (o.firstStage === undefined) {
    refuse(ofFirstStage, 'nothing without firstStage')
    return
  }
  refuse(ofImages, 'nothing with firstStage')
  if (o.crop === 'random') throw invalidArgument('crop', "'centre' or 'none' with firstStage", o.crop)
  if (o.textEncoder === undefined) {
    refuse(ofText, 'nothing without textEncoder')
    return
  }
  if (o.classes !== undefined) throw invalidArgument('classes', 'nothing with textEncoder', o.classes)
  if (typeof o.textEncoder === 'object') parseOptions('textEncoder', o.textEncoder, encoderSchema)
}
