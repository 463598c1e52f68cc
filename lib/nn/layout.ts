/** How a parameter lies in its bank: [out, kh, kw, in] where the state dict has [out, in, kh, kw], or otherwise, as its `Stored` says. */
import { sizeOf } from '../tensor'

type Four = readonly [number, number, number, number]

/** A parameter that lies otherwise in its bank than its shape says. */
export interface Stored {
  /** Its axes, where they are more or fewer than those of the shape; the elements are in the same order. */
  readonly axes: Four
  /** The axes in the order of the bank. */
  readonly order: Four
  /** What the graph sees in the bank. */
  readonly graphShape: readonly number[]
}

export interface Shaped {
  readonly shape: readonly number[]
  readonly stored?: Stored
}

/** Axes in PyTorch's order, and their order in the bank; undefined where both are the same. */
export function changedOrder({ shape, stored }: Shaped): Pick<Stored, 'axes' | 'order'> | undefined {
  if (stored) return stored
  if (shape.length !== 4 || shape[2] * shape[3] === 1) return undefined
  return { axes: shape as unknown as Four, order: [0, 2, 3, 1] }
}

/** From the order of the state dict to that of the bank, or back. */
export function reorder(from: Float32Array, to: Float32Array, slot: Shaped, way: 'toTorch' | 'fromTorch'): void {
  const changed = changedOrder(slot)
  if (!changed) {
    to.set(from)
    return
  }
  const { axes, order } = changed
  const strides = axes.map((_, axis) => sizeOf(axes.slice(axis + 1)))
  const [a, b, c, d] = order.map((axis) => ({ count: axes[axis], stride: strides[axis] }))
  let inner = 0
  for (let i = 0; i < a.count; i++) {
    for (let j = 0; j < b.count; j++) {
      for (let k = 0; k < c.count; k++) {
        let torch = i * a.stride + j * b.stride + k * c.stride
        for (let l = 0; l < d.count; l++, inner++, torch += d.stride) {
          if (way === 'toTorch') to[torch] = from[inner]
          else to[inner] = from[torch]
        }
      }
    }
  }
}

/** Numbers of a bank in the order of the state dict: the same array where its rows can be put in order one by one, else another. */
export async function restored(numbers: Float32Array, slot: Shaped, pause: () => Promise<void>): Promise<Float32Array> {
  const changed = changedOrder(slot)
  if (!changed) return numbers
  const { axes, order } = changed
  if (order[0] !== 0) {
    const other = new Float32Array(numbers.length)
    reorder(numbers, other, slot, 'toTorch')
    return other
  }
  const one: Shaped = { shape: slot.shape, stored: { axes: [1, axes[1], axes[2], axes[3]], order, graphShape: [] } }
  const length = numbers.length / axes[0]
  const row = new Float32Array(length)
  for (let at = 0; at < numbers.length; at += length) {
    row.set(numbers.subarray(at, at + length))
    reorder(row, numbers.subarray(at, at + length), one, 'toTorch')
    await pause()
  }
  return numbers
}
