/** Products of all rows of one set of features with all of another, piece by piece on a device. */
import type { Device } from '../device'
import { Program } from '../program'
import { aborted } from './calculations'

/** Rows of features, [n, d]. */
export interface FeatureRows {
  readonly values: Float32Array
  readonly count: number
}

/** A device's thread has it all the while; JavaScript goes through a piece in some milliseconds. */
const rowsAtOnce = 256
const columnsAtOnce = 4096

export class Products {
  readonly #programs = new Map<string, Program>()

  constructor(
    readonly device: Device,
    readonly d: number,
  ) {}

  /**
   * Pieces of X Y^T: `each(x0, y0, piece)` gets [rows, columns], of rows of X from x0 on and rows of Y from y0 on. Sums are those of
   * float32, in an order of the device's. Throws `aborted`.
   */
  async forEach(
    X: FeatureRows,
    Y: FeatureRows,
    each: (x0: number, y0: number, piece: { values: Float32Array; rows: number; columns: number }) => void,
    signal?: AbortSignal,
  ): Promise<void> {
    for (let y0 = 0; y0 < Y.count; y0 += columnsAtOnce) {
      const columns = Math.min(columnsAtOnce, Y.count - y0)
      const weight = this.device.upload(Y.values.subarray(y0 * this.d, (y0 + columns) * this.d))
      try {
        for (let x0 = 0; x0 < X.count; x0 += rowsAtOnce) {
          if (signal?.aborted) throw aborted(signal)
          const rows = Math.min(rowsAtOnce, X.count - x0)
          const x = X.values.subarray(x0 * this.d, (x0 + rows) * this.d)
          const { product } = await this.#program(rows, columns).run({ x, weight })
          each(x0, y0, { values: product, rows, columns })
        }
      } finally {
        weight.release()
      }
    }
  }

  release(): void {
    for (const program of this.#programs.values()) program.release()
    this.#programs.clear()
  }

  /** Shapes are few: whole pieces, and what is left over in either direction. */
  #program(rows: number, columns: number): Program {
    const key = `${rows}x${columns}`
    let program = this.#programs.get(key)
    if (!program) {
      program = Program.compile(
        this.device,
        (g) => ({
          product: g.linear(g.input('x', [1, 1, rows, this.d]), g.input('weight', [columns, 1, 1, this.d])),
        }),
        { deterministic: true },
      )
      this.#programs.set(key, program)
    }
    return program
  }
}
