/** Tensors of a PyTorch checkpoint: a view of a storage, by element offset and strides. */
import { elementBytes, type ReadableDType, type ReadBytes, readNumbers, type TensorData } from '../dtypes'

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
export async function readView(tensor: TorchTensor, read: ReadBytes): Promise<TensorData> {
  const { dtype, offset, shape, strides, size } = tensor
  const from = (first: number, n: number) =>
    readNumbers(dtype, n, (target, position) => read(target, first * elementBytes[dtype] + position))
  if (size === 0 || isContiguous(shape, strides)) return from(offset, size)
  const span = shape.reduce((sum, extent, i) => sum + (extent - 1) * strides[i], 1)
  return gather(await from(offset, span), tensor)
}

function isContiguous(shape: readonly number[], strides: readonly number[]): boolean {
  let expected = 1
  for (let i = shape.length - 1; i >= 0; i--) {
    if (shape[i] !== 1 && strides[i] !== expected) return false
    expected *= shape[i]
  }
  return true
}

function gather<T extends TensorData>(source: T, { shape, strides, size }: TorchTensor): T {
  const target = new (source.constructor as new (length: number) => T)(size)
  const index = new Array<number>(shape.length).fill(0)
  let position = 0
  for (let i = 0; i < size; i++) {
    target[i] = source[position]
    // The next index, like an odometer.
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      position += strides[axis]
      if (++index[axis] < shape[axis]) break
      position -= strides[axis] * shape[axis]
      index[axis] = 0
    }
  }
  return target
}
