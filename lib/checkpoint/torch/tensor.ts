/** Tensors of a PyTorch checkpoint: a view of a storage, by element offset and strides. */
import type { Budget } from '../budget'
import {
  allocate,
  elementBytes,
  fill,
  type ReadableDType,
  type ReadBytes,
  readNumbers,
  type TensorData,
} from '../dtypes'

/** One of the file's blocks of numbers; several tensors may share it. */
export class TorchStorage {
  constructor(
    readonly key: string,
    readonly dtype: ReadableDType,
    /** In elements. */
    readonly size: number,
  ) {}
}

/** A tensor in a file that is not read yet. */
export class TorchTensor {
  constructor(
    readonly storage: TorchStorage,
    /** Of the first element, in elements. */
    readonly offset: number,
    readonly shape: readonly number[],
    readonly strides: readonly number[],
  ) {}

  get dtype(): ReadableDType {
    return this.storage.dtype
  }

  /** The number of elements. */
  get size(): number {
    return this.shape.reduce((product, extent) => product * extent, 1)
  }
}

/** What is wrong with the tensor's view, or undefined if it lies within its storage. */
export function viewProblem({ storage, offset, shape, strides }: TorchTensor): string | undefined {
  const counts = [offset, ...shape, ...strides]
  if (!counts.every((count) => Number.isSafeInteger(count) && count >= 0))
    return 'has a shape, stride or offset that is no count'
  if (shape.length !== strides.length) return `has ${strides.length} strides for ${shape.length} dimensions`
  if (shape.includes(0)) return undefined
  const last = shape.reduce((sum, extent, i) => sum + (extent - 1) * strides[i], offset)
  return last < storage.size ? undefined : `reaches to element ${last} of a storage of ${storage.size}`
}

/** The elements in row-major order; `read` gives bytes of the storage. */
export async function readView(tensor: TorchTensor, read: ReadBytes, budget: Budget): Promise<TensorData> {
  const { dtype, offset, size } = tensor
  const from = (first: number): ReadBytes => {
    return (target, position) => read(target, first * elementBytes[dtype] + position)
  }
  if (size === 0 || isContiguous(tensor)) return readNumbers(dtype, size, { read: from(offset), budget })
  return gather(tensor, from, budget)
}

/** Whether the elements lie one after the other. */
export function isContiguous({ shape, strides }: TorchTensor): boolean {
  let expected = 1
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] !== 1 && strides[i] !== expected) return false
    expected *= shape[i]
  }
  return true
}

/** Elements of a storage that are held at a time. */
const windowLength = 1 << 14

/**
 * Goes through the storage from its begin to its end, whatever the order of the axes: what lies between the elements is not read
 * where it is wide, and nothing is read twice unless the strides overlap.
 */
async function gather(tensor: TorchTensor, from: (first: number) => ReadBytes, budget: Budget): Promise<TensorData> {
  const { dtype, offset, shape, strides, size } = tensor
  const target = allocate(dtype, size, budget)
  const steps = shape.map((_, axis) => shape.slice(axis + 1).reduce((a, b) => a * b, 1))
  const axes = shape
    .map((extent, axis) => ({ extent, stride: strides[axis], step: steps[axis] }))
    .sort((a, b) => b.stride - a.stride)
  const end = 1 + axes.reduce((sum, { extent, stride }) => sum + (extent - 1) * stride, offset)
  const window = allocate(dtype, windowLength, budget)
  let begin = 0
  let length = 0
  const index = new Array<number>(axes.length).fill(0)
  let position = offset
  let to = 0
  for (let i = 0; i < size; i++) {
    if (position < begin || position >= begin + length) {
      begin = position
      length = Math.min(windowLength, end - begin)
      await fill(dtype, window.subarray(0, length), from(begin))
    }
    target[to] = window[position - begin]
    // The next index, like an odometer.
    for (let a = axes.length - 1; a >= 0; a--) {
      const { extent, stride, step } = axes[a]
      position += stride
      to += step
      if (++index[a] < extent) break
      position -= stride * extent
      to -= step * extent
      index[a] = 0
    }
  }
  budget.release(window.byteLength)
  return target
}
