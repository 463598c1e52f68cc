/** Drawing images by the options of `ddpm sample`: batch after batch, with a progress bar. */
import { readJsonFile } from '../checkpoint/json'
import { readImage } from '../data/image-file'
import { type ImageBytes, toBytes } from '../data/image-grid'
import type { DDPM } from '../diffusion/models/ddpm'
import type { SampleOptions } from '../diffusion/options/ddpm-options'
import { owners } from '../diffusion/sampling/choose'
import type { SchedulerConfig } from '../diffusion/sampling/diffusers/scheduler-config'
import type { StepEvent } from '../diffusion/sampling/loop'
import { type Sampler, type SamplerName, samplerNamed, samplers } from '../diffusion/sampling/sampler-names'
import { sigmaSchedules } from '../diffusion/sampling/sigmas'
import { Tensor } from '../tensor'
import { type OptionTable, UsageError, type Values } from './args'
import { checkGuidance, type Guides, guidanceOf, guidanceOptions } from './guidance'
import { stderr } from './output'
import type { PreviewFile } from './preview-file'
import { Progress, type Terminal } from './progress'
import { ownScheduler, promptsOf, shapeOf, textOf, textOptions } from './text'

/** How an image is drawn, whatever it begins with. */
export const samplerOptions = {
  class: {
    kind: 'string',
    value: 'name,...',
    help: 'names or numbers of classes, which images take in turn (all, of a class-conditional model)',
  },
  ...textOptions,
  ...guidanceOptions,
  sampler: {
    kind: 'string',
    value: 'name',
    help: `${samplers.join(', ')}, or as k-diffusion and AUTOMATIC1111 call them, such as "DPM++ 2M Karras" (ddpm)`,
  },
  steps: {
    kind: 'integer',
    min: 1,
    help: "sampling steps: fewer are faster (250, or all there are, for 'ddpm' and 'ddim'; 25 for others)",
  },
  spacing: { kind: 'string', choices: ['linspace', 'leading', 'trailing'], help: 'which timesteps are taken' },
  sigmas: {
    kind: 'string',
    choices: sigmaSchedules,
    help: "which noise levels are taken; not for 'ddpm', 'ddim', 'plms' and 'lcm' (uniform)",
  },
  discretize: {
    kind: 'string',
    choices: ['uniform', 'quad'],
    help: "ddim.py's strides for 'ddim' and 'plms' (evenly, as many as --steps)",
  },
  eta: {
    kind: 'number',
    min: 0,
    help: 'noise of the steps: 0 none, 1 as much as ancestral sampling (ddim 0, others 1)',
  },
  's-churn': {
    kind: 'number',
    min: 0,
    help: "of 'euler' and 'heun': noise that is added before the steps and taken away by them (0)",
  },
  's-tmin': { kind: 'number', min: 0, help: 'least noise level sigma of steps with --s-churn (0)' },
  's-tmax': { kind: 'number', min: 0, help: 'greatest (any)' },
  's-noise': { kind: 'number', min: 0, help: 'what the noise of --s-churn is multiplied by (1)' },
  order: { kind: 'integer', min: 1, max: 4, help: "of 'dpmsolver++', 'unipc' and 'deis' (2), 'lms' (4)" },
  scheduler: { kind: 'string', value: 'file', help: "diffusers' scheduler_config.json, in place of --sampler" },
  clip: { kind: 'string', choices: ['yes', 'no'], help: 'clip the predicted image in each step (ddpm yes, others no)' },
} as const satisfies OptionTable

export const drawOptions = {
  count: { kind: 'integer', short: 'n', min: 1, help: 'images to draw (16, or one of each --prompt)' },
  first: { kind: 'integer', min: 0, help: 'number of the first image: image i of a seed is always the same (0)' },
  seed: { kind: 'seed', help: 'another seed, other images (0)' },
  batch: { kind: 'integer', min: 1, help: 'images drawn at once (16)' },
  ...samplerOptions,
  'init-image': {
    kind: 'string',
    value: 'file',
    help: 'an image to begin with (--strength) or to keep a part of (--mask)',
  },
  strength: {
    kind: 'number',
    min: 0,
    max: 1,
    help: 'how much of the image is drawn anew: 0 nothing, 1 all of it (0.5)',
  },
  mask: {
    kind: 'string',
    value: 'file',
    help: 'an image, white where --init-image is kept and black where it is drawn',
  },
  'jump-n-sample': {
    kind: 'integer',
    min: 1,
    help: 'with --mask: how often each part of the steps is taken, as RePaint does it (1)',
  },
  'jump-length': { kind: 'integer', min: 1, help: 'steps of such a part (10)' },
  interpolate: { kind: 'seeds', value: 'a,b', help: 'images on the way from the one of seed a to that of seed b' },
} as const satisfies OptionTable

export type DrawValues = Values<typeof drawOptions>

const defaultCount = 16
const defaultBatch = 16
const defaultSteps = 250
/** Of all samplers but 'ddpm' and 'ddim'. */
const solverSteps = 25
const defaultStrength = 0.5

