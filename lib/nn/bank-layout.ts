/** Where the parameters of a table lie in its banks. Offsets and counts are in elements of four bytes, whatever is in them. */
import type { WeightFormat } from '../native'
import { formatBytes } from '../parameter-slot'
import { sizeOf } from '../tensor'

interface Held {
  readonly shape: readonly number[]
  readonly graphShape?: readonly number[]
  readonly frozen: boolean
  readonly format: WeightFormat
}

export interface BankLayout<Slot> {
  /** `scales`: of int8. */
  readonly places: ReadonlyMap<Slot, { readonly offset: number; readonly scales?: number }>
  /** Of the bank of what is trained, the gaps included: a multiple of `alignment`. */
  readonly count: number
  /** Of the bank of what is frozen. */
  readonly frozenCount: number
}

/**
 * Slots start at multiples of a cache line, so that a vector load never crosses from one into the next; those of a group that are narrow,
 * at multiples of so many of their own numbers.
 */
const alignment = 16
const aligned = (n: number) => Math.ceil(n / alignment) * alignment

/**
 * In either bank slots lie in their order, each with its group. A part is as it would be by itself: after its slots are the factors of
 * those that are int8.
 */
export function layOut<Slot extends Held>(
  parts: readonly (readonly Slot[])[],
  groups: ReadonlyMap<Slot, readonly Slot[]>,
): BankLayout<Slot> {
  const places = new Map<Slot, { offset: number; scales?: number }>()
  const layOutBank = (slots: readonly Slot[], start: number): number => {
    let [end, group] = [start, undefined as readonly Slot[] | undefined]
    for (const slot of slots) {
      const isNext = slot.format !== 'fp32' && group !== undefined && group === groups.get(slot)
      const offset = isNext ? end : aligned(end)
      places.set(slot, { offset })
      end = offset + (aligned(sizeOf(slot.shape)) * formatBytes[slot.format]) / 4
      group = groups.get(slot)
    }
    end = aligned(end)
    for (const slot of slots.filter(({ format }) => format === 'int8')) {
      places.get(slot)!.scales = end
      end += (slot.graphShape ?? slot.shape)[0]
    }
    return aligned(end)
  }
  let [count, frozenCount] = [0, 0]
  for (const part of parts) {
    const slots = [...new Set(part.flatMap((first) => groups.get(first) ?? [first]))]
    count = layOutBank(
      slots.filter(({ frozen }) => !frozen),
      count,
    )
    frozenCount = layOutBank(
      slots.filter(({ frozen }) => frozen),
      frozenCount,
    )
  }
  return { places, count, frozenCount }
}
