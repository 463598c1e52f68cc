/** `ddpm evaluate --features`: what FID and others compare of samples, in a file, to be compared later. */
import { partName } from '../data/parts/part-file'
import type { DeviceName } from '../device'
import { type FeaturesLooks, writeFeatures } from '../evaluate/features-file'
import { type ImageSet, imagesOf } from '../evaluate/images'
import { openInception } from '../evaluate/open-inception'
import { UsageError } from './args'
import { batchOf, checkDrawOptions, type Span } from './draw'
import { Bars, defaultCount, openSamples, type QualityValues, samplesOfModel } from './evaluate-quality'
import { checkWritable, isFile, outputFile, tellRenamed } from './free-name'
import { openGuides } from './guidance'
import { openModel } from './open-model'
import { type Output, warn } from './output'
import { sampleRecord } from './sample-record'
import { namePart, partOf, type SpanShard, shardGiven, shardOfSpan } from './shard'

export interface FeaturesValues extends QualityValues {
  readonly features: string
  readonly shard?: string
  readonly overwrite?: boolean
}

/** Where they go. Throws UsageError for a shard that there is not, or that is there already. */
export async function featuresFile({ features, shard, overwrite, ...values }: FeaturesValues): Promise<string> {
  if (shard === undefined) return outputFile(features, { overwrite })
  if (values.samples === undefined) shardOfModel(shard, values)
  const file = await namePart(overwrite === true)(partName(features, shardGiven(shard)), isFile)
  await checkWritable(file)
  return file
}

export async function evaluateFeatures(
  file: string,
  values: FeaturesValues,
  model: string | undefined,
  output: Output,
  signal: AbortSignal,
): Promise<void> {
  if (values.samples === undefined) checkDrawOptions(values)
  const extractor = await openInception(values.inception, { device: (values.device ?? 'auto') as DeviceName })
  const bars = new Bars(output.progress)
  const write = async (
    images: ImageSet,
    looks: FeaturesLooks,
    o: { shard?: SpanShard; record: () => Promise<Record<string, string>>; bar: boolean },
  ) => {
    const part = o.shard && partOf(o.shard, await o.record(), extractor.device)
    await writeFeatures(file, images, {
      ...{ extractor, looks, part, signal },
      onProgress: ({ done, total }) => o.bar && bars.show('features', done, total),
    })
    output.say(`features of ${images.count} images: ${file}`)
    tellRenamed(output, values.shard === undefined ? values.features : undefined, file)
    output.event('done', { images: images.count, file })
  }
  try {
    if (values.samples !== undefined) {
      const { data, channels } = await openSamples(values, output)
      const whole = { first: 0, count: Math.min(data.length, values.count ?? data.length) }
      const batchSize = batchOf(values)
      const shard = values.shard === undefined ? undefined : shardOfSpan(values.shard, whole, batchSize)
      const { first, count } = shard ?? whole
      const looks = { size: [data.height, data.width], channels } as const
      const record = async () => ({ data: data.fingerprint, batch: String(batchSize) })
      return await write(imagesOf(data, { first, count, batchSize }), looks, { shard, record, bar: true })
    }
    using ddpm = await openModel(values, model)
    using guides = await openGuides(ddpm, values)
    const shard = values.shard === undefined ? undefined : shardOfModel(values.shard, values)
    const { set, looks } = samplesOfModel({ ddpm, guides }, values, shard ?? wholeOfModel(values), { signal, output })
    await write(set, looks, { shard, record: () => sampleRecord({ ddpm, ...guides }, values), bar: false })
    for (const warning of ddpm.warnings()) warn(output, warning)
  } finally {
    bars.clear()
    extractor.release()
  }
}

function wholeOfModel({ count = defaultCount }: Pick<QualityValues, 'count'>): Span {
  return { first: 0, count }
}

function shardOfModel(shard: string, values: Omit<QualityValues, 'features'>): SpanShard {
  return shardOfSpan(shard, wholeOfModel(values), batchOf(values))
}

/** Throws UsageError for options that go with a comparison. */
export function checkFeatures({ fid, metrics }: QualityValues, output: string | undefined): void {
  for (const [name, value] of Object.entries({ fid, metrics, output }))
    if (value !== undefined) throw new UsageError(`--${name} goes without --features, which compares nothing`)
}
