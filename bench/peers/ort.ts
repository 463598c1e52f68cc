/** Loads ONNX Runtime for Node.js from this folder's own package.json, where it is installed. */
import { createRequire } from 'node:module'
import path from 'node:path'

/** Where its package.json is; the compiled file lies in dist/. */
export const peersFolder = path.join(__dirname, '..', '..', '..', 'bench', 'peers')

export interface OrtTensor {
  readonly data: Float32Array
}

/** What is used of it: the package is not installed with this project, so that its types are not there. */
export interface Ort {
  readonly env: { readonly versions: { readonly node?: string } }
  Tensor: new (type: string, data: Float32Array | BigInt64Array, dims: readonly number[]) => OrtTensor
  InferenceSession: {
    create(
      file: string,
      options?: object,
    ): Promise<{
      readonly outputNames: readonly string[]
      run(feeds: Readonly<Record<string, OrtTensor>>): Promise<Record<string, OrtTensor>>
      release(): Promise<void>
    }>
  }
}

/** On the CPU alone, one operator after another. */
export const sessionOptions = (threads: number) => ({
  executionProviders: ['cpu'],
  graphOptimizationLevel: 'all',
  executionMode: 'sequential',
  intraOpNumThreads: threads,
  interOpNumThreads: 1,
})

/** Undefined where it is not installed. */
export function loadOrt(): Ort | undefined {
  const require = createRequire(path.join(peersFolder, 'package.json'))
  try {
    require.resolve('onnxruntime-node')
  } catch {
    return undefined
  }
  return require('onnxruntime-node')
}
