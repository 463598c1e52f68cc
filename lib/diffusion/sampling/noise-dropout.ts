/** ddpm.py's and ddim.py's noise_dropout: torch's dropout of the noise that a step adds. */
import type { Seed } from '../../options'
import { normal, Purpose, words } from '../../rng'
import { type Shape, sizeOf, Tensor } from '../../tensor'

/** Where the noise of a step comes from, unless it is given. */
export interface DroppedNoise {
  readonly seed: Seed
  readonly sampleOffset: number
  readonly step: number
  /** How much of it is dropped, from 0 to 1; what is left is divided by 1 - p. */
  readonly p: number
  /** The same for all samples, before it is dropped. */
  readonly repeat?: boolean
}

/** Of `shape`. `given`: in place of drawn noise; its first axis may be 1 with `repeat`. */
export async function droppedNoise(shape: Shape, o: DroppedNoise, given?: Tensor): Promise<Tensor> {
  const [n, ...rest] = shape
  const size = sizeOf(rest)
  const values = await given?.data()
  const data = new Float32Array(n * size)
  for (let i = 0; i < n; i++) {
    const sample = o.sampleOffset + i
    const own = o.repeat ? 0 : i
    const noise = values
      ? values.subarray(own * size, (own + 1) * size)
      : normal(o.seed, Purpose.posterior, o.repeat ? 0 : sample, o.step, size)
    // Nothing else of a sampling draws by this purpose.
    const kept = words(o.seed, Purpose.dropout, sample, o.step, size)
    for (let k = 0; k < size; k++) data[i * size + k] = kept[k] >= o.p * 2 ** 32 ? noise[k] / (1 - o.p) : 0
  }
  return Tensor.wrap(data, shape)
}
