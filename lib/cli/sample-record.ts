/** What a sampling that goes on must have in common with the one that it continues: a JSON object beside the images. */
import { createHash } from 'node:crypto'
import { readImageBytes } from '../data/image-bytes'
import { maxDecodeBytes } from '../data/image-limits'
import type { DDPM } from '../diffusion/models/ddpm'
import { DiffusionError, describe } from '../errors'
import { bigintsAsText } from '../printable'
import { type DrawValues, drawOptions } from './draw'
import type { Guides } from './guidance'

/** Values of options as text, by their names; `weights` is a hash of the model's. */
export type SampleRecord = Readonly<Record<string, string>>

/** How many images, which a sampling may change when it goes on. */
const free: ReadonlySet<string> = new Set(['count'])

export async function sampleRecord(
  { ddpm, guidingModel, classifier }: Pick<Guides, 'guidingModel' | 'classifier'> & { readonly ddpm: DDPM },
  values: DrawValues & {
    readonly deterministic?: boolean
    readonly precision?: string
    readonly 'weight-format'?: string
  },
): Promise<SampleRecord> {
  const record: Record<string, string> = {
    weights: await weightsHash(ddpm),
    // What the weights do not say: options and configurations do.
    parameterization: text(ddpm.parameterization),
  }
  for (const name of ['deterministic', 'precision', 'weight-format'] as const) record[name] = text(values[name])
  for (const [name, spec] of Object.entries(drawOptions)) {
    if (free.has(name)) continue
    const value = values[name as keyof DrawValues]
    const file = 'value' in spec && spec.value === 'file' && typeof value === 'string'
    record[name] = file ? await fileHash(value) : text(value)
  }
  for (const [name, guide] of Object.entries({ 'guiding-model': guidingModel, classifier })) {
    if (guide) record[name] = await weightsHash(guide)
  }
  return record
}

/** Throws `invalid-argument` where what is computed would be something else. `where`: what has the images. */
export function checkRecord(saved: Record<string, unknown>, now: SampleRecord, where: string): void {
  for (const [name, value] of Object.entries(now)) {
    if (saved[name] === value) continue
    const what = name === 'weights' ? 'the model' : `--${name}`
    const message =
      name === 'weights'
        ? `${where} has images of another model, which a sampling with --resume can't mix with those of this one`
        : `${what} was ${describe(saved[name])} for the images in ${where} and can't become ${describe(value)} with --resume`
    throw new DiffusionError('invalid-argument', message, { argument: name, received: value })
  }
}

function text(value: unknown): string {
  return JSON.stringify(value, bigintsAsText) ?? ''
}

async function fileHash(file: string): Promise<string> {
  const bytes = await readImageBytes(file, maxDecodeBytes).catch(() => undefined) // what is wrong with it is said where it is used
  return bytes ? `sha256:${sha256(bytes)}` : file
}

/** Of a state dict: names and values. */
export async function weightsHash(model: Pick<DDPM, 'stateDict'>): Promise<string> {
  const hash = createHash('sha256')
  for (const [name, tensor] of Object.entries(await model.stateDict())) {
    const { buffer, byteOffset, byteLength } = await tensor.data()
    hash.update(name).update(new Uint8Array(buffer, byteOffset, byteLength))
  }
  return hash.digest('hex')
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}
