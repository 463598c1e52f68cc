/** Files of training data as other tools write them. */

/** A TIFF of 32-bit floats, uncompressed: [height, width, channels]. */
export function floatTiff(values: Float32Array, width: number, channels: 1 | 3): Buffer {
  const height = values.length / width / channels
  const at = 8 + 2 + 10 * 12 + 4
  const long = 4
  const short = 3
  const bits = at
  const formats = at + 2 * channels
  const pixels = at + 4 * channels
  const many = (value: number, place: number) => (channels === 1 ? value : place)
  const fields = [
    [256, short, 1, width],
    [257, short, 1, height],
    [258, short, channels, many(32, bits)],
    [259, short, 1, 1],
    [262, short, 1, channels === 1 ? 1 : 2],
    [273, long, 1, pixels],
    [277, short, 1, channels],
    [278, short, 1, height],
    [279, long, 1, values.byteLength],
    [339, short, channels, many(3, formats)],
  ]
  const file = Buffer.alloc(pixels + values.byteLength)
  file.write('II*\0', 'latin1')
  file.writeUInt32LE(8, 4)
  file.writeUInt16LE(fields.length, 8)
  for (const [i, [tag, type, count, value]] of fields.entries()) {
    file.writeUInt16LE(tag, 10 + 12 * i)
    file.writeUInt16LE(type, 12 + 12 * i)
    file.writeUInt32LE(count, 14 + 12 * i)
    file.writeUInt32LE(value, 18 + 12 * i)
  }
  for (let c = 0; c < channels; c++) {
    file.writeUInt16LE(32, bits + 2 * c)
    file.writeUInt16LE(3, formats + 2 * c)
  }
  Buffer.from(values.buffer, values.byteOffset, values.byteLength).copy(file, pixels)
  return file
}
