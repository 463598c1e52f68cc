/** Runs ONNX files with ONNX Runtime. */
import { loadOrt } from '../../bench/peers/ort'

export interface OnnxRuntime {
  /** x [n, ...shape], t and y [n], context [n, ...], vector [n, dim], n by the number of timesteps. Resolves with the first output. */
  run(
    file: string,
    inputs: {
      x: Float32Array
      t: Int32Array
      y?: Int32Array
      context?: { data: Float32Array; shape: readonly number[] }
      vector?: Float32Array
    },
    shape: readonly number[],
  ): Promise<Float32Array>
}

/** Undefined where it is not installed. */
function loadRuntime(): OnnxRuntime | undefined {
  const ort = loadOrt()
  if (!ort) return undefined
  return {
    async run(file, { x, t, y, context, vector }, shape) {
      const n = t.length
      const integers = (data: Int32Array) => new ort.Tensor('int64', BigInt64Array.from(data, BigInt), [n])
      const session = await ort.InferenceSession.create(file)
      try {
        const feeds = {
          x: new ort.Tensor('float32', x, [n, ...shape]),
          t: integers(t),
          ...(y && { y: integers(y) }),
          ...(context && { context: new ort.Tensor('float32', context.data, [...context.shape]) }),
          ...(vector && { vector: new ort.Tensor('float32', vector, [n, vector.length / n]) }),
        }
        return (await session.run(feeds))[session.outputNames[0]].data
      } finally {
        await session.release()
      }
    },
  }
}

/** For the tests of a `describe`, which are skipped where it is not installed. */
export function withRuntime(): () => OnnxRuntime {
  let runtime: OnnxRuntime | undefined
  before(function () {
    runtime = loadRuntime()
    if (runtime) return
    console.log('      skipped: onnxruntime-node is not installed; npm run bench:peers -- --install does it')
    this.skip()
  })
  return () => runtime!
}
