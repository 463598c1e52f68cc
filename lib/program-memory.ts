/** Whether a compiled program fits its device's memory, and what it does without where it does not. */
import type { Device } from './device'
import type { MemoryNeed } from './memory-limit'
import type { NativeProgram } from './native'

/** What a program is part of. */
export interface ProgramUse {
  /** Its kind, e.g. 'train'. */
  readonly kind?: string
  /** Samples in its batch, where it has one. */
  readonly batch?: number
  /** Of its network. Default: it has none. */
  readonly weights?: WeightsMemory
}

export interface WeightsMemory {
  /** Bytes of all banks that are on the device. */
  readonly bytes: number
  /** Bytes that a bank will take which is not; undefined for names that are no bank's. */
  missing(name: string): number | undefined
  /** What would make them take `excess` bytes less where they are not trained. */
  narrower(excess: number): readonly string[]
}

/** Of what a call has beside its program's inputs and outputs, which are counted twice: tables, conditions, further states. */
const besides = 2 ** 16

/** Of the batch that would fit if memory grew with it alone: algorithms, and with them scratch, differ from batch to batch. */
const linear = 0.85

function needOf(device: Device, native: NativeProgram, { kind = '', batch, weights }: ProgramUse) {
  const { arena, scratch, packed, bound } = native.memory()
  let [missing, inputs] = [0, besides]
  for (const [name, bytes] of Object.entries(bound)) {
    const bank = weights?.missing(name)
    if (bank === undefined) inputs += 2 * bytes
    else missing += bank
  }
  const workspace = device.native.workspaceBytes()
  const growth = Math.max(0, arena + scratch - workspace)
  const { inUse } = device.memoryInfo()
  const more = missing + growth + packed + inputs
  const advice = (limit: number) => {
    const narrower = sampling.has(kind) ? (weights?.narrower(inUse + more - limit) ?? []) : []
    const fixed = inUse - workspace + missing + packed + scratch
    if (fixed - scratch >= limit) return narrower // however small the batch is
    const fitting = Math.floor((linear * (limit - fixed) * (batch ?? 0)) / (arena + inputs))
    const fewer = batch !== undefined && batch > 1 ? [batchAdvice(kind, fitting)] : []
    return [...fewer, ...(smaller[kind] ?? []), ...narrower]
  }
  const need: MemoryNeed = {
    what: whatOf(kind, batch),
    parts: {
      weights: (weights?.bytes ?? 0) + missing,
      activations: arena + scratch,
      'packed weights': packed,
      'inputs and outputs': inputs,
    },
    more,
    advice,
  }
  return { need, packed }
}

const names: Readonly<Record<string, string>> = {
  train: 'a training step',
  step: 'a sampling step',
  encode: 'encoding',
  decode: 'decoding',
}

/** Kinds that weights of any format do for. */
const sampling: ReadonlySet<string> = new Set(['step', 'encode', 'decode'])

function whatOf(kind: string, batch: number | undefined): string {
  const name = Object.hasOwn(names, kind) ? names[kind] : 'a program'
  return batch === undefined ? name : `${name} of batch size ${batch}`
}

function batchAdvice(kind: string, n: number): string {
  const size = n >= 1 ? `batchSize ${n}` : 'a smaller batchSize'
  return kind === 'train' ? `${size}, with accumulate for the same sum` : size
}

/** What makes activations fewer, by kind of program. */
const smaller: Readonly<Record<string, readonly string[]>> = {
  train: ['useCheckpoint of unetConfig', 'smaller images'],
  step: ['a smaller height and width'],
  encode: ['enableTiling() of the first stage, or smaller tiles'],
  decode: ['enableTiling() of the first stage, or smaller tiles'],
}

/** Of packed weights that are tried, in this order: those that are not packed take scratch, so that none is not always the least. */
const parts = [0.75, 0.5, 0.25, 0.125, 0]

/**
 * Gives a program that has none yet its memory. Where there is too little it is compiled `again` with fewer packed weights. Throws `out-of-memory` before anything is taken.
 */
export function reserve(
  device: Device,
  compiled: NativeProgram,
  again: (packedBytes: number) => NativeProgram,
  use: ProgramUse,
): NativeProgram {
  let native = compiled
  try {
    const { need: whole, packed } = needOf(device, native, use)
    let need = whole
    let least = whole
    for (const part of packed > 0 ? parts : []) {
      if (device.excess(need.more) <= 0) break
      native.release()
      native = again(Math.floor(part * packed))
      need = needOf(device, native, use).need
      if (need.more < least.more) least = need
    }
    if (device.excess(need.more) > 0) device.require(least)
    native.reserve()
    return native
  } catch (error) {
    native.release()
    throw error
  }
}
