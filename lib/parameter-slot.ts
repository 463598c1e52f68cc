/** Where parameters lie in the banks of a network. */
import type { HeldNumbers, WeightFormat } from './native'

/** A parameter's place in the flat buffers 'weights', 'grads', 'm', 'v' and 'ema', or, where it is frozen, in 'frozen'. */
export interface ParameterSlot {
  readonly name: string
  /** As in the PyTorch state_dict: [out, in, kh, kw], [out, in, 1], [out, in] or [c]. */
  readonly shape: readonly number[]
  /** In elements of four bytes, a multiple of 16, or of 4 in other formats than fp32. The data lies as [out, kh, kw, in]. */
  readonly offset: number
  /** How it is held; only weights of convolutions and linear layers otherwise than the default 'fp32'. */
  readonly format?: WeightFormat
  /** Of int8: where in the bank, in elements of four bytes, the factors of its rows lie, one for each of shape[0]. */
  readonly scales?: number
  /** The shape it has in the graph, in the same order of axes, where a state dict has it in another. */
  readonly graphShape?: readonly number[]
  /** It is not trained: it has no gradient, no moments and no average. Default false. */
  readonly frozen?: boolean
}

/** Bytes of a number. */
export const formatBytes: Readonly<Record<WeightFormat, number>> = { fp32: 4, fp16: 2, bf16: 2, int8: 1 }

/** Its numbers in a bank. */
export function heldNumbers(slot: ParameterSlot): HeldNumbers {
  const { name, shape, graphShape = shape, offset, format = 'fp32', scales } = slot
  const length = shape.reduce((a, b) => a * b, 1)
  return { name, offset, length, format, ...(format === 'int8' && { row: length / graphShape[0], scales }) }
}

/** Where a table's parameters lie within a larger one: what is added to their names and to their offsets in either bank. */
export interface TablePlace {
  readonly prefix: string
  readonly offset: number
  readonly frozenOffset: number
}

/** The parameters of a linear layer. */
export interface LinearSlots {
  readonly weight: ParameterSlot
  readonly bias?: ParameterSlot
}

/** Slots that lie side by side as one, whose outputs are those of all; undefined where they don't. */
export function joined(slots: readonly ParameterSlot[]): ParameterSlot | undefined {
  if (slots.length === 0) return undefined
  const [{ shape, offset, frozen, format, scales }] = slots
  const inner = shape.slice(1)
  const bytes = formatBytes[format ?? 'fp32']
  let [outs, end] = [0, offset]
  for (const slot of slots) {
    const isAlike = slot.frozen === frozen && slot.format === format && String(slot.shape.slice(1)) === String(inner)
    const isNext = slot.offset === end && (scales === undefined || slot.scales === scales + outs)
    if (!isAlike || !isNext) return undefined
    outs += slot.shape[0]
    end += (bytes * slot.shape.reduce((a, b) => a * b, 1)) / 4
  }
  return { name: slots.map(({ name }) => name).join(', '), shape: [outs, ...inner], offset, format, scales, frozen }
}
