/**
 * Python's pickles, protocols 2 to 5, by the opcode list in CPython's pickletools.py. A pickle is a program: here it can only
 * put plain data together and ask its host, which decides what a name means and what may be called. Opcodes that torch.save
 * never writes are refused.
 */
import type { DiffusionError } from '../../errors'
import type { Budget } from '../budget'
import { addItem, setItem } from './containers'

/** What a pickle may refer to, and what of it may be called. Each may throw what the reading then ends with. */
export interface PickleHost {
  /** GLOBAL, STACK_GLOBAL: the value that stands for a name. Nothing is looked up or loaded. */
  global(module: string, name: string): unknown
  /** REDUCE, and with `construct` NEWOBJ and NEWOBJ_EX. */
  call(callee: unknown, args: readonly unknown[], construct: boolean): unknown
  /** BUILD: the object with this state. */
  build(object: unknown, state: unknown): unknown
  /** APPEND, SETITEM and their like: whether the object takes items of any kind, which are then dropped. */
  takesItems(object: unknown): boolean
  /** BINPERSID. */
  persistent(id: unknown): unknown
  bad(problem: string): DiffusionError
}

/** The bytes ended before the pickle did. */
export class PickleTruncated extends Error {}

// Rough sizes of V8's objects, for the budget.
const opCost = 32 // the slot on the stack and the number in it
const memoCost = 64
const containerCost = 256
const stringCost = 48 // beside its characters
const maxLongBytes = 1024
const maxNameLength = 512
/** Python counts its memo up from 0, so that no index is beyond the number of opcodes. */
const freeMemo = 1 << 16

/** A tuple is a frozen array, a list one that isn't; a dict is a Map; integers beyond 2^53 are bigints. */
export function unpickle(bytes: Uint8Array, host: PickleHost, budget: Budget): { value: unknown; length: number } {
  const machine = new Machine(bytes, host, budget)
  return { value: machine.run(), length: machine.position }
}

const tooDeep = 10_000

class Machine {
  position = 0
  readonly #view: DataView
  readonly #memo = new Map<number, unknown>()
  #stack: unknown[] = []
  /** The stacks below each MARK. */
  readonly #below: unknown[][] = []

  constructor(
    private readonly bytes: Uint8Array,
    readonly host: PickleHost,
    private readonly budget: Budget,
  ) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  run(): unknown {
    for (;;) {
      const op = this.#uint8()
      if (op === 0x2e) return this.#stop()
      this.budget.items(1)
      this.#charge(opCost)
      const run = opcodes[op]
      if (!run) throw this.host.bad(`its pickle has the opcode 0x${op.toString(16)}, which is not allowed`)
      run(this)
    }
  }

  #stop(): unknown {
    if (this.#stack.length !== 1 || this.#below.length !== 0) throw this.host.bad('its pickle leaves several values')
    return this.#stack[0]
  }

