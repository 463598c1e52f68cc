/** A part of an evaluation as a JSON file, and such parts put together. */
import { readJsonFile } from '../checkpoint/json'
import { headerFields, headerOf, type PartHeader } from '../data/parts/part-file'
import { type NamedPart, partsInOrder } from '../data/parts/part-set'
import { DiffusionError } from '../errors'
import { type Evaluation, mergeEvaluations } from './evaluate'
import { type EvaluationPart, type EvaluationSums, isEvaluationSums } from './evaluation-part'

interface EvaluationFile extends NamedPart {
  readonly sums: EvaluationSums
}

/** Throws `not-finite` where a sum is, which JSON does not hold. */
export function checkFinite({ sums }: EvaluationPart): void {
  if (!Object.values(sums).flat(2).every(Number.isFinite))
    throw new DiffusionError('not-finite', 'the bits per dimension of an image are not finite', { argument: 'model' })
}

/** The file's text. Throws `not-finite` where a sum is. */
export function evaluationText(header: PartHeader, part: EvaluationPart): string {
  checkFinite(part)
  const { sums } = part
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
  const { sums } = value
  if (!isEvaluationSums(sums)) throw bad('its sums are missing or damaged')
  return { ...header, file, sums, layout: `${sums.vb.length} timesteps` }
}
