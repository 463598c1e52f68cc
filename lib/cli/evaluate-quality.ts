/** `ddpm evaluate --fid`: how good samples are. */
import type { Dataset } from '../data/dataset'
import type { DeviceName } from '../device'
import type { DDPM } from '../diffusion/models/ddpm'
import {
  type EvaluateSamplesOptions,
  evaluateSamples,
  type SampleMetric,
  type SampleQuality,
  sampleMetrics,
} from '../evaluate/evaluate-samples'
import type { FeatureExtractor } from '../evaluate/feature-extractor'
import type { FeatureSet } from '../evaluate/feature-rows'
import { type FeaturesLooks, hasFeatures, openFeatures } from '../evaluate/features-file'
import { fromBytes, type ImageSet, imagesOf } from '../evaluate/images'
import { openInception } from '../evaluate/open-inception'
import { openReference, referenceStatistics } from '../evaluate/reference'
import type { ImageStatistics } from '../evaluate/statistics'
import type { Seed } from '../options'
import { type DrawnByRanks, evaluateTogether } from '../trainer/evaluate-together'
import { UsageError, type Values } from './args'
import { batchOf, checkDrawOptions, drawImages, labelsFor, type Span, type samplerOptions } from './draw'
import type { Evaluator } from './evaluate-bits'
import { type Guides, openGuides } from './guidance'
import { type modelOptions, openModel } from './open-model'
import { type Output, warn } from './output'
import { Progress, type Terminal } from './progress'
import { sampleRecord } from './sample-record'
import { shapeOf } from './text'
import { ofAll, tellWarnings } from './together'

export interface QualityValues extends Values<typeof modelOptions>, Values<typeof samplerOptions> {
  readonly fid?: string
  readonly samples?: string
  readonly metrics?: string
  readonly inception?: string
  readonly count?: number
  readonly size?: readonly [height: number, width: number]
  readonly channels?: number
  readonly limit?: number
  readonly batch?: number
  readonly seed?: Seed
  readonly background?: string
  readonly range?: string
  readonly svg?: boolean
}

export const defaultCount = 10_000

/** Throws UsageError. */
export function metricsOf({ metrics = 'fid' }: QualityValues): SampleMetric[] {
  return metrics.split(',').map((name) => {
    const known = sampleMetrics.find((metric) => metric === name.trim())
    if (known) return known
    throw new UsageError(`--metrics: expected ${sampleMetrics.join(', ')}, got '${name}'`)
  })
}

/** What they were compared with, by `reference`. */
export type QualityReport = SampleQuality & { readonly reference?: { readonly name: string; readonly images?: number } }

/** On all ranks, where samples are of a model. */
export async function evaluateQuality(
  values: QualityValues,
  model: string | undefined,
  { ranks, output, signal }: Evaluator,
): Promise<QualityReport> {
  if (values.samples === undefined) checkDrawOptions(values)
  const metrics = metricsOf(values)
  const device = (values.device ?? 'auto') as DeviceName
  const extractor = await ranks.leaderFirst(() => openInception(values.inception, { device }))
  const bars = new Bars(output.progress)
  let ddpm: DDPM | undefined
  let guides: Guides | undefined
  try {
    ddpm = values.samples === undefined ? await ranks.leaderFirst(() => openModel(values, model)) : undefined
    guides = ddpm && (await openGuides(ddpm, values))
    const whole = { first: 0, count: values.count ?? defaultCount }
    const batchSize = batchOf(values)
    if (ddpm && guides)
      await ranks.compare({
        ...(await sampleRecord({ ddpm, ...guides }, values)),
        count: whole.count,
        batch: batchSize,
      })
    const ofOthers = ({ first }: Span) => Math.floor(first / batchSize) % ranks.size !== ranks.rank
    const { set, looks } = ddpm
      ? samplesOfModel({ ddpm, guides: guides! }, values, whole, { signal, skip: ofOthers, output })
      : await samplesOfFile(values, output)
    const context = { extractor, output, signal, bars, keepFeatures: metrics.some((m) => m === 'kid' || m === 'pr') }
    const refer = async () =>
      values.fid === undefined || !ranks.leads ? undefined : await referenceOf(values.fid, values, looks, context)
    const reference = await ranks.together(refer)
    if (metrics.includes('fid')) warnOfFew(output, set.count, extractor)
    const given: EvaluateSamplesOptions = {
      ...{ extractor, reference, metrics, device, signal },
      seed: values.seed,
      onProgress: ({ phase, done, total }) => {
        // Samples of a model have a bar of their own.
        if (!ddpm || phase !== 'samples') bars.show(phase, done, total)
      },
    }
    const quality = await (ddpm && ranks.size > 1
      ? evaluateTogether(ranks, drawnInOrder(set as ImageSet, batchSize), given)
      : evaluateSamples(set, given))
    tellWarnings(output, await ofAll(ranks, ddpm?.warnings() ?? []))
    return { ...quality, ...(reference && { reference: { name: values.fid!, images: reference.count } }) }
  } finally {
    bars.clear()
    extractor.release()
    guides?.[Symbol.dispose]()
    ddpm?.dispose()
  }
}

