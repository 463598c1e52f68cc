/**
 * A sum without rounding errors, so that it does not depend on the order of its terms, nor on who added which: Shewchuk 1997, "Adaptive
 * precision floating-point arithmetic and fast robust geometric predicates", fig. 4 (grow-expansion).
 */
export class ExactSum {
  /** Numbers that do not overlap, from small to large: the sum of them all. NaN alone where a term was not finite. */
  #parts: number[] = []

  /** `parts`: of another such sum. */
  constructor(parts: readonly number[] = []) {
    for (const part of parts) this.add(part)
  }

  get parts(): readonly number[] {
    return this.#parts
  }

  add(term: number): void {
    if (!Number.isFinite(term) || Number.isNaN(this.#parts[0])) {
      this.#parts = [Number.NaN]
      return
    }
    let large = term
    let used = 0
    for (const part of this.#parts) {
      const [a, b] = Math.abs(large) < Math.abs(part) ? [part, large] : [large, part]
      large = a + b
      const rest = b - (large - a)
      if (rest !== 0) this.#parts[used++] = rest
    }
    this.#parts.length = used
    this.#parts.push(large)
  }

  /** The nearest number of float64; of two, the even one. */
  get value(): number {
    const parts = this.#parts
    let i = parts.length - 1
    if (i < 0) return 0
    let sum = parts[i]
    while (--i >= 0) {
      const before = sum
      sum = before + parts[i]
      const rest = parts[i] - (sum - before)
      if (rest === 0) continue
      // Halfway between two numbers, what is smaller still decides.
      if (i > 0 && Math.sign(rest) === Math.sign(parts[i - 1])) {
        const twice = 2 * rest
        if (twice === sum + twice - sum) sum += twice
      }
      break
    }
    return sum
  }
}