  #charge(bytes: number): void {
    this.budget.memory(bytes)
  }

  // ---- bytes -------------------------------------------------------------------------------------------------------

  #take(length: number): number {
    const at = this.position
    if (length > this.bytes.length - at) throw new PickleTruncated()
    this.position += length
    return at
  }

  #uint8(): number {
    return this.#view.getUint8(this.#take(1))
  }

  /** An unsigned number of 1, 2, 4 or 8 bytes. */
  uint(size: 1 | 2 | 4 | 8): number {
    const at = this.#take(size)
    if (size === 1) return this.#view.getUint8(at)
    if (size === 2) return this.#view.getUint16(at, true)
    if (size === 4) return this.#view.getUint32(at, true)
    const value = Number(this.#view.getBigUint64(at, true))
    if (!Number.isSafeInteger(value)) throw this.host.bad('its pickle has a length beyond any file')
    return value
  }

  int32(): number {
    return this.#view.getInt32(this.#take(4), true)
  }

  /** The only number that is big-endian. */
  float64(): number {
    return this.#view.getFloat64(this.#take(8), false)
  }

  /** Two's complement, little-endian. */
  long(size: number): number | bigint {
    if (size > maxLongBytes) throw this.host.bad(`its pickle has an integer of ${size} bytes`)
    const at = this.#take(size)
    this.#charge(stringCost + 4 * size)
    const hex = Buffer.from(this.bytes.subarray(at, at + size))
      .reverse()
      .toString('hex')
    const value = BigInt.asIntN(8 * size, BigInt(`0x0${hex}`))
    const number = Number(value)
    return Number.isSafeInteger(number) ? number : value
  }

  take(length: number): Uint8Array {
    const at = this.#take(length)
    this.#charge(containerCost + length)
    return this.bytes.slice(at, at + length)
  }

  text(length: number): string {
    const at = this.#take(length)
    this.#charge(stringCost + 2 * length)
    try {
      return utf8.decode(this.bytes.subarray(at, at + length))
    } catch {
      throw this.host.bad('a string in its pickle is not UTF-8')
    }
  }

  /** Python 2's str. */
  latin1(length: number): string {
    const at = this.#take(length)
    this.#charge(stringCost + 2 * length)
    return Buffer.from(this.bytes.buffer, this.bytes.byteOffset + at, length).toString('latin1')
  }

  line(): string {
    const end = this.bytes.subarray(this.position, this.position + maxNameLength + 1).indexOf(0x0a)
    if (end >= 0) {
      const line = this.text(end)
      this.position += 1
      return line
    }
    if (this.bytes.length - this.position > maxNameLength) throw this.host.bad('its pickle has a name without an end')
    throw new PickleTruncated()
  }

  // ---- the stack ---------------------------------------------------------------------------------------------------

  push(value: unknown): void {
    this.#stack.push(value)
  }

  pop(): unknown {
    if (this.#stack.length === 0) throw this.host.bad('its pickle takes a value from an empty stack')
    return this.#stack.pop()
  }

  top(): unknown {
    if (this.#stack.length === 0) throw this.host.bad('its pickle takes a value from an empty stack')
    return this.#stack[this.#stack.length - 1]
  }

  mark(): void {
    if (this.#below.length === tooDeep) throw this.host.bad('its pickle is nested too deeply')
    this.#charge(containerCost)
    this.#below.push(this.#stack)
    this.#stack = []
  }

  /** What was pushed since the last MARK. */
  popMark(): unknown[] {
    const below = this.#below.pop()
    if (!below) throw this.host.bad('its pickle ends a group that it did not begin')
    const items = this.#stack
    this.#stack = below
    return items
  }

  list(items: unknown[]): void {
    this.#charge(containerCost)
    this.push(items)
  }

  tuple(items: unknown[]): void {
    this.list(Object.freeze(items) as unknown[])
  }

  tupleOf(length: number): void {
    const items: unknown[] = new Array(length)
    for (let i = length - 1; i >= 0; i--) items[i] = this.pop()
    this.tuple(items)
  }

  append(items: readonly unknown[]): void {
    const list = this.top()
    if (this.host.takesItems(list)) return
    if (!Array.isArray(list) || Object.isFrozen(list)) throw this.host.bad('its pickle appends to what is not a list')
    for (const item of items) list.push(item)
  }

  dict(items: readonly unknown[]): void {
    this.#charge(containerCost)
    this.push(new Map())
    this.set(items)
  }

  set(items: readonly unknown[]): void {
    const dict = this.top()
    if (this.host.takesItems(dict)) return
    if (!(dict instanceof Map)) throw this.host.bad('its pickle sets an item of what is not a dict')
    if (items.length % 2 !== 0) throw this.host.bad('its pickle has a key without a value')
    for (let i = 0; i < items.length; i += 2) setItem(dict, items[i], items[i + 1], this.budget)
  }

  emptySet(): void {
    this.#charge(containerCost)
    this.push(new Set())
  }

  add(items: readonly unknown[]): void {
    const set = this.top()
    if (this.host.takesItems(set)) return
    if (!(set instanceof Set)) throw this.host.bad('its pickle adds to what is not a set')
    for (const item of items) addItem(set, item, this.budget)
  }

  // ---- memo, names, calls ------------------------------------------------------------------------------------------

  put(index: number = this.#memo.size): void {
    if (index > this.bytes.length + freeMemo) throw this.host.bad(`its pickle keeps a value as number ${index}`)
    this.#charge(memoCost)
    this.#memo.set(index, this.top())
  }

  get(index: number): void {
    if (!this.#memo.has(index)) throw this.host.bad(`its pickle refers to a value ${index} that it does not have`)
    this.push(this.#memo.get(index))
  }

  global(module: unknown, name: unknown): void {
    if (typeof module !== 'string' || typeof name !== 'string')
      throw this.host.bad('its pickle has a name of no string')
    this.#charge(containerCost)
    this.push(this.host.global(module, name))
  }

  call(construct: boolean): void {
    const args = this.pop()
    const callee = this.pop()
    if (!Array.isArray(args) || !Object.isFrozen(args)) throw this.host.bad('its pickle calls without a tuple')
    this.#charge(2 * containerCost)
    this.push(this.host.call(callee, args, construct))
  }

  build(): void {
    const state = this.pop()
    this.push(this.host.build(this.pop(), state))
  }

  persistent(): void {
    this.#charge(containerCost)
    this.push(this.host.persistent(this.pop()))
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

type Opcode = (m: Machine) => void

/** By code. What is missing is refused: INST, OBJ and NEWOBJ_EX, EXT1 to EXT4, PERSID, and the text of protocol 0. */
const opcodes: readonly (Opcode | undefined)[] = table({
  // PROTO, FRAME
  '\x80': (m) => checkProtocol(m, m.uint(1)),
  '\x95': (m) => void m.uint(8),
  // None, False, True
  N: (m) => m.push(null),
  '\x89': (m) => m.push(false),
  '\x88': (m) => m.push(true),
  // BININT, BININT1, BININT2, LONG1, LONG4, BINFLOAT
  J: (m) => m.push(m.int32()),
  K: (m) => m.push(m.uint(1)),
  M: (m) => m.push(m.uint(2)),
  '\x8a': (m) => m.push(m.long(m.uint(1))),
  '\x8b': (m) => m.push(m.long(m.uint(4))),
  G: (m) => m.push(m.float64()),
  // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8, SHORT_BINSTRING, BINSTRING
  '\x8c': (m) => m.push(m.text(m.uint(1))),
  X: (m) => m.push(m.text(m.uint(4))),
  '\x8d': (m) => m.push(m.text(m.uint(8))),
  U: (m) => m.push(m.latin1(m.uint(1))),
  T: (m) => m.push(m.latin1(m.uint(4))),
  // SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8
  C: (m) => m.push(m.take(m.uint(1))),
  B: (m) => m.push(m.take(m.uint(4))),
  '\x8e': (m) => m.push(m.take(m.uint(8))),
  '\x96': (m) => m.push(m.take(m.uint(8))),
  // MARK, POP, POP_MARK, DUP
  '(': (m) => m.mark(),
  '0': (m) => void m.pop(),
  '1': (m) => void m.popMark(),
  '2': (m) => m.push(m.top()),
  // EMPTY_LIST, LIST, APPEND, APPENDS
  ']': (m) => m.list([]),
  l: (m) => m.list(m.popMark()),
  a: (m) => {
    const item = m.pop()
    m.append([item])
  },
  e: (m) => m.append(m.popMark()),
  // EMPTY_TUPLE, TUPLE, TUPLE1 to TUPLE3
  ')': (m) => m.tuple([]),
  t: (m) => m.tuple(m.popMark()),
  '\x85': (m) => m.tupleOf(1),
  '\x86': (m) => m.tupleOf(2),
  '\x87': (m) => m.tupleOf(3),
  // EMPTY_DICT, DICT, SETITEM, SETITEMS
  '}': (m) => m.dict([]),
  d: (m) => m.dict(m.popMark()),
  s: (m) => {
    const value = m.pop()
    m.set([m.pop(), value])
  },
  u: (m) => m.set(m.popMark()),
  // EMPTY_SET, ADDITEMS, FROZENSET
  '\x8f': (m) => m.emptySet(),
  '\x90': (m) => m.add(m.popMark()),
  '\x91': (m) => {
    const items = m.popMark()
    m.emptySet()
    m.add(items)
  },
  // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
  q: (m) => m.put(m.uint(1)),
  r: (m) => m.put(m.uint(4)),
  '\x94': (m) => m.put(),
  h: (m) => m.get(m.uint(1)),
  j: (m) => m.get(m.uint(4)),
  // GLOBAL, STACK_GLOBAL, REDUCE, NEWOBJ, BUILD, BINPERSID
  c: (m) => {
    const module = m.line()
    m.global(module, m.line())
  },
  '\x93': (m) => {
    const name = m.pop()
    m.global(m.pop(), name)
  },
  R: (m) => m.call(false),
  '\x81': (m) => m.call(true),
  b: (m) => m.build(),
  Q: (m) => m.persistent(),
})

function checkProtocol(m: Machine, protocol: number): void {
  if (protocol < 2 || protocol > 5) throw m.host.bad(`its pickle has protocol ${protocol}, not 2 to 5`)
}

function table(byCharacter: Record<string, Opcode>): (Opcode | undefined)[] {
  const byCode: (Opcode | undefined)[] = new Array(256).fill(undefined)
  for (const [character, opcode] of Object.entries(byCharacter)) byCode[character.charCodeAt(0)] = opcode
  return byCode
}
