/**
 * The weights of a model in a diffusers folder: one file, or shards with an index of which tensor is where; a variant such as
 * fp16 has its name in that of its files.
 */
import { access, readdir, unlink } from 'node:fs/promises'
import path from 'node:path'
import { DiffusionError, quote } from '../../errors'
import { ioError } from '../../file-errors'
import type { StateDict } from '../../nn/parameters'
import { atomicWrite } from '../atomic-write'
import { elementBytes } from '../dtypes'
import { isObject, readJsonFile } from '../json'
import { plainTensors } from '../plain-numbers'
import { type StoredTensor, writeSafetensors } from '../safetensors'
import { openStateDictFile } from '../state-dict-file'

export type Weights = Readonly<Record<string, StoredTensor>>

export interface WeightsOptions {
  /** Of a file's tensors, in bytes; where all are more, there are several. Default: no limit. */
  readonly maxShardSize?: number
  /** 'fp16' writes half precision. */
  readonly variant?: string
}

/** What weights' files are called, by their extensions in the order of preference. */
type FileNames = Readonly<Record<'safetensors' | 'bin', string>>

const diffusersFiles: FileNames = { safetensors: 'diffusion_pytorch_model', bin: 'diffusion_pytorch_model' }
/** Text encoders are models of transformers. */
export const transformersFiles: FileNames = { safetensors: 'model', bin: 'pytorch_model' }

const fileName = (stem: string, variant: string | undefined, extension: string, suffix = '') =>
  `${stem}${variant === undefined ? '' : `.${variant}`}${suffix}.${extension}`

/** Their numbers stay in the files until they are asked for. Throws `not-found`, `io` and `bad-file`. */
export async function readWeights(folder: string, variant?: string, files = diffusersFiles): Promise<StateDict> {
  const names = Object.entries(files).map(([extension, stem]) => fileName(stem, variant, extension))
  for (const name of names) {
    if (await exists(path.join(folder, name))) return wholeFile(path.join(folder, name))
    const index = path.join(folder, `${name}.index.json`)
    if (await exists(index)) return shards(folder, index)
  }
  const message = `${folder} has no weights: none of ${names.join(', ')}, whole or with an index${await otherWeights(folder, files)}`
  throw new DiffusionError('not-found', message, { argument: 'path', received: folder })
}

/** What else is there: variants, or files of other names. */
async function otherWeights(folder: string, { safetensors, bin }: FileNames): Promise<string> {
  const files = (await readdir(folder).catch(() => [])).sort()
  const weights = new RegExp(`^(?:${safetensors}|${bin})((?:\\.[\\w-]+?)*)(?:-\\d+-of-\\d+)?\\.(?:safetensors|bin)$`)
  const found = files.flatMap((file) => {
    const match = weights.exec(file)
    return match ? [match[1].slice(1)] : []
  })
  const variants = [...new Set(found)].filter(Boolean).slice(0, 8)
  if (variants.length > 0) return `; it has those of the variant ${variants.map(quote).join(', ')}`
  const others = files.filter((file) => /\.(safetensors|bin|pt|pth|ckpt|msgpack|onnx|h5)$/.test(file))
  return others.length > 0 ? `; it has ${others.slice(0, 4).map(quote).join(', ')}` : ''
}

async function wholeFile(file: string): Promise<StateDict> {
  const { tensors, others, budget } = await openStateDictFile(file)
  if (others.length > 0) throw bad(file, `${quote(others[0])} is not a tensor`)
  return plainTensors(tensors, budget)
}

async function shards(folder: string, index: string): Promise<StateDict> {
  const { weight_map: map } = await readJsonFile(index)
  if (!isObject(map)) throw bad(index, "it has no 'weight_map'")
  const tensors: StateDict = Object.create(null)
  for (const file of new Set(Object.values(map))) {
    // A name, not a path: nothing outside of the folder is read.
    if (typeof file !== 'string' || !/^[\w-][\w.-]*$/.test(file)) throw bad(index, 'it names a file that is none')
    const shard = await wholeFile(path.join(folder, file))
    for (const [name, tensor] of Object.entries(shard)) {
      if (map[name] !== file) throw bad(index, `it does not have ${quote(name)} in ${file}`)
      tensors[name] = tensor
    }
  }
  const missing = Object.keys(map).find((name) => !(name in tensors))
  if (missing !== undefined) throw bad(index, `${quote(missing)} is not where it says`)
  return tensors
}

/** Writes the files, then the index, and removes those of before. Throws `io`. */
export async function writeWeights(
  folder: string,
  weights: Weights,
  o: WeightsOptions,
  { safetensors: stem } = diffusersFiles,
): Promise<void> {
  const tensors = o.variant === 'fp16' ? halved(weights) : weights
  const parts = divide(tensors, o.maxShardSize ?? Infinity)
  const whole = fileName(stem, o.variant, 'safetensors')
  const number = (i: number) => String(i).padStart(5, '0')
  const written = parts.map((_, i) => {
    return parts.length === 1
      ? whole
      : fileName(stem, o.variant, 'safetensors', `-${number(i + 1)}-of-${number(parts.length)}`)
  })
  for (const [i, part] of parts.entries()) await writeSafetensors(path.join(folder, written[i]), part, { format: 'pt' })
  if (parts.length > 1) {
    const index = `${whole}.index.json`
    const map = Object.fromEntries(parts.flatMap((part, i) => Object.keys(part).map((name) => [name, written[i]])))
    const total = Object.values(tensors).reduce((sum, tensor) => sum + bytesOf(tensor), 0)
    const json = { metadata: { total_size: total }, weight_map: map }
    await atomicWrite(path.join(folder, index), `${JSON.stringify(json, null, 2)}\n`)
    written.push(index)
  }
  await removeOthers(folder, { stem, variant: o.variant }, written)
}

function halved(weights: Weights): Record<string, StoredTensor> {
  const entries = Object.entries(weights).map(([name, tensor]) => {
    return [name, tensor.dtype === 'F32' ? { ...tensor, dtype: 'F16' as const } : tensor] as const
  })
  return Object.fromEntries(entries)
}

/** In the order of the tensors; one that is larger than the limit has a part of its own. */
function divide(weights: Weights, limit: number): Record<string, StoredTensor>[] {
  const parts: Record<string, StoredTensor>[] = [{}]
  let size = 0
  for (const [name, tensor] of Object.entries(weights)) {
    const bytes = bytesOf(tensor)
    if (size > 0 && size + bytes > limit) {
      parts.push({})
      size = 0
    }
    parts[parts.length - 1][name] = tensor
    size += bytes
  }
  return parts
}

function bytesOf({ dtype, data }: StoredTensor): number {
  return data.length * elementBytes[dtype]
}

/** Files of the same variant that would be read in place of those just written, or beside them. */
async function removeOthers(
  folder: string,
  { stem, variant }: { stem: string; variant?: string },
  written: readonly string[],
): Promise<void> {
  const name = fileName(stem, variant, 'safetensors', '(-\\d{5}-of-\\d{5})?').replaceAll('.', '\\.')
  const own = new RegExp(`^${name}(\\.index\\.json)?$`)
  try {
    for (const file of await readdir(folder)) {
      if (own.test(file) && !written.includes(file)) await unlink(path.join(folder, file))
    }
  } catch (error) {
    throw ioError(`cannot remove the weights of before from ${folder}`, error, {
      path: folder,
      kept: 'the new ones are written',
    })
  }
}

function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  )
}

function bad(file: string, problem: string): DiffusionError {
  return new DiffusionError('bad-file', `${file} is not of a diffusers model: ${problem}`, {
    argument: 'path',
    received: file,
  })
}