/** Batches that are this rank's alone. */
function drawnInOrder({ count, batches }: ImageSet, batchSize: number): DrawnByRanks {
  const own = batches()[Symbol.asyncIterator]()
  return { count, batchSize, draw: async () => (await own.next()).value }
}

/** `skip`: batches that are not drawn. */
export function samplesOfModel(
  { ddpm, guides }: { ddpm: DDPM; guides: Guides },
  values: QualityValues,
  { first, count }: Span,
  o: { readonly signal: AbortSignal; readonly skip?: (span: Span) => boolean; readonly output: Output },
): { set: ImageSet; looks: FeaturesLooks } {
  const drawn = { ...values, first, count }
  const labelOf = labelsFor(ddpm, values, guides)
  const set = {
    count: drawn.count,
    async *batches() {
      const { signal, skip = () => false, output } = o
      for await (const { images } of drawImages(ddpm, drawn, {
        signal,
        skip,
        labelOf,
        guides,
        progress: output.progress,
      }))
        yield fromBytes(images)
    },
  }
  const [height, width, channels] = shapeOf(ddpm, values)
  return { set, looks: { size: [height, width], channels } }
}

/** The images of --samples. */
export async function openSamples(values: QualityValues, output: Output): Promise<{ data: Dataset; channels: number }> {
  const { size, channels = 3 } = values
  return { data: await openReference(values.samples!, { ...readingOf(values, output), size, channels }), channels }
}

async function samplesOfFile(
  values: QualityValues,
  output: Output,
): Promise<{ set: ImageSet | FeatureSet; looks: FeaturesLooks }> {
  const { samples, count, batch } = values
  if (/\.npz$/i.test(samples!) && (await hasFeatures(samples!))) {
    for (const name of ['count', 'size', 'channels'] as const)
      if (values[name] !== undefined)
        throw new UsageError(`--${name} goes with images, and ${samples} has their features`)
    const set = await openFeatures(samples!)
    return { set, looks: set }
  }
  const { data, channels } = await openSamples(values, output)
  const set = imagesOf(data, { count, batchSize: batch })
  return { set, looks: { size: [data.height, data.width], channels } }
}

/** How files are read, on both sides. */
function readingOf({ background, range, svg }: QualityValues, output: Output) {
  return {
    background,
    svg,
    range: range?.split(',').map(Number) as [number, number] | undefined,
    onUnreadable: ({ file, reason }: { file: string; reason: string }) => {
      output.event('unreadable', { file, reason })
      output.note(`skipped, can't be read: ${file} (${reason})`)
    },
  }
}

function referenceOf(
  data: string,
  values: QualityValues,
  { size, channels }: FeaturesLooks,
  c: {
    readonly extractor: FeatureExtractor
    readonly output: Output
    readonly signal: AbortSignal
    readonly bars: Bars
    readonly keepFeatures: boolean
  },
): Promise<ImageStatistics> {
  const { extractor, signal, keepFeatures } = c
  return referenceStatistics(data, {
    ...readingOf(values, c.output),
    ...{ size, channels },
    ...{ extractor, signal, keepFeatures, limit: values.limit, batchSize: values.batch },
    onProgress: ({ done, total }) => c.bars.show('reference', done, total),
    onWarning: ({ message }) => warn(c.output, message),
  })
}

/** The covariance of fewer images than features is singular, and its distance from any other large. */
function warnOfFew(output: Output, count: number, { features }: FeatureExtractor): void {
  if (count <= features)
    warn(output, `FID of ${count} samples says little: take more than there are features, ${features}`)
}

/** One after another. */
export class Bars {
  #bar: Progress | undefined
  #label: string | undefined

  constructor(readonly terminal: Terminal) {}

  show(label: string, done: number, total: number): void {
    if (label !== this.#label) {
      this.clear()
      this.#label = label
      this.#bar = new Progress(this.terminal, { label, total, lines: true })
    }
    this.#bar!.update(done)
  }

  clear(): void {
    this.#bar?.clear()
    this.#bar = undefined
    this.#label = undefined
  }
}

export function reportQuality({
  images,
  fid,
  kid,
  precision,
  recall,
  inceptionScore,
  reference,
}: QualityReport): string[] {
  const others = reference?.images === undefined ? '' : `${reference.images} images of `
  const lines = [`${images} images${reference ? `, compared with ${others}${reference.name}` : ''}`]
  const spread = ({ mean, std }: { mean: number; std: number }, digits: number) =>
    `${mean.toFixed(digits)} +- ${std.toFixed(digits)}`
  if (fid !== undefined) lines.push(`FID              ${fid.toFixed(4)}`)
  if (kid) lines.push(`KID              ${spread(kid, 6)}`)
  if (precision !== undefined) lines.push(`precision        ${precision.toFixed(4)}`)
  if (recall !== undefined) lines.push(`recall           ${recall.toFixed(4)}`)
  if (inceptionScore) lines.push(`Inception score  ${spread(inceptionScore, 4)}`)
  return lines
}
