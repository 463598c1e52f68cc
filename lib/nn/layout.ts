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
