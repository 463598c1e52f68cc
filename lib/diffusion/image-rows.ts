/** A list of image batches as one picture: ddpm.py's _get_rows_from_list with torchvision's make_grid. */
import { Tensor } from '../tensor'

const padding = 2

/**
 * Batches [b, c, h, w], one for each moment, as a grid [c', h', w'] with a row for each of the b images and a column for each
 * moment, on black with 2 pixels between them. One channel is repeated to three, as make_grid does; a single image is
 * returned without a border.
 */
export async function imageRows(batches: readonly Tensor[]): Promise<Tensor> {
  const [b, c, h, w] = batches[0].shape
  const channels = c === 1 ? 3 : c
  const single = b * batches.length === 1
  const border = single ? 0 : padding
  const height = b * (h + border) + border
  const width = batches.length * (w + border) + border
  const grid = new Float32Array(channels * height * width)
  for (const [column, batch] of batches.entries()) {
    const pixels = await batch.values()
    for (let row = 0; row < b; row++) {
      for (let k = 0; k < channels; k++) {
        const from = (row * c + (c === 1 ? 0 : k)) * h * w
        const to = (k * height + row * (h + border) + border) * width + column * (w + border) + border
        for (let y = 0; y < h; y++) grid.set(pixels.subarray(from + y * w, from + (y + 1) * w), to + y * width)
      }
    }
  }
  return Tensor.wrap(grid, [channels, height, width])
}
