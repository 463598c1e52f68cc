/** A part of an evaluation as a JSON file, and such parts put together. */
import { type JsonObject, readJsonFile } from '../checkpoint/json'
import { headerFields, headerOf, type PartHeader } from '../data/parts/part-file'
import { type NamedPart, partsInOrder } from '../data/parts/part-set'
import { DiffusionError } from '../errors'
import { type Evaluation, type EvaluationPart, mergeEvaluations } from './evaluate'

interface EvaluationFile extends NamedPart {
  readonly sums: EvaluationPart['sums']
}

/** The file's text. Throws `not-finite` where a sum is. */
export function evaluationText(header: PartHeader, { sums }: EvaluationPart): string {
  if (!Object.values(sums).flat(2).every(Number.isFinite))
    throw new DiffusionError('not-finite', 'the bits per dimension of an image are not finite', { argument: 'model' })
  return `${JSON.stringify({ ...headerFields(header), sums })}\n`
}

/** Parts in order. Throws `not-found`, `io`, `bad-file`, and what partsInOrder throws. */
export async function openEvaluations(files: readonly string[]): Promise<EvaluationFile[]> {
  const parts: EvaluationFile[] = []
  for (const file of files) parts.push(await read(file))
  return partsInOrder(parts)
}

export function mergeFiles(parts: readonly EvaluationFile[]): Evaluation {
  return mergeEvaluations(parts.map(({ shard, first, count, sums }) => ({ shard, first, images: count, sums })))
}

async function read(file: string): Promise<EvaluationFile> {
  const bad = (problem: string) =>
    new DiffusionError('bad-file', `${file} is not a part of an evaluation: ${problem}`, { argument: 'parts' })
  const value = await readJsonFile(file, { argument: 'parts' })
  const header = headerOf(value, bad)
  const sums = value.sums as JsonObject | undefined
  const isSum = (v: unknown) => Array.isArray(v) && v.length <= maxParts && v.every(Number.isFinite)
  const T = (sums?.vb as unknown[] | undefined)?.length
  const isByTime = (v: unknown) => Array.isArray(v) && v.length === T && v.every(isSum)
  const fits =
    typeof sums === 'object' &&
    sums !== null &&
    [sums.bitsPerDim, sums.priorBpd].every(isSum) &&
    [sums.vb, sums.xstartMse, sums.mse].every(isByTime)
  if (!fits) throw bad('its sums are missing or damaged')
  return { ...header, file, sums: sums as unknown as EvaluationPart['sums'], layout: `${T} timesteps` }
}

/** Numbers that do not overlap are at most so many: float64 has 2098 bits, 53 each. */
const maxParts = 40
