/** Tensors of a file as networks take them: float32, or integers of 32 bits. */
import { quote } from '../errors'
import { Tensor } from '../tensor'
import type { Budget } from './budget'
import type { OpenTensor, StoredTensor } from './safetensors'

export interface NumberTensor {
  readonly shape: readonly number[]
  readonly data: Float32Array | Int32Array
}

/** Takes the tensors over: what was converted is let go. Throws `bad-file` for an integer beyond 32 bits. */
export function plainNumbers(tensors: Record<string, StoredTensor>, budget: Budget): Record<string, NumberTensor> {
  const result: Record<string, NumberTensor> = Object.create(null)
  for (const name of Object.keys(tensors)) {
    const { shape, data } = tensors[name]
    delete tensors[name]
    result[name] = { shape, data: plain(name, data, budget) }
  }
  return result
}

/** The same as Tensors. What is in a file stays there. */
export function plainTensors(tensors: Record<string, OpenTensor>, budget: Budget): Record<string, Tensor> {
  const result: Record<string, Tensor> = Object.create(null)
  for (const name of Object.keys(tensors)) {
    const { shape, data } = tensors[name]
    delete tensors[name]
    if ('file' in data) result[name] = Tensor.inFile(data, shape)
    else result[name] = Tensor.wrap(plain(name, data, budget), shape)
  }
  return result
}

function plain(name: string, data: StoredTensor['data'], budget: Budget): Float32Array | Int32Array {
  return data instanceof Float32Array || data instanceof Int32Array ? data : narrowed(name, data, budget)
}

function narrowed(name: string, data: StoredTensor['data'], budget: Budget): Int32Array {
  budget.memory(data.length * Int32Array.BYTES_PER_ELEMENT)
  const integers = new Int32Array(data.length)
  for (let i = 0; i < data.length; i++) {
    const value = Number(data[i])
    if (value !== (value | 0)) throw budget.bad(`${quote(name)} has an integer beyond 32 bits, ${value}`)
    integers[i] = value
  }
  return integers
}
