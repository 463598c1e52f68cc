/** `ddpm evaluate` of a model over a folder: how well it describes images. */
import { Dataset } from '../data/dataset'
import type { PartHeader } from '../data/parts/part-file'
import type { DDPM } from '../diffusion/models/ddpm'
import { LatentDiffusion } from '../diffusion/models/latent-diffusion'
import { DiffusionError } from '../errors'
import type { Seed } from '../options'
import { bigintsAsText } from '../printable'
import {
  type EvaluateOptions,
  type Evaluation,
  evaluate as evaluateModel,
  evaluateShard,
  mergeEvaluations,
} from '../trainer/evaluate'
import { checkFinite } from '../trainer/evaluation-file'
import type { EvaluationPart } from '../trainer/evaluation-part'
import type { Ranks } from '../trainer/ranks'
import type { Values } from './args'
import type { Span } from './draw'
import { type modelOptions, openModel } from './open-model'
import type { Output } from './output'
import { Progress } from './progress'
import { weightsHash } from './sample-record'
import { deviceText, partOf, tellDevices } from './shard'
import { ofAll, shareOf, tellWarnings } from './together'

const defaultBatch = 16

export interface BitsValues extends Values<typeof modelOptions> {
  readonly limit?: number
  readonly batch?: number
  readonly seed?: Seed
  readonly background?: string
  readonly range?: string
  readonly svg?: boolean
  readonly classes?: string
}

export interface Evaluator {
  readonly ranks: Ranks
  readonly output: Output
  readonly signal: AbortSignal
}

/** On all ranks, each of which evaluates a shard. */
export function evaluateBits(folder: string, values: BitsValues, o: Evaluator): Promise<Evaluation> {
  return withData(folder, values, o, async (ddpm, data, options) => {
    const { ranks, signal } = o
    if (ranks.size === 1) return { result: await evaluateModel(ddpm, data, options) }
    const record = await bitsRecord(ddpm, data, values)
    const whole = wholeOf(data, values)
    await ranks.compare({ ...record, limit: values.limit, images: whole.count })
    const { index, total } = shareOf(ranks, whole, options.batchSize)
    const part = await ranks.together(
      (stop) => evaluateShard(ddpm, data, { ...options, shard: `${index}/${total}`, signal: stop }),
      signal,
    )
    checkFinite(part)
    const all = await ofAll(ranks, { ...conditionsOf(ddpm), part })
    return { result: mergeEvaluations(all.map(({ part }) => part)), conditions: all }
  })
}

/** What a shard adds, and of what it is a part. */
export function evaluateBitsShard(
  folder: string,
  values: BitsValues & { readonly shard: string },
  o: Evaluator,
): Promise<{ part: EvaluationPart; header: PartHeader }> {
  return withData(folder, values, o, async (ddpm, data, options) => {
    const part = await evaluateShard(ddpm, data, { ...options, shard: values.shard })
    const span = { ...part.shard, first: part.first, count: part.images, whole: wholeOf(data, values) }
    const header = partOf(span, await bitsRecord(ddpm, data, values), ddpm.device)
    return { result: { part, header } }
  })
}

/** Under which a process evaluated. */
interface Conditions {
  readonly device: string
  readonly warnings: readonly string[]
}

function conditionsOf(ddpm: DDPM): Conditions {
  return { device: deviceText(ddpm.device), warnings: ddpm.warnings() }
}

function wholeOf(data: Dataset, { limit }: BitsValues): Span {
  return { first: 0, count: Math.min(data.length, limit ?? data.length) }
}

/** What all shards have in common. */
async function bitsRecord(ddpm: DDPM, data: Dataset, values: BitsValues): Promise<Record<string, string>> {
  const record = { weights: await weightsHash(ddpm), parameterization: ddpm.parameterization, data: data.fingerprint }
  const named = (['seed', 'batch', 'deterministic', 'precision', 'weight-format'] as const).map((name) => [
    name,
    JSON.stringify(values[name], bigintsAsText) ?? '',
  ])
  return { ...record, ...Object.fromEntries(named) }
}

async function withData<T>(
  folder: string,
  values: BitsValues,
  { ranks, output, signal }: Evaluator,
  work: (
    ddpm: DDPM,
    data: Dataset,
    options: EvaluateOptions & { readonly batchSize: number },
  ) => Promise<{ result: T; conditions?: readonly Conditions[] }>,
): Promise<T> {
  const ddpm = await ranks.leaderFirst(() => openModel(values))
  let bar: Progress | undefined
  try {
    if (ddpm instanceof LatentDiffusion) {
      const problem =
        'a latent model describes latents, whose bits per dimension say nothing of images: compare samples, with --fid'
      throw new DiffusionError('unsupported', problem, { argument: 'model' })
    }
    const data = await Dataset.open(folder, {
      size: [ddpm.imageSize, ddpm.imageWidth],
      channels: ddpm.channels,
      background: values.background,
      svg: values.svg,
      range: values.range?.split(',').map(Number) as [number, number] | undefined,
      classes: values.classes,
      seed: values.seed,
      onUnreadable: ({ file, reason }) => {
        output.event('unreadable', { file, reason })
        output.note(`skipped, can't be read: ${file} (${reason})`)
      },
    })
    const { result, conditions = [conditionsOf(ddpm)] } = await work(ddpm, data, {
      limit: values.limit,
      batchSize: values.batch ?? defaultBatch,
      seed: values.seed,
      signal,
      onProgress: ({ done, total, images }) => {
        bar ??= new Progress(output.progress, { label: 'evaluate', total, lines: true })
        bar.update(done, `${images} images`)
      },
    })
    bar?.clear()
    tellDevices(output, conditions)
    tellWarnings(
      output,
      conditions.map(({ warnings }) => warnings),
    )
    return result
  } finally {
    bar?.clear()
    ddpm.dispose()
  }
}

/** Rows of the table for people. */
const rows = 10

export function reportBits({ images, bitsPerDim, priorBpd, vb, xstartMse, mse }: Evaluation): string[] {
  const T = vb.length
  const lines = [
    `${images} images: ${bitsPerDim.toFixed(4)} bits/dim, ${priorBpd.toExponential(2)} of them the prior's`,
  ]
  lines.push('', '  timesteps   bits/dim   error of x_0   error of the noise')
  for (let row = 0; row < Math.min(rows, T); row++) {
    const [from, to] = [row, row + 1].map((r) => Math.round((r * T) / Math.min(rows, T)))
    const part = (values: readonly number[]) => values.slice(from, to).reduce((a, b) => a + b, 0)
    const mean = (values: readonly number[]) => (part(values) / (to - from)).toFixed(5)
    const range = `${from}-${to - 1}`.padStart(11)
    lines.push(`${range} ${part(vb).toFixed(5).padStart(10)} ${mean(xstartMse).padStart(14)} ${mean(mse).padStart(20)}`)
  }
  return lines
}
