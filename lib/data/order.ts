/** The order of training samples, from (seed, position) alone: streams of purpose `data` (kernels/philox.h). */
import type { Seed } from '../options'
import { below, Purpose, words } from '../rng'

/** Steps of the streams, so that the two uses never meet. */
const shuffleStep = 0
const flipStep = 1

/** The order of epoch `epoch`: Fisher & Yates. */
export function permutation(seed: Seed, epoch: number, n: number): Uint32Array {
  const order = Uint32Array.from({ length: n }, (_, i) => i)
  const random = words(seed, Purpose.data, epoch, shuffleStep, n)
  for (let i = n - 1; i > 0; i--) {
    const j = below(random[i], i + 1)
    const picked = order[j]
    order[j] = order[i]
    order[i] = picked
  }
  return order
}

/** Whether sample `g` of the sequence is mirrored. */
export function flipped(seed: Seed, g: number): boolean {
  return words(seed, Purpose.data, g, flipStep, 1)[0] >>> 31 === 1
}
