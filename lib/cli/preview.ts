/** A picture in the terminal: two pixels a character cell, as the colours of an upper half block. */
import type { Pixels } from '../data/image-format'
import { sharp } from '../data/load-sharp'

/** The picture as lines of at most `columns` cells, for terminals with 24-bit colour. */
export async function preview(image: Pixels, columns: number): Promise<string> {
  const { width, height, channels } = image
  const fit = Math.min(1, columns / width)
  const w = Math.max(1, Math.floor(width * fit))
  const h = Math.max(2, 2 * Math.round((height * fit) / 2))
  const pixels = await sharp()(image.data, { raw: { width, height, channels } })
    .resize(w, h, { fit: 'fill' })
    .toColourspace('srgb')
    .raw()
    .toBuffer()
  const colour = (x: number, y: number) => pixels.subarray((y * w + x) * 3, (y * w + x) * 3 + 3).join(';')
  let text = ''
  for (let y = 0; y < h; y += 2) {
    for (let x = 0; x < w; x++) text += `\x1b[38;2;${colour(x, y)}m\x1b[48;2;${colour(x, y + 1)}m▀`
    text += '\x1b[0m\n'
  }
  return text
}
