/** ONNX Runtime's side, on the exported network. */
import type { Prepared } from '../harness'
import { type Ort, sessionOptions } from './ort'
import { fileOf, type PeerCase, readInputs } from './workload'

export function forward(ort: Ort, folder: string, batch: number, threads: number): PeerCase {
  let result: Float32Array = new Float32Array()
  return {
    name: 'forward',
    result: () => result,
    async prepare(): Promise<Prepared> {
      const session = await ort.InferenceSession.create(fileOf(folder).onnx, sessionOptions(threads))
      const { x, t } = await readInputs(folder, batch)
      const feeds = {
        x: new ort.Tensor('float32', x, [batch, 3, 32, 32]),
        t: new ort.Tensor('int64', BigInt64Array.from(t, BigInt), [batch]),
      }
      return {
        run: async () => {
          result = (await session.run(feeds)).eps.data
        },
        dispose: () => void session.release(),
      }
    },
  }
}
