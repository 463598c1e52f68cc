/** Arrays of numbers with a shape, on the host or on a device. */
import type { Device } from './device'
import { DiffusionError, describe, invalidArgument, markCopy } from './errors'
import type { FileNumbers } from './file-numbers'
import type { NativeBuffer } from './native'
import { parseOptions, type Seed, seed } from './options'
import { normal, Purpose } from './rng'

export type TensorDType = 'float32' | 'int32'
export type Shape = readonly number[]

type Storage =
  | { readonly host: Float32Array | Int32Array }
  | { readonly file: FileNumbers }
  | { readonly device: Device; readonly buffer: NativeBuffer; readonly owned: boolean }

/** Of Tensor.randn. */
export interface RandnOptions {
  /** Of the numbers: an integer, or a bigint of 64 bits. Default 0. */
  seed?: Seed
}

/** Images are NCHW. A Tensor never changes; what is given to `from` and taken from `data()` is copied. */
export class Tensor {
  readonly shape: readonly number[]
  readonly dtype: TensorDType
  #storage: Storage | undefined

  private constructor(storage: Storage, shape: Shape, dtype: TensorDType) {
    this.#storage = storage
    this.shape = Object.freeze([...shape])
    this.dtype = dtype
  }

  /**
   * `number[]` and Float32Array become float32, Int32Array int32. `shape` defaults to one dimension. Throws
   * `invalid-argument` when the shape's product is not the number of elements.
   */
  static from(data: Float32Array | Int32Array | readonly number[], shape: Shape = [data.length]): Tensor {
    if (!(data instanceof Float32Array || data instanceof Int32Array || Array.isArray(data))) {
      throw invalidArgument('data', 'a Float32Array, an Int32Array or an array of numbers', data)
    }
    if (Array.isArray(data) && !data.every((v) => typeof v === 'number')) {
      throw invalidArgument('data', 'numbers', data)
    }
    const copy = data instanceof Int32Array ? data.slice() : Float32Array.from(data)
    return Tensor.wrap(copy, shape)
  }

  /**
   * Normal numbers of the seed's stream `user`; row i along the first dimension is the same whatever the size of that
   * dimension. Default seed: 0.
   */
  static randn(shape: Shape, options: RandnOptions = {}): Tensor {
    checkShape(shape)
    const o = parseOptions('Tensor.randn', options, { seed: seed(0) })
    const [rows, size] = shape.length > 1 ? [shape[0], sizeOf(shape.slice(1))] : [1, sizeOf(shape)]
    const data = new Float32Array(rows * size)
    for (let i = 0; i < rows; i++) data.set(normal(o.seed, Purpose.user, i, 0, size), i * size)
    return Tensor.wrap(data, shape)
  }

  /** @internal Without a copy: the caller gives the array away. */
  static wrap(data: Float32Array | Int32Array, shape: Shape): Tensor {
    checkShape(shape)
    if (sizeOf(shape) !== data.length) {
      throw new DiffusionError(
        'invalid-argument',
        `shape: [${shape.join(', ')}] has ${sizeOf(shape)} elements, but the data has ${data.length}`,
        { argument: 'shape', expected: `${data.length} elements`, received: `[${shape.join(', ')}]` },
      )
    }
    return new Tensor({ host: data }, shape, data instanceof Int32Array ? 'int32' : 'float32')
  }

  /** @internal float32 on a device. A tensor that owns its buffer frees it when it is disposed of. */
  static onDevice(device: Device, buffer: NativeBuffer, shape: Shape, o: { owned: boolean }): Tensor {
    return new Tensor({ device, buffer, owned: o.owned }, shape, 'float32')
  }

  /** @internal float32 that is read from its file whenever it is asked for. Never for the user, whose tensors don't change. */
  static inFile(numbers: FileNumbers, shape: Shape): Tensor {
    return new Tensor({ file: numbers }, shape, 'float32')
  }

  /** @internal Where its numbers are, if they are in a file. */
  get inFile(): FileNumbers | undefined {
    const storage = this.#live()
    return 'file' in storage ? storage.file : undefined
  }

  /** The number of elements. */
  get size(): number {
    return sizeOf(this.shape)
  }

  /** The values as a new Float32Array, NCHW for images (int32 values are converted). */
  async data(): Promise<Float32Array> {
    const storage = this.#live()
    if ('host' in storage) return Float32Array.from(storage.host)
    if ('file' in storage) return storage.file.read()
    return storage.buffer.read(0, this.size)
  }

  /** @internal The values without a copy where they are on the host; not to be written to. */
  async values(): Promise<Float32Array | Int32Array> {
    const storage = this.#live()
    if ('file' in storage) return storage.file.read()
    return 'host' in storage ? storage.host : storage.buffer.read(0, this.size)
  }

  /** @internal What a program can be bound to: the buffer where it is on that device, else the values. float32 only. */
  async binding(device: Device): Promise<NativeBuffer | Float32Array> {
    const storage = this.#live()
    if ('file' in storage) return storage.file.read()
    if ('buffer' in storage) return storage.device === device ? storage.buffer : storage.buffer.read(0, this.size)
    return storage.host instanceof Float32Array ? storage.host : Float32Array.from(storage.host)
  }

  /** Gives the memory back. Using the tensor afterwards throws `disposed`; disposing of it again does nothing. */
  dispose(): void {
    const storage = this.#storage
    this.#storage = undefined
    if (storage && 'buffer' in storage && storage.owned) storage.buffer.release()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  get disposed(): boolean {
    return this.#storage === undefined
  }

  #live(): Storage {
    if (!this.#storage) {
      throw new DiffusionError('disposed', `a Tensor of shape [${this.shape.join(', ')}] was used after dispose()`)
    }
    return this.#storage
  }
}

markCopy(Tensor)

export function sizeOf(shape: Shape): number {
  return shape.reduce((product, extent) => product * extent, 1)
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((extent, i) => extent === b[i])
}

export function checkShape(shape: unknown, argument = 'shape'): asserts shape is Shape {
  if (!Array.isArray(shape) || !shape.every((extent) => Number.isSafeInteger(extent) && extent >= 0)) {
    throw invalidArgument(argument, 'an array of integers of at least 0', shape)
  }
}

/** Throws unless `tensor` is a float32 Tensor, of `shape` where that is given. */
export function checkTensor(tensor: unknown, argument: string, shape?: Shape): asserts tensor is Tensor {
  if (tensor instanceof Tensor && tensor.dtype === 'float32' && (!shape || sameShape(tensor.shape, shape))) return
  const dtype = tensor instanceof Tensor ? `${tensor.dtype} ` : ''
  const expected = `a float32 Tensor${shape ? ` of shape [${shape.join(', ')}]` : ''}`
  const received = `${dtype}${describe(tensor)}`
  throw new DiffusionError('invalid-argument', `${argument}: expected ${expected}, got ${received}`, {
    argument,
    expected,
    received,
  })
}
