/** The stages of a latent model's training, and what follows from them for its options. */
import path from 'node:path'
import { readAutoencoderFolder } from '../../checkpoint/diffusers/autoencoder'
import { openSource } from '../../data/sources/open'
import type { Range } from '../../data/sources/source'
import { givesBatches } from '../../data/sources/user'
import type { DeviceName } from '../../device'
import { stageConfig } from '../../diffusion/formats/stage-config'
import type { LatentDiffusionOptions } from '../../diffusion/options/latent-options'
import { invalidArgument } from '../../errors'
import { AutoencoderKL } from '../../stages/autoencoder-kl'
import { FrozenCLIPEmbedder } from '../../stages/text/clip'
import { TransformerEmbedder } from '../../stages/text/transformer'
import { VQModelInterface } from '../../stages/vq-model'
import { Tokenizer } from '../../text/tokenizer'
import { writeWordTokenizer } from '../../text/word-tokenizer'
import type { Checkpoint } from '../../train/checkpoint'
import { isLatent, keepStages, optionsOfRun } from '../../train/latent-run'
import type { ModelConfig, TrainOptions, TrainTextEncoder } from '../../train/options'

/** To be disposed of. */
export interface LatentTraining extends Disposable {
  /** What LatentDiffusion is made with, beside what the options say. */
  readonly stages: LatentDiffusionOptions
  /** The training's options, with what follows from the stages. */
  readonly given: TrainOptions
  /** Of the images. */
  readonly size: readonly [height: number, width: number]
  readonly channels: number
  /** The data need captions. */
  readonly told: boolean
}

type Stage = AutoencoderKL | VQModelInterface

/** Undefined for a training on images. `writes`: what the run folder keeps of a new run is this process' to write. Throws `invalid-argument`, and what reading the stages throws. */
export async function openLatentTraining(
  given: TrainOptions,
  checkpoint: Checkpoint | undefined,
  { writes }: { readonly writes: boolean },
): Promise<LatentTraining | undefined> {
  const compute = { device: given.device as DeviceName | undefined, seed: given.seed }
  if (checkpoint) {
    const { model, device, seed } = checkpoint.state.options
    if (!isLatent(model)) return undefined
    const own = { device: (given.device ?? device) as DeviceName, seed }
    const stages = optionsOfRun(given.out, model, own)
    const firstStage = stages.firstStage as Stage
    const { imageSize, imageWidth = imageSize } = model.unetConfig as { imageSize: number; imageWidth?: number }
    const size = [imageSize * firstStage.factor, imageWidth * firstStage.factor] as const
    const told = model.conditioningKey === 'crossattn'
    return { stages, given, size, channels: firstStage.outChannels, told, ...disposing(stages) }
  }
  if (given.firstStage === undefined) return undefined
  if (given.model?.lora) throw invalidArgument('model.lora', 'nothing with firstStage', given.model.lora)
  const firstStage = await openFirstStage(given.firstStage, compute)
  const text = await openText(given, compute, writes)
  const { unetConfig, ...model } = (given.model ?? {}) as ModelConfig
  const size = sizeOf(given, unetConfig, firstStage.factor)
  const [imageSize, imageWidth] = size.map((side) => side / firstStage.factor)
  const { embedDim } = firstStage
  const own = {
    inChannels: embedDim,
    outChannels: embedDim,
    imageSize,
    ...(imageWidth !== imageSize && { imageWidth }),
  }
  const ofText = text && { useSpatialTransformer: true, transformerDepth: 1, contextDim: text.stage.network.width }
  const fixed = {
    clipDenoised: false,
    firstStage: stageConfig(firstStage, 'firstStage'),
    condStage: text ? stageConfig(text.stage, 'textEncoder') : '__is_unconditional__',
    ...(text && { conditioningKey: 'crossattn', condStageKey: 'caption', condStageTrainable: text.trained }),
  }
  const stages: LatentDiffusionOptions = {
    firstStage,
    ...(text && {
      condStage: text.stage,
      conditioningKey: 'crossattn',
      condStageKey: 'caption',
      condStageTrainable: text.trained,
    }),
  }
  if (writes) await keepStages(given.out, stages)
  return {
    stages,
    given: {
      ...given,
      ...(text && { captionDropout: given.captionDropout ?? 0.1 }),
      size,
      model: { ...model, ...fixed, unetConfig: { ...ofText, ...unetConfig, ...own } },
    },
    size,
    channels: firstStage.outChannels,
    told: text !== undefined,
    ...disposing(stages),
  }
}

function disposing({ firstStage, condStage }: LatentDiffusionOptions): Disposable {
  return {
    [Symbol.dispose]() {
      firstStage?.dispose?.()
      if (typeof condStage === 'object') condStage.dispose?.()
    },
  }
}

type Compute = { readonly device?: DeviceName; readonly seed?: TrainOptions['seed'] }

async function openFirstStage(folder: string, compute: Compute): Promise<Stage> {
  const { config } = await readAutoencoderFolder(folder)
  const isCodebook = config._class_name === 'VQModel'
  return (isCodebook ? VQModelInterface : AutoencoderKL).fromPretrained(folder, compute)
}

/** A transformer that is trained from nothing, or a CLIP that stays as it is. */
async function openText(given: TrainOptions, compute: Compute, writes: boolean) {
  const { textEncoder, tokenizer } = given
  if (textEncoder === undefined) return undefined
  if (typeof textEncoder === 'string' && textEncoder !== 'transformer') {
    const stage = await FrozenCLIPEmbedder.fromPretrained(textEncoder, { ...compute, ...(tokenizer && { tokenizer }) })
    return { stage, trained: false }
  }
  const words = await Tokenizer.fromPretrained(tokenizer ?? (await ofCaptions(given, writes)))
  const {
    nEmbed = 256,
    nLayer = 4,
    maxSeqLen = words.maxLength ?? 77,
  }: TrainTextEncoder = typeof textEncoder === 'object' ? textEncoder : {}
  const sizes = { nEmbed, nLayer, maxSeqLen, vocabSize: words.vocabSize }
  return { stage: new TransformerEmbedder({ ...sizes, ...compute, tokenizer: words }), trained: true }
}

/** A tokenizer of the captions' own words, in the run's folder. Throws `invalid-argument` where there are no captions. */
async function ofCaptions({ data, out, svg, range }: TrainOptions, writes: boolean): Promise<string> {
  if (givesBatches(data)) throw invalidArgument('data', 'a path, or an object with get(), with firstStage', data)
  const form = { channels: 3, height: 1, width: 1, captions: true }
  const { captionOf, length, name } = await openSource(data, { ...form, svg, range: range as Range | undefined })
  if (!captionOf) throw invalidArgument('data', 'images with captions, with textEncoder', name)
  const folder = path.join(out, 'tokenizer')
  if (!writes) return folder
  const captions = Array.from({ length }, (_, item) => captionOf(item) ?? []).flat()
  await writeWordTokenizer(folder, captions)
  return folder
}

function sizeOf(
  { size }: TrainOptions,
  { imageSize = 32, imageWidth = imageSize }: Record<string, unknown> = {},
  factor: number,
): readonly [number, number] {
  if (!size) return [Number(imageSize) * factor, Number(imageWidth) * factor]
  if (size.length !== 2 || size.some((side) => side % factor !== 0)) {
    throw invalidArgument('size', `height and width, multiples of ${factor}`, size)
  }
  return [size[0], size[1]]
}

/** Where a training keeps its latents. */
export function latentsFolder({ latents, out }: Pick<TrainOptions, 'latents' | 'out'>): string {
  return latents ?? path.join(out, 'latents')
}
