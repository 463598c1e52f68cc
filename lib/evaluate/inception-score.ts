/** How sure a classifier is of images one by one, and how unsure of all of them together. */
import { invalidArgument } from '../errors'
import { type Spread, spread } from './kid'

/**
 * exp(E KL(p(y|x) || p(y))), the mean over parts of the set in their order: Salimans et al. 2016, section 4. Takes logits as they
 * come.
 */
export class InceptionScore {
  readonly #count: number
  readonly #splits: number
  #done = 0
  #part: { readonly sums: Float64Array; entropy: number; count: number } | undefined
  readonly #scores: number[] = []

  /** Of `count` images in all. Throws `invalid-argument` for fewer than there are parts. */
  constructor(count: number, splits: number) {
    if (count < splits) throw invalidArgument('samples', `at least ${splits} images for the Inception score`, count)
    this.#count = count
    this.#splits = splits
  }

  /** [n, classes] */
  add(logits: ArrayLike<number>, classes: number): void {
    const p = new Float64Array(classes)
    for (let from = 0; from < logits.length; from += classes) {
      this.#part ??= { sums: new Float64Array(classes), entropy: 0, count: 0 }
      const part = this.#part
      softmax(logits, from, p)
      for (let c = 0; c < classes; c++) {
        part.sums[c] += p[c]
        if (p[c] > 0) part.entropy += p[c] * Math.log(p[c])
      }
      part.count++
      this.#done++
      if (this.#done === Math.floor((this.#count * (this.#scores.length + 1)) / this.#splits)) this.#close()
    }
  }

  /** Over the parts. Throws `invalid-argument` where there were not as many images as it was told. */
  result(): Spread {
    if (this.#done !== this.#count) throw invalidArgument('samples', `${this.#count} images`, this.#done)
    return spread(this.#scores)
  }

  #close(): void {
    const { sums, entropy, count } = this.#part!
    let divergence = entropy / count
    for (const sum of sums) if (sum > 0) divergence -= (sum / count) * Math.log(sum / count)
    this.#scores.push(Math.exp(divergence))
    this.#part = undefined
  }
}

function softmax(logits: ArrayLike<number>, from: number, p: Float64Array): void {
  let largest = Number.NEGATIVE_INFINITY
  for (let c = 0; c < p.length; c++) largest = Math.max(largest, logits[from + c])
  let sum = 0
  for (let c = 0; c < p.length; c++) {
    p[c] = Math.exp(logits[from + c] - largest)
    sum += p[c]
  }
  for (let c = 0; c < p.length; c++) p[c] /= sum
}
