/** What predictions are guided by, of `ddpm sample`: options, and the other models that they name. */
import { Classifier } from '../diffusion/classifier/classifier'
import type { DDPM } from '../diffusion/models/ddpm'
import type { GuidanceOptions } from '../diffusion/sampling/guidance/options'
import { type OptionTable, UsageError, type Values } from './args'
import { type modelOptions, openModel } from './open-model'

export const guidanceOptions = {
  guidance: {
    kind: 'number',
    help: 'scale of classifier-free guidance, or of that by --guiding-model: 1 is none, more exaggerates (1)',
  },
  'guidance-interval': {
    kind: 'string',
    value: 'low,high',
    help: 'noise levels sigma between which there is guidance, such as 0.3,2 (all)',
  },
  'guidance-rescale': {
    kind: 'number',
    min: 0,
    max: 1,
    help: 'how much of the contrast that guidance adds is taken back (0)',
  },
  'guiding-model': {
    kind: 'string',
    value: 'model',
    help: 'a worse model of the same images, such as an early checkpoint, to go away from in place of no class',
  },
  classifier: {
    kind: 'string',
    value: 'file',
    help: 'a file of Classifier.save, whose gradient draws images towards their --class',
  },
  'classifier-scale': { kind: 'number', help: 'what its gradient is multiplied by (1)' },
} as const satisfies OptionTable

export type GuidanceValues = Values<typeof guidanceOptions>

/** The other models; to be disposed of. */
export interface Guides extends Disposable {
  readonly guidingModel?: DDPM
  readonly classifier?: Classifier
}

/** Throws UsageError for what means nothing without another option. */
export function checkGuidance(values: GuidanceValues): void {
  const needs = (name: keyof GuidanceValues, other: keyof GuidanceValues) => {
    if (values[name] !== undefined && values[other] === undefined)
      throw new UsageError(`--${name} goes with --${other}`)
  }
  for (const name of ['guidance-interval', 'guidance-rescale', 'guiding-model'] as const) needs(name, 'guidance')
  needs('classifier-scale', 'classifier')
  intervalOf(values)
}

/** Computed as the model is. */
export async function openGuides(
  { device }: DDPM,
  values: GuidanceValues &
    Pick<Values<typeof modelOptions>, 'device' | 'deterministic' | 'precision' | 'weight-format'>,
): Promise<Guides> {
  const { 'guiding-model': model, classifier: file, deterministic, precision, 'weight-format': weightFormat } = values
  const as = { device: values.device, deterministic, precision, 'weight-format': weightFormat }
  const guidingModel = model === undefined ? undefined : await openModel({ model, ...as })
  try {
    const classifier =
      file === undefined ? undefined : await Classifier.fromFile(file, { device, deterministic, weightFormat })
    const dispose = () => {
      guidingModel?.dispose()
      classifier?.dispose()
    }
    return { guidingModel, classifier, [Symbol.dispose]: dispose }
  } catch (error) {
    guidingModel?.dispose()
    throw error
  }
}

/** As options of the library. */
export function guidanceOf(values: GuidanceValues, { guidingModel, classifier }: Guides): GuidanceOptions {
  return {
    guidanceScale: values.guidance,
    guidanceInterval: intervalOf(values),
    guidanceRescale: values['guidance-rescale'],
    guidingModel,
    classifier,
    classifierScale: values['classifier-scale'],
  }
}

function intervalOf({ 'guidance-interval': text }: GuidanceValues): [number, number] | undefined {
  if (text === undefined) return undefined
  const [low, high, ...more] = text.split(',').map((part) => (part.trim() === '' ? Number.NaN : Number(part)))
  if (low >= 0 && low <= high && more.length === 0) return [low, high]
  throw new UsageError('--guidance-interval: expected two noise levels, such as 0.3,2')
}
