/** What `ddpm sample` draws by a latent model: a prompt, and the size of its pictures. */
import type { DDPM } from '../diffusion/models/ddpm'
import { LatentDiffusion } from '../diffusion/models/latent-diffusion'
import type { LatentSampleOptions } from '../diffusion/options/latent-options'
import { DiffusionError } from '../errors'
import { TextStage } from '../stages/text/text-stage'
import { type OptionTable, UsageError, type Values } from './args'

export const textOptions = {
  prompt: {
    kind: 'texts',
    help: 'what to draw, of a model with a text encoder; given several times, images take them in turn',
  },
  'negative-prompt': { kind: 'string', value: 'text', help: 'what to go away from (nothing)' },
  height: { kind: 'integer', min: 1, help: 'of the images in pixels, of a latent model (its own)' },
  width: { kind: 'integer', min: 1, help: "their width (the model's)" },
} as const satisfies OptionTable

type TextValues = Values<typeof textOptions> & { readonly guidance?: number }

/** As Stable Diffusion is used. */
const defaultGuidance = 7.5
const defaultSteps = 50

/** What of it `sample` takes, but for the prompts. Throws where the model has no text encoder, or needs a prompt. */
export function textOf(ddpm: DDPM, values: TextValues): Partial<LatentSampleOptions> {
  const { prompt, 'negative-prompt': negativePrompt, height, width } = values
  if (!(ddpm instanceof LatentDiffusion)) {
    const [name] = Object.keys(textOptions).filter((option) => values[option as keyof TextValues] !== undefined)
    if (name !== undefined) throw new UsageError(`--${name} goes with a latent model`)
    return {}
  }
  const size = { ...(height && { height }), ...(width && { width }) }
  const stage = ddpm.condStageModel
  if (stage && !(stage instanceof TextStage) && ddpm.network?.contextDim !== undefined) {
    const message = `the model is told by a ${stage.constructor.name}, for which there is no option: draw by LatentDiffusion.sample, with cond`
    throw new DiffusionError('unsupported', message, { argument: 'model' })
  }
  const takesText = ddpm.network?.contextDim !== undefined
  if (takesText !== (prompt !== undefined)) {
    throw new UsageError(takesText ? '--prompt: the model draws by a text' : '--prompt: the model has no text encoder')
  }
  if (prompt === undefined) return size
  return { ...size, negativePrompt, guidanceScale: values.guidance ?? defaultGuidance }
}

/** Of images one after another. */
export function promptsOf({ prompt }: TextValues, { first, count }: { first: number; count: number }) {
  return prompt && { prompt: Array.from({ length: count }, (_, i) => prompt[(first + i) % prompt.length]) }
}

/** The scheduler of the model's own folder, where nothing else is asked for. */
export function ownScheduler(
  ddpm: DDPM,
  { sampler, scheduler, steps }: { sampler?: string; scheduler?: string; steps?: number },
): Pick<LatentSampleOptions, 'scheduler' | 'steps'> | undefined {
  if (!(ddpm instanceof LatentDiffusion) || sampler !== undefined || scheduler !== undefined) return undefined
  return ddpm.schedulerConfig && { scheduler: ddpm.schedulerConfig, steps: steps ?? defaultSteps }
}

/** Height, width and channels of the images. */
export function shapeOf(ddpm: DDPM, { height, width }: TextValues): readonly [number, number, number] {
  const [channels, ownHeight, ownWidth] = ddpm.sampleShape
  return [height ?? ownHeight, width ?? ownWidth, channels]
}
