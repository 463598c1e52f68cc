/** ONNX Runtime for Node.js, where bench/peers has it installed. */
import { createRequire } from 'node:module'
import path from 'node:path'

interface OrtTensor {
  readonly data: Float32Array
}

interface Ort {
  Tensor: new (type: string, data: Float32Array | BigInt64Array, dims: readonly number[]) => OrtTensor
  InferenceSession: {
    create(path: string): Promise<{
      readonly outputNames: readonly string[]
      run(feeds: Record<string, OrtTensor>): Promise<Record<string, OrtTensor>>
      release(): Promise<void>
    }>
  }
}

export interface OnnxRuntime {
  /** x [n, ...shape], t and y [n], n by the number of timesteps. */
  run(
    file: string,
    inputs: { x: Float32Array; t: Int32Array; y?: Int32Array },
    shape: readonly number[],
  ): Promise<Float32Array>
}

/** Undefined where it is not installed. */
export function loadRuntime(): OnnxRuntime | undefined {
  const require = createRequire(path.join(__dirname, '..', '..', '..', 'bench', 'peers', 'package.json'))
  try {
    require.resolve('onnxruntime-node')
  } catch {
    return undefined
  }
  const ort: Ort = require('onnxruntime-node')
  return {
    async run(file, { x, t, y }, shape) {
      const n = t.length
      const integers = (data: Int32Array) => new ort.Tensor('int64', BigInt64Array.from(data, BigInt), [n])
      const session = await ort.InferenceSession.create(file)
      try {
        const feeds = { x: new ort.Tensor('float32', x, [n, ...shape]), t: integers(t), ...(y && { y: integers(y) }) }
        return (await session.run(feeds))[session.outputNames[0]].data
      } finally {
        await session.release()
      }
    },
  }
}
