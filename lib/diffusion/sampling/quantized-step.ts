/**
 * A step whose prediction of x_0 is replaced by the nearest entries of a codebook: ddpm.py's quantize_denoised, and the quantize_denoised
 * of ddim.py, whose direction still follows from the network's output.
 */

import { invalidArgument } from '../../errors'
import type { Graph, Value } from '../../graph'
import type { Shape, Tensor } from '../../tensor'
import { rowLength } from '../process/step-tables'

/** What becomes of the noise and of the prediction in posteriorStep. */
type PosteriorOptions = Parameters<Graph['posteriorStep']>[4]

/** As Graph.posteriorStep, with the inputs `codebook` [codes, 1, 1, c] and those of quantizedTables. */
export function quantizedStep(
  g: Graph,
  o: { x: Value; out: Value; table: Value; row: Value; rows: number; shape: Shape; codes: number },
  { noise, draw, ...clipping }: PosteriorOptions,
): { y: Value; x0: Value } {
  const { x, out, row } = o
  const [, channels, height, width] = o.shape
  const { x0 } = g.posteriorStep(x, out, o.table, row, clipping)
  const codebook = g.input('codebook', [o.codes, 1, 1, channels])
  const { index } = g.nearestCode(g.toNhwc(x0, { channels, height, width }), codebook)
  const quantized = g.toNchw(g.embedding(index, codebook))
  const { y } = g.posteriorStep(x, quantized, g.input('quantizedTable', o.table.dims), row, {
    clip: false,
    noise,
    draw,
  })
  const column = (name: string) => g.input(name, [o.rows, 1, 1, 1])
  return { y: g.timestepAffine(y, column('quantizedOne'), row, out, column('outputScale')), x0: quantized }
}

/** Of a table of posteriorStep: the same for a prediction that is given, and what the output itself is multiplied by. */
export function quantizedTables(table: Float32Array) {
  const rows = table.length / rowLength
  const quantizedTable = new Float32Array(table.length)
  const outputScale = new Float32Array(rows)
  for (let row = 0; row < rows; row++) {
    const [, , m, state, out, noise] = table.subarray(row * rowLength, (row + 1) * rowLength)
    quantizedTable.set([0, 1, m, state, 0, noise], row * rowLength)
    outputScale[row] = out
  }
  return { quantizedTable, outputScale, quantizedOne: new Float32Array(rows).fill(1) }
}

/** Throws `invalid-argument` for entries that are no pixels of such samples. */
export function checkCodebook(codebook: Tensor, [, channels]: Shape): void {
  if (codebook.shape[1] === channels) return
  throw invalidArgument('quantizeDenoised', `a codebook of ${channels} numbers an entry, as latents have`, codebook)
}
