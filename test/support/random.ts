/** Numbers for tests: the same ones in every run. */

export class Random {
  #state: number

  constructor(seed = 1) {
    this.#state = seed >>> 0
  }

  /** Uniform in [0, 1): mulberry32. */
  uniform(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0
    let z = this.#state
    z = Math.imul(z ^ (z >>> 15), z | 1)
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61)
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32
  }

  /** Box & Muller 1958. */
  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.uniform())) * Math.cos(2 * Math.PI * this.uniform())
  }

  normals(length: number, scale = 1, mean = 0): Float32Array {
    return Float32Array.from({ length }, () => mean + scale * this.normal())
  }

  /** Integers in [0, below). */
  integers(length: number, below: number): Int32Array {
    return Int32Array.from({ length }, () => Math.floor(this.uniform() * below))
  }
}
