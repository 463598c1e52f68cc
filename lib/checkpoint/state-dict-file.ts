/** State dicts from any file that PyTorch users have: safetensors, .ckpt, .pt, .bin. */
import { DiffusionError, describe, quote } from '../errors'
import type { Budget } from './budget'
import { headLength, kindOf } from './file-kind'
import { likelyDict, type NamedDict } from './find-weights'
import { openRegularFile } from './regular-file'
import {
  type ChooseNames,
  type OpenTensor,
  openSafetensors,
  readSafetensors,
  readSafetensorsHeader,
  type StoredTensor,
} from './safetensors'
import { Inert, type TorchFile, TorchTensor, type TorchValue, withTorchFile } from './torch/checkpoint'

export interface StateDictFile {
  /** Without a prototype. */
  readonly tensors: Record<string, StoredTensor>
  /** Names whose values are no tensors. */
  readonly others: readonly string[]
  /** Numbers of a checkpoint beside its state_dict, such as global_step and epoch. */
  readonly counters: Readonly<Record<string, number>>
  /** What is left, for what is made of the tensors. */
  readonly budget: Budget
}

/** The same, whose floating-point tensors stay in the file until they are asked for. */
export interface OpenStateDictFile extends Omit<StateDictFile, 'tensors'> {
  readonly tensors: Record<string, OpenTensor>
}

/** Which dict of a checkpoint is read, by its key, and which names of it. A safetensors file is one dict with the key ''. */
export interface Choice {
  readonly key: string
  readonly wanted?: (name: string) => boolean
}

/** Dicts without any tensor are not among these. */
export type Choose = (dicts: readonly NamedDict[]) => Choice

/** What is called state_dict, else the largest dict. */
const likely: Choose = (dicts) => ({ key: likelyDict(dicts)?.key ?? '' })

/** A choice by the key of a user's. Throws `invalid-argument` where the file has no such dict. */
export function checkKey(key: string, dicts: readonly NamedDict[]): void {
  if (dicts.some((dict) => dict.key === key)) return
  const known = dicts.filter((dict) => dict.key !== '').map((dict) => quote(dict.key))
  const expected = known.length > 0 ? `one of ${known.slice(0, 8).join(', ')}` : 'none: the file is one dict'
  throw new DiffusionError('invalid-argument', `key: expected ${expected}, got ${quote(key)}`, {
    argument: 'key',
    expected,
    received: key,
  })
}

/** The file's state_dict. Throws `not-found`, `io` and `bad-file`. */
export async function readStateDictFile(path: string, choose: Choose = likely): Promise<StateDictFile> {
  if (await isTorch(path)) return withTorchFile(path, (file) => fromTorch(file, choose, file.load))
  const { tensors, budget } = await readSafetensors(path, chooseNames(choose))
  return { tensors, others: [], counters: {}, budget }
}

/** The same for weights that go to a device, without a copy of all of them on the host. */
export async function openStateDictFile(path: string, choose: Choose = likely): Promise<OpenStateDictFile> {
  if (await isTorch(path)) return withTorchFile(path, (file) => fromTorch(file, choose, file.open))
  const { tensors, budget } = await openSafetensors(path, chooseNames(choose))
  return { tensors, others: [], counters: {}, budget }
}

function chooseNames(choose: Choose): ChooseNames {
  return (names) => choose([{ key: '', names }]).wanted ?? (() => true)
}

/** Names and shapes of its tensors; their numbers are not read. Throws as readStateDictFile does. */
export async function readShapes(path: string, choose: Choose = likely): Promise<FileShapes['shapes']> {
  return (await readShapesAndCounters(path, choose)).shapes
}

export interface FileShapes extends Pick<StateDictFile, 'counters'> {
  readonly shapes: Record<string, { readonly shape: readonly number[] }>
}

/** The same, with the numbers of a checkpoint beside its state_dict. */
export async function readShapesAndCounters(path: string, choose: Choose = likely): Promise<FileShapes> {
  const shapes: Record<string, { shape: readonly number[] }> = Object.create(null)
  if (await isTorch(path)) {
    return withTorchFile(path, async (file) => {
      const { found, counters } = chosen(file, choose)
      for (const [name, { shape }] of found) shapes[name] = { shape }
      return { shapes, counters }
    })
  }
  const { entries } = await readSafetensorsHeader(path)
  const { wanted = () => true } = choose([{ key: '', names: entries.map(({ name }) => name) }])
  for (const { name, shape } of entries) if (wanted(name)) shapes[name] = { shape }
  return { shapes, counters: {} }
}

/** Whether it begins like a file of torch.save. What is wrong with it is reported by the reader. */
export async function isTorch(path: string): Promise<boolean> {
  return kindOf(await readHead(path)) === 'torch'
}

/** The first bytes; none of what can't be read. */
export async function readHead(path: string): Promise<Uint8Array> {
  const bytes = new Uint8Array(headLength)
  const file = await openRegularFile(path).catch(() => undefined)
  const read = await file?.handle.read(bytes, 0, bytes.length, 0).catch(() => undefined)
  await file?.handle.close()
  return bytes.subarray(0, read?.bytesRead ?? 0)
}