/** Options that not all samplers have, by the library's names. */
const ofSamplers = {
  spacing: 'timestepSpacing',
  sigmas: 'sigmas',
  eta: 'eta',
  's-churn': 'sChurn',
  discretize: 'ddimDiscretize',
  order: 'solverOrder',
  mask: 'mask',
  clip: 'clipDenoised',
  'jump-n-sample': 'jumpNSample',
} as const

function samplerOf(values: DrawValues) {
  try {
    return samplerNamed(values.sampler ?? 'ddpm')
  } catch (error) {
    throw new UsageError(`--${(error as Error).message}`)
  }
}

export function checkDrawOptions(values: DrawValues): void {
  const together = (name: keyof DrawValues, needed: boolean, what: string) => {
    if (values[name] !== undefined && !needed) throw new UsageError(`--${name} goes with ${what}`)
  }
  const { sampler, sigmas } = samplerOf(values)
  together('sigmas', sigmas === undefined, `a --sampler that does not name them`)
  for (const [name, option] of Object.entries(ofSamplers)) {
    const allowed = owners[option] ?? []
    together(name as keyof DrawValues, allowed.includes(sampler), `--sampler ${allowed.join(', ')}`)
  }
  together('strength', values['init-image'] !== undefined, '--init-image')
  together('mask', values['init-image'] !== undefined, '--init-image')
  together('jump-n-sample', values.mask !== undefined, '--mask')
  together('jump-length', values['jump-n-sample'] !== undefined, '--jump-n-sample')
  for (const name of ['s-tmin', 's-tmax', 's-noise'] as const)
    together(name, values['s-churn'] !== undefined, '--s-churn')
  checkGuidance(values)
  if (values.scheduler !== undefined) {
    for (const name of ['sampler', 'spacing', 'sigmas', 'clip', 's-churn'] as const)
      together(name, false, 'no --scheduler, which says it')
  }
  if (values.interpolate === undefined) return
  if (values.interpolate.length !== 2) throw new UsageError('--interpolate: expected two seeds, such as 1,2')
  for (const name of ['seed', 'batch', 'first', 'init-image'] as const) together(name, false, 'no --interpolate')
  if (values.class?.includes(',')) throw new UsageError('--interpolate takes one --class')
  if (values.prompt && values.prompt.length > 1) throw new UsageError('--interpolate takes one --prompt')
}

/** Some images, one after another. */
export interface Span {
  /** Number of the first: image i of a seed is always the same. */
  readonly first: number
  readonly count: number
}

export interface Drawn extends Span {
  readonly images: ImageBytes
}

/** At once. */
export function batchOf({ batch = defaultBatch }: DrawValues): number {
  return batch
}

/** All that are asked for. */
export function spanOf({ first = 0, count, prompt, interpolate }: DrawValues): Span {
  const prompts = interpolate ? undefined : prompt?.length
  return { first, count: count ?? prompts ?? defaultCount }
}

/** By number of an image; undefined where the model has no classes. Throws `invalid-argument` for classes that it has not got. */
export type LabelOf = (image: number) => number | undefined

/**
 * Batch after batch. The images do not depend on how they are divided into batches; those for which `skip` says so are left out.
 * Throws `aborted`.
 */
export async function* drawImages(
  ddpm: DDPM,
  values: DrawValues,
  o: {
    readonly signal: AbortSignal
    readonly skip: (span: Span) => boolean
    readonly labelOf: LabelOf
    readonly guides: Guides
    readonly preview?: PreviewFile
    /** Default: stderr. */
    readonly progress?: Terminal
  },
): AsyncGenerator<Drawn> {
  const { first, count } = spanOf(values)
  const { signal, progress = stderr } = o
  const path = await pathOptions(ddpm, values, o.guides)
  const batch = values.interpolate ? count : Math.min(count, batchOf(values))
  const batches = Math.ceil(count / batch)
  const start = await startImage(ddpm, values)
  let bar: Progress | undefined
  try {
    for (let b = 0; b < batches; b++) {
      const span = { first: first + b * batch, count: Math.min(batch, count - b * batch) }
      if (o.skip(span)) continue
      const onStep = async ({ step, total, predX0 }: StepEvent) => {
        // `total` is not always `steps`: ddim.py's strides may take some more.
        bar ??= new Progress(progress, { label: 'sample', total: batches * total, done: b * total, lines: true })
        bar.update(b * total + step, `${b * batch} of ${count} images`)
        await o.preview?.show(ddpm, predX0, step === total)
      }
      const labels = Array.from({ length: span.count }, (_, i) => o.labelOf(span.first + i))
      const classLabels = labels[0] === undefined ? undefined : (labels as number[])
      const given = { ...path, signal, onStep }
      using samples = await (values.interpolate
        ? ddpm.interpolate({
            ...given,
            seeds: [values.interpolate[0], values.interpolate[1]],
            count,
            ...promptsOf(values, { first: 0, count: 1 }),
            classLabels: classLabels?.[0],
          })
        : ddpm.sample({
            ...given,
            ...start?.(span.count),
            ...promptsOf(values, span),
            classLabels,
            batchSize: span.count,
            seed: values.seed ?? 0,
            sampleOffset: span.first,
          }))
      yield { ...span, images: toBytes(await samples.data(), samples.shape) }
    }
  } finally {
    bar?.clear()
  }
}

