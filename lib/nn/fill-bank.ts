/** What banks are filled with: numbers of a state dict, those in files without a copy on the host; initial values. */
import type { Device } from '../device'
import { DiffusionError } from '../errors'
import type { NumbersFile } from '../file-numbers'
import type { InitialValues, NativeBuffer, StoredNumbers } from '../native'
import type { Seed } from '../options'
import { formatBytes, heldNumbers } from '../parameter-slot'
import { pauses } from '../pause'
import { seedWords } from '../rng'
import { sizeOf } from '../tensor'
import { changedOrder, reorder } from './layout'
import type { Parameter, ParameterTable, StateDict } from './parameters'

/** Numbers that are handed over at a time, and how many the device may have waiting. */
const piece = 2 ** 21
const mostWaiting = 2 ** 24

/**
 * Has the parameters of `slots` taken from a dict that has all of them. What lies in files is read by the device's thread, a few megabytes
 * at a time. Throws what reading throws; the buffer then has a part of it.
 */
export async function fillBank(
  device: Device,
  bank: NativeBuffer,
  slots: readonly Parameter[],
  dict: StateDict,
): Promise<void> {
  const files = new Map<NumbersFile, StoredNumbers[]>()
  const pause = pauses()
  let waiting = 0
  for (const slot of slots) {
    const numbers = dict[slot.name].inFile
    if (numbers) {
      const { file, dtype, position } = numbers
      if (!files.has(file)) files.set(file, [])
      if (sizeOf(slot.shape) > 0) files.get(file)!.push({ position, dtype, place: heldNumbers(slot), ...axesOf(slot) })
      continue
    }
    const values = (await dict[slot.name].values()) as Float32Array
    const ordered = changedOrder(slot) ? new Float32Array(values.length) : values
    if (ordered !== values) reorder(values, ordered, slot, 'fromTorch')
    if (slot.format !== 'fp32') {
      await bank.fill(ordered, heldNumbers(slot))
      await pause()
      continue
    }
    for (let at = 0; at < ordered.length; at += piece) {
      const part = ordered.subarray(at, at + piece)
      bank.write(part, slot.offset + at)
      waiting += part.length
      if (waiting > mostWaiting) {
        await device.synchronize()
        waiting = 0
      }
      await pause()
    }
  }
  for (const [file, tensors] of files) await file.use((descriptor) => bank.load(descriptor, tensors))
}

/** Four axes, of which those that stay in their order are one. */
function axesOf(slot: Parameter): Pick<StoredNumbers, 'axes' | 'order'> {
  const { axes, order } = changedOrder(slot) ?? { axes: [sizeOf(slot.shape), 1, 1, 1], order: [0, 1, 2, 3] }
  return { axes, order }
}

/** A parameter of a bank of the same layout. */
export function copySlot(bank: NativeBuffer, source: NativeBuffer, slot: Parameter): void {
  const { offset, length, format, row, scales } = heldNumbers(slot)
  bank.copyFrom(source, offset, offset, Math.ceil((length * formatBytes[format]) / 4))
  if (scales !== undefined) bank.copyFrom(source, scales, scales, length / row!)
}

/** Has initial values drawn for `slots` before anything that is asked for later. The buffer is new: zeros are there. */
export function drawInitial(
  bank: NativeBuffer,
  table: ParameterTable,
  slots: ReadonlySet<Parameter>,
  seed: Seed,
): void {
  const values = table.slots.flatMap((slot, index): InitialValues[] => {
    const { initializer } = slot
    if (!slots.has(slot) || initializer.kind === 'zeros') return []
    const own = { place: heldNumbers(slot), index }
    if (initializer.kind === 'normal') return [{ ...own, kind: 'normal', a: initializer.mean, b: initializer.std }]
    if (initializer.kind === 'uniform') {
      return [{ ...own, kind: 'uniform', a: 1 / Math.sqrt(initializer.fanIn), b: 0 }]
    }
    const value = initializer.kind === 'constant' ? initializer.value : 1
    return [{ ...own, kind: 'constant', a: value, b: 0 }]
  })
  if (values.length === 0) return
  try {
    bank.draw(...seedWords(seed), values)
  } catch (error) {
    throw DiffusionError.from(error)
  }
}
