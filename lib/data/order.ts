/** The order of training samples, from (seed, position) alone: streams of purpose `data` (kernels/philox.h). */
import type { Seed } from '../options'
import { below, Purpose, words } from '../rng'

/** Steps of the streams, so that no two uses meet. */
const shuffleStep = 0
const flipStep = 1
const flipVerticalStep = 2
const cropStep = 3
const groupStep = 4
/** Of augment.ts: which is done and how far, and the normal numbers of it. */
export const augmentStep = 5
export const augmentNormalStep = 6
const captionStep = 7

/** The order of epoch `epoch`: Fisher & Yates. */
export function permutation(seed: Seed, epoch: number, n: number): Uint32Array {
  return shuffled(seed, epoch, n, shuffleStep)
}

/** The order of an epoch's batches, where each is of one shape. */
export function groupPermutation(seed: Seed, epoch: number, n: number): Uint32Array {
  return shuffled(seed, epoch, n, groupStep)
}

function shuffled(seed: Seed, epoch: number, n: number, step: number): Uint32Array {
  const order = Uint32Array.from({ length: n }, (_, i) => i)
  const random = words(seed, Purpose.data, epoch, step, n)
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

/** Whether it is turned upside down. */
export function flippedVertically(seed: Seed, g: number): boolean {
  return words(seed, Purpose.data, g, flipVerticalStep, 1)[0] >>> 31 === 1
}

/** Which of `n` captions sample `g` has. */
export function captionAt(seed: Seed, g: number, n: number): number {
  return n === 1 ? 0 : below(words(seed, Purpose.data, g, captionStep, 1)[0], n)
}

/** Where sample `g` is cut out: a row in [0, rows) and a column in [0, columns). */
export function cropAt(seed: Seed, g: number, rows: number, columns: number): readonly [row: number, column: number] {
  const [row, column] = words(seed, Purpose.data, g, cropStep, 2)
  return [below(row, rows), below(column, columns)]
}
