/**
 * What the pickles of torch.save may name, and the few names whose calls have a meaning here. Every other name is kept as a
 * Global, which nothing can call.
 */
import { type DiffusionError, quote } from '../../errors'
import type { Budget } from '../budget'
import type { ReadableDType } from '../dtypes'
import { addItem, setItem } from './containers'
import { Inert, isInert } from './inert'
import type { PickleHost } from './pickle'
import { TorchStorage, TorchTensor, viewProblem } from './tensor'

/** A Python name that a checkpoint mentions: a class, a function, a dtype. It is nothing but its name. */
export class Global {
  constructor(
    readonly module: string,
    readonly name: string,
  ) {}

  toString(): string {
    return `${this.module}.${this.name}`
  }
}

/** numpy.dtype, until a scalar is made of it. */
class NumpyDType {
  constructor(
    readonly code: string,
    readonly bigEndian = false,
  ) {}
}

const storages: Readonly<Record<string, ReadableDType>> = {
  DoubleStorage: 'F64',
  FloatStorage: 'F32',
  HalfStorage: 'F16',
  BFloat16Storage: 'BF16',
  LongStorage: 'I64',
  IntStorage: 'I32',
  ShortStorage: 'I16',
  CharStorage: 'I8',
  ByteStorage: 'U8',
  BoolStorage: 'BOOL',
}

const maxDimensions = 64

/** 'cuda' and the like. */
const maxDeviceName = 32
// Bytes of what a call makes, beside what the interpreter charges for any call.
const containerCost = 256
const extentCost = 16

type Bad = (problem: string) => DiffusionError
/** What a call makes may be as large as its arguments, which may be given to any number of calls: each charges its own. */
type Callable = (args: readonly unknown[], budget: Budget) => unknown

/** By module and name, as in a pickle's GLOBAL. */
const callables: Readonly<Record<string, Callable>> = {
  'collections OrderedDict': ([pairs = []], budget) => dictOf(pairs, budget),
  // Its factory is not called: a dict.
  'collections defaultdict': ([, pairs = []], budget) => dictOf(pairs, budget),
  'builtins set': ([items = []], budget) => setOf(items, budget),
  '__builtin__ set': ([items = []], budget) => setOf(items, budget),
  'builtins frozenset': ([items = []], budget) => setOf(items, budget),
  '__builtin__ frozenset': ([items = []], budget) => setOf(items, budget),
  'torch Size': ([extents = []], budget) => arrayOf(extents, budget.bad),
  'torch device': ([type, index], { bad }) => {
    if (typeof type !== 'string' || type.length > maxDeviceName) throw bad('a torch.device in it has no type')
    return typeof index === 'number' ? `${type}:${index}` : type
  },
  'torch._utils _rebuild_tensor': tensorOf,
  'torch._utils _rebuild_tensor_v2': tensorOf,
  'torch._utils _rebuild_parameter': ([tensor], { bad }) => parameterOf(tensor, bad),
  'torch._utils _rebuild_parameter_with_state': ([tensor], { bad }) => parameterOf(tensor, bad),
  '_codecs encode': ([text, encoding], budget) => bytesOf(text, encoding, budget),
  'numpy dtype': ([code], { bad }) => {
    if (typeof code !== 'string') throw bad('a numpy.dtype in it has no name')
    return new NumpyDType(code)
  },
  'numpy.core.multiarray scalar': ([dtype, bytes], { bad }) => numpyScalar(dtype, bytes, bad),
  'numpy._core.multiarray scalar': ([dtype, bytes], { bad }) => numpyScalar(dtype, bytes, bad),
}

/** The host of a checkpoint's pickle. `storage` receives what a persistent id says and may refuse it. */
export function torchHost(
  budget: Budget,
  storage: (key: string, dtype: ReadableDType, size: number) => TorchStorage,
): PickleHost {
  const { bad } = budget
  return {
    bad,
    global: (module, name) => new Global(module, name),
    call(callee, args, construct) {
      const name = callee instanceof Global ? `${callee.module} ${callee.name}` : undefined
      if (name !== undefined && Object.hasOwn(callables, name)) return callables[name](args, budget)
      if (callee instanceof Global && isInert(callee.module, callee.name, construct)) return new Inert(String(callee))
      if (name !== undefined && isMember(name, args)) return new Inert(String(args[0]))
      if (callee instanceof Global && callee.module.startsWith('__torch__'))
        throw bad('it is a program of TorchScript (torch.jit.save), not a state_dict')
      if (callee instanceof Global && callee.module.startsWith('torch.nn.'))
        throw bad(`it holds a whole module (${callee}), not its state_dict`)
      throw bad(
        `its pickle would call ${callee instanceof Global ? callee : 'what is not a name'}, which is not allowed; ` +
          'torch.save(model.state_dict(), file) writes the weights alone',
      )
    },
    build(object, state) {
      // An OrderedDict's attributes: the versions of a state_dict's modules (_metadata).
      if (object instanceof Inert || object instanceof Map) return object
      if (object instanceof NumpyDType && Array.isArray(state)) return new NumpyDType(object.code, state[1] === '>')
      throw bad('its pickle gives a state to what has none')
    },
    takesItems: (object) => object instanceof Inert,
    persistent(id) {
      if (!Array.isArray(id) || id.length < 5 || id[0] !== 'storage')
        throw bad('its pickle refers to something unknown')
      const [, type, key, , size, view] = id
      if (!(type instanceof Global) || type.module !== 'torch' || !Object.hasOwn(storages, type.name)) {
        throw bad(`it has a storage of type ${type instanceof Global ? type : 'unknown'}, which is not supported`)
      }
      if (typeof key !== 'string' || !Number.isSafeInteger(size) || size < 0) throw bad('a storage has no key or size')
      if (view !== undefined && view !== null) throw bad('it has views of storages, as PyTorch before 0.4 wrote them')
      return storage(key, storages[type.name], size)
    },
  }
}

