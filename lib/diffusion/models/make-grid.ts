/** Many images as one picture: torchvision's make_grid, and ddpm.py's _get_rows_from_list with it. */
import { invalidArgument } from '../../errors'
import { Tensor } from '../../tensor'

const padding = 2

/**
 * Images [n, c, h, w], `columns` of them in a row, as one [c', h', w'] with 2 pixels of 0 between and around them, which is grey
 * where pixels are in [-1, 1]. One channel is repeated to three, and a single image has no border, as make_grid does. `columns`:
 * default 8, as there. Throws `invalid-argument`.
 */
export async function makeGrid(images: Tensor, columns = 8): Promise<Tensor> {
  if (!(images instanceof Tensor) || images.shape.length !== 4 || images.size === 0) {
    throw invalidArgument('images', 'a Tensor of shape [n, c, h, w]', images)
  }
  if (!Number.isSafeInteger(columns) || columns < 1) {
    throw invalidArgument('columns', 'an integer of at least 1', columns)
  }
  const [n] = images.shape
  const width = Math.min(columns, n)
  return grid(images.shape, [await images.values()], { columns: width, rows: Math.ceil(n / width) }, (i) => ({
    row: Math.floor(i / width),
    column: i % width,
  }))
}

/** Batches [b, c, h, w], one for each moment, as one picture with a row for each of the b images and a column for each moment. */
export async function imageRows(batches: readonly Tensor[]): Promise<Tensor> {
  const [b] = batches[0].shape
  const values = await Promise.all(batches.map((batch) => batch.values()))
  return grid(batches[0].shape, values, { columns: batches.length, rows: b }, (i) => ({
    row: i % b,
    column: Math.floor(i / b),
  }))
}

/** Image i, counted through all batches of `shape`, goes to the cell `place(i)`. */
function grid(
  [b, c, h, w]: readonly number[],
  batches: readonly (Float32Array | Int32Array)[],
  { columns, rows }: { columns: number; rows: number },
  place: (i: number) => { row: number; column: number },
): Tensor {
  const channels = c === 1 ? 3 : c
  const border = b * batches.length === 1 ? 0 : padding
  const height = rows * (h + border) + border
  const width = columns * (w + border) + border
  const pixels = new Float32Array(channels * height * width)
  for (const [k, batch] of batches.entries()) {
    for (let i = 0; i < b; i++) {
      const { row, column } = place(k * b + i)
      for (let channel = 0; channel < channels; channel++) {
        const from = (i * c + (c === 1 ? 0 : channel)) * h * w
        const to = (channel * height + row * (h + border) + border) * width + column * (w + border) + border
        for (let y = 0; y < h; y++) pixels.set(batch.subarray(from + y * w, from + (y + 1) * w), to + y * width)
      }
    }
  }
  return Tensor.wrap(pixels, [channels, height, width])
}