type PathOptions = Omit<SampleOptions, 'returnIntermediates' | keyof StartOptions>
type StartOptions = Pick<SampleOptions, 'image' | 'strength' | 'mask' | 'jumpNSample' | 'jumpLength'>

/** How samples are drawn, whatever they begin with. */
async function pathOptions(ddpm: DDPM, values: DrawValues, guides: Guides): Promise<PathOptions> {
  const { sampler: given, spacing, sigmas, discretize, eta, order, clip, interpolate } = values
  const shared = {
    ...guidanceOf(values, guides),
    ...textOf(ddpm, values),
    clipDenoised: clip && clip === 'yes',
  }
  const own = ownScheduler(ddpm, values)
  if (own) {
    for (const name of ['spacing', 'clip'] as const) {
      if (values[name] !== undefined)
        throw new UsageError(`--${name} goes with --sampler: the model's scheduler says it`)
    }
    return { ...shared, ...own }
  }
  if (values.scheduler !== undefined) {
    const scheduler: SchedulerConfig = await readJsonFile(values.scheduler, { argument: 'scheduler' })
    return {
      ...shared,
      clipDenoised: undefined,
      scheduler,
      steps: values.steps ?? defaultStepsOf({ scheduler }, ddpm.numTimesteps),
    }
  }
  if (interpolate && given === undefined) return { ...shared, steps: values.steps, timestepSpacing: spacing }
  const { sampler } = samplerOf(values)
  return {
    ...shared,
    sampler: given as SamplerName | undefined,
    steps: values.steps ?? defaultStepsOf({ sampler }, ddpm.numTimesteps),
    timestepSpacing: spacing,
    sigmas,
    ddimDiscretize: discretize,
    solverOrder: order,
    eta,
    sChurn: values['s-churn'],
    sTmin: values['s-tmin'],
    sTmax: values['s-tmax'],
    sNoise: values['s-noise'],
  }
}

/** Of a model of so many timesteps. A consistency model has no more steps than it was distilled with. */
export function defaultStepsOf(o: { sampler?: Sampler; scheduler?: SchedulerConfig }, timesteps: number): number {
  const { _class_name: name = 'DDPMScheduler', original_inference_steps: original } = o.scheduler ?? {}
  const sampler = o.sampler ?? String(name)
  const many = ['ddpm', 'ddim', 'DDPMScheduler', 'DDIMScheduler'].includes(sampler)
  return Math.min(many ? defaultSteps : solverSteps, Number(original) || timesteps, timesteps)
}

/** The image to begin with, for a batch of n; undefined without one. */
async function startImage(ddpm: DDPM, values: DrawValues): Promise<((n: number) => StartOptions) | undefined> {
  const { 'init-image': file, mask: maskFile } = values
  if (file === undefined) return undefined
  const [height, width, channels] = shapeOf(ddpm, values)
  const size = [height, width] as const
  if (channels > 4) throw new UsageError(`--init-image: only for a model of at most 4 channels, not ${channels}`)
  const pixels = await (await readImage(file, { size, channels: channels as 1 | 2 | 3 | 4 })).values()
  const white = maskFile === undefined ? undefined : await readImage(maskFile, { size, channels: 1 })
  const kept = white && (await white.values()).map((v) => (v >= 0 ? 1 : 0))
  const mask = kept && Tensor.wrap(kept, white.shape)
  // Without a mask nothing would be left of the image unless the steps begin with it.
  const strength = values.strength ?? (mask ? undefined : defaultStrength)
  return (n) => {
    const image = new Float32Array(n * pixels.length)
    for (let i = 0; i < n; i++) image.set(pixels, i * pixels.length)
    const jumps = { jumpNSample: values['jump-n-sample'], jumpLength: values['jump-length'] }
    return { image: Tensor.wrap(image, [n, channels, ...size]), strength, mask, ...jumps }
  }
}

/** Image i takes class i of those that are asked for, and then from the front again. */
export function labelsFor(ddpm: DDPM, values: DrawValues, { classifier }: Guides): LabelOf {
  const all = ddpm.classNames.length || (classesOf(ddpm) ?? classifier?.numClasses)
  if (values.class === undefined && all === undefined) return () => undefined
  const chosen = values.class?.split(',').map((name) => labelOf(ddpm, name))
  return (image) => (chosen ? chosen[image % chosen.length] : image % all!)
}

/** Without the one that stands for none, which comes last where a model has names for none of them. */
function classesOf({ network, nullClass }: DDPM): number | undefined {
  const { numClasses } = network ?? {}
  return numClasses !== undefined && nullClass === numClasses - 1 ? nullClass : numClasses
}

function labelOf(ddpm: DDPM, name: string): number {
  const isNumber = (text: string) => /^\d+$/.test(text)
  // Where classes are called by numbers, a number is a name.
  return isNumber(name) && !ddpm.classNames.some(isNumber) ? Number(name) : ddpm.classLabel(name)
}