/** getattr(Mode, 'FAST'): how Python 3.11 writes a member of an enumeration. */
function isMember(name: string, [owner, member]: readonly unknown[]): boolean {
  if (name !== 'builtins getattr' && name !== '__builtin__ getattr') return false
  return owner instanceof Global && isInert(owner.module, owner.name, true) && typeof member === 'string'
}

function arrayOf(value: unknown, bad: Bad): readonly unknown[] {
  if (Array.isArray(value)) return value
  throw bad('a sequence in it is something else')
}

function dictOf(pairs: unknown, budget: Budget): Map<unknown, unknown> {
  const dict = new Map()
  for (const pair of pairs instanceof Map ? pairs : arrayOf(pairs, budget.bad)) {
    const item = arrayOf(pair, budget.bad)
    if (item.length !== 2) throw budget.bad('an item of a dict in it is not a pair')
    setItem(dict, item[0], item[1], budget)
  }
  return dict
}

function setOf(items: unknown, budget: Budget): Set<unknown> {
  const set = new Set()
  for (const item of arrayOf(items, budget.bad)) addItem(set, item, budget)
  return set
}

/** (storage, offset, shape, strides, ...): what follows, requires_grad and hooks, has no meaning in a file. */
function tensorOf([storage, offset, shape, strides]: readonly unknown[], budget: Budget): TorchTensor {
  const { bad } = budget
  if (!(storage instanceof TorchStorage)) throw bad('a tensor in it has no storage')
  if (!Array.isArray(shape) || !Array.isArray(strides)) throw bad('a tensor in it has no shape')
  if (Math.max(shape.length, strides.length) > maxDimensions) {
    throw bad(`a tensor in it has ${shape.length} dimensions and ${strides.length} strides`)
  }
  budget.memory(extentCost * (shape.length + strides.length))
  const tensor = new TorchTensor(storage, offset as number, [...shape], [...strides])
  const problem = viewProblem(tensor)
  if (problem) throw bad(`a tensor in it ${problem}`)
  return tensor
}

function parameterOf(tensor: unknown, bad: Bad): TorchTensor {
  if (tensor instanceof TorchTensor) return tensor
  throw bad('a Parameter in it has no tensor')
}

/** How protocol 2 writes bytes. */
function bytesOf(text: unknown, encoding: unknown, budget: Budget): Uint8Array {
  if (typeof text !== 'string' || encoding !== 'latin1') throw budget.bad('bytes in it are not encoded as latin1')
  budget.work(text.length)
  budget.memory(containerCost + 2 * text.length)
  if (/[^\0-\xff]/.test(text)) throw budget.bad('bytes in it are above 255')
  return Uint8Array.from(Buffer.from(text, 'latin1'))
}

const scalarReaders: Readonly<Record<string, readonly [number, (view: DataView, little: boolean) => number | bigint]>> =
  {
    f8: [8, (view, little) => view.getFloat64(0, little)],
    f4: [4, (view, little) => view.getFloat32(0, little)],
    i8: [8, (view, little) => view.getBigInt64(0, little)],
    i4: [4, (view, little) => view.getInt32(0, little)],
    i2: [2, (view, little) => view.getInt16(0, little)],
    i1: [1, (view) => view.getInt8(0)],
    u8: [8, (view, little) => view.getBigUint64(0, little)],
    u4: [4, (view, little) => view.getUint32(0, little)],
    u2: [2, (view, little) => view.getUint16(0, little)],
    u1: [1, (view) => view.getUint8(0)],
  }

function numpyScalar(dtype: unknown, bytes: unknown, bad: Bad): number | bigint | boolean | Inert {
  if (!(dtype instanceof NumpyDType) || !(bytes instanceof Uint8Array)) throw bad('a numpy scalar in it has no value')
  const { code, bigEndian } = dtype
  if (code === 'b1' && bytes.length === 1) return bytes[0] !== 0
  const reader = Object.hasOwn(scalarReaders, code) ? scalarReaders[code] : undefined
  if (!reader) return new Inert(`numpy scalar of ${quote(code)}`)
  if (reader[0] !== bytes.length) throw bad(`a numpy scalar of ${quote(code)} in it has ${bytes.length} bytes`)
  const value = reader[1](new DataView(bytes.buffer, bytes.byteOffset, bytes.length), !bigEndian)
  return typeof value === 'bigint' && Number.isSafeInteger(Number(value)) ? Number(value) : value
}