async function fromTorch<T extends OpenTensor>(
  file: TorchFile,
  choose: Choose,
  load: (tensor: TorchTensor) => Promise<T>,
): Promise<Omit<StateDictFile, 'tensors'> & { tensors: Record<string, T> }> {
  const { found, others, counters } = chosen(file, choose)
  const tensors: Record<string, T> = Object.create(null)
  for (const [name] of found) tensors[name] = none as T & StoredTensor // their order in the file stays
  for (const [name, tensor] of byStorage(found)) tensors[name] = await load(tensor)
  return { tensors, others, counters, budget: file.budget }
}

function chosen(file: TorchFile, choose: Choose) {
  const root = file.value
  if (!isContainer(root)) throw file.bad('it holds no dict')
  const dicts = dictsOf(file, root)
  const { key, wanted = () => true } = choose(named(dicts))
  const dict = dicts.get(key) ?? new Map(itemsOf(root))
  const found: [string, TorchTensor][] = []
  const others: string[] = []
  for (const [name, value] of dict) {
    if (typeof name !== 'string') throw file.bad('its state_dict has a name that is no string')
    if (!wanted(name)) continue
    if (value instanceof TorchTensor) found.push([name, value])
    else others.push(name)
  }
  if (found.length === 0 && others.length > 0) {
    const there = others.slice(0, 8).map((name) => `${quote(name)} (${kindOfValue(dict.get(name))})`)
    const more = others.length > there.length ? `, and ${others.length - there.length} more` : ''
    throw file.bad(`it has no tensors by their names, only ${there.join(', ')}${more}`)
  }
  const counters =
    root instanceof Map ? [...root].filter(([n, v]) => typeof n === 'string' && Number.isSafeInteger(v)) : []
  return { found, others, counters: Object.fromEntries(dict === root ? [] : counters) }
}

type Dict = ReadonlyMap<TorchValue, TorchValue>
type Container = Dict | readonly TorchValue[]

function isContainer(value: TorchValue): value is Container {
  return value instanceof Map || Array.isArray(value)
}

/** Those of a list by their places: some trainings save [weights, optimizer, step]. Numbers as keys count, as in a list. */
function itemsOf(container: Container): [string, TorchValue][] {
  const isKey = (key: TorchValue) => typeof key === 'string' || Number.isSafeInteger(key)
  return [...container.entries()].filter(([key]) => isKey(key)).map(([key, value]) => [String(key), value])
}

/** For messages. */
function kindOfValue(value: TorchValue | undefined): string {
  if (value instanceof Map) {
    const object = [...value.values()].find((item) => item instanceof Inert)
    return object ? `a dict with ${object}` : 'a dict'
  }
  if (Array.isArray(value)) {
    const what =
      value.length > 0 && value.every((item) => item instanceof TorchTensor) ? 'tensors, without names' : 'items'
    return `a list of ${value.length} ${what}`
  }
  return value instanceof Inert ? String(value) : describe(value)
}

/** Levels at which a training keeps weights: { ema: { model: { ... } } }. */
const maxDepth = 5
const maxDicts = 1000

/** The dicts of a checkpoint by their names within it, joined by dots; '' is the whole. One object is one dict. */
function dictsOf(file: TorchFile, root: Container): Map<string, Dict> {
  const dicts = new Map<string, Dict>(root instanceof Map ? [['', root]] : [])
  const seen = new Set<Container>([root])
  let level: [string, Container][] = [['', root]]
  for (let depth = 0; depth < maxDepth; depth++) {
    const next: [string, Container][] = []
    for (const [key, container] of level) {
      file.budget.items(container instanceof Map ? container.size : (container as readonly TorchValue[]).length)
      // Further in, numbers are those of an optimizer's parameters.
      if (depth > 0 && container instanceof Map && typeof container.keys().next().value === 'number') continue
      for (const [name, value] of itemsOf(container)) {
        if (!isContainer(value) || seen.has(value) || seen.size > maxDicts) continue
        seen.add(value)
        next.push([key === '' ? name : `${key}.${name}`, value])
      }
    }
    for (const [key, value] of next) if (value instanceof Map && !dicts.has(key)) dicts.set(key, value)
    level = next
  }
  return dicts
}

function named(dicts: ReadonlyMap<string, Dict>): NamedDict[] {
  const all = [...dicts].map(([key, dict]) => {
    const names = [...dict].filter(([name, value]) => typeof name === 'string' && value instanceof TorchTensor)
    return { key, names: names.map(([name]) => name as string) }
  })
  return all.filter(({ names }) => names.length > 0)
}

const none: StoredTensor = { dtype: 'U8', shape: [0], data: new Uint8Array() }

/** Those of one storage side by side, from its begin on: it is opened once, and read once. */
function byStorage(tensors: readonly [string, TorchTensor][]): [string, TorchTensor][] {
  const order = new Map<string, number>()
  for (const [, { storage }] of tensors) if (!order.has(storage.key)) order.set(storage.key, order.size)
  const rank = ({ storage }: TorchTensor) => order.get(storage.key)!
  return [...tensors].sort(([, a], [, b]) => rank(a) - rank(b) || a.offset - b.offset)
}
