/** Files of training data as other tools write them. */
import { crc32, deflateRawSync } from 'node:zlib'

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

/** A .npy file, version 1.0. */
export function npy(descr: string, shape: readonly number[], data: ArrayBufferView, fortran = false): Buffer {
  const tuple = shape.length === 1 ? `${shape[0]},` : shape.join(', ')
  const text = `{'descr': '${descr}', 'fortran_order': ${fortran ? 'True' : 'False'}, 'shape': (${tuple}), }`.padEnd(
    117,
  )
  const head = Buffer.from(`\x93NUMPY\x01\x00\x76\x00${text}\n`, 'latin1')
  return Buffer.concat([head, Buffer.from(data.buffer, data.byteOffset, data.byteLength)])
}

/** A zip archive of deflated files, as np.savez_compressed writes it. */
export function zipped(files: Readonly<Record<string, Buffer>>): Buffer {
  const locals: Buffer[] = []
  const central: Buffer[] = []
  let offset = 0
  for (const [name, data] of Object.entries(files)) {
    const packed = deflateRawSync(data)
    const fields = Buffer.alloc(26)
    fields.writeUInt16LE(20, 0)
    fields.writeUInt16LE(8, 4)
    fields.writeUInt32LE(crc32(data), 10)
    fields.writeUInt32LE(packed.length, 14)
    fields.writeUInt32LE(data.length, 18)
    fields.writeUInt16LE(name.length, 22)
    const rest = Buffer.alloc(14)
    rest.writeUInt32LE(offset, 10)
    locals.push(Buffer.from('PK\x03\x04'), fields, Buffer.from(name), packed)
    central.push(Buffer.from('PK\x01\x02\x14\0'), fields, rest, Buffer.from(name))
    offset += 30 + name.length + packed.length
  }
  const directory = Buffer.concat(central)
  const end = Buffer.alloc(22)
  end.write('PK\x05\x06')
  end.writeUInt16LE(Object.keys(files).length, 8)
  end.writeUInt16LE(Object.keys(files).length, 10)
  end.writeUInt32LE(directory.length, 12)
  end.writeUInt32LE(offset, 16)
  return Buffer.concat([...locals, directory, end])
}

/** CIFAR's binary version: labels, then planes. */
export function cifar(
  labels: readonly (readonly number[])[],
  pixel = (i: number, p: number) => (i * 31 + p) % 256,
): Buffer {
  return Buffer.concat(
    labels.flatMap((own, i) => [Buffer.from(own), Buffer.from(Array.from({ length: 3072 }, (_, p) => pixel(i, p)))]),
  )
}

/** An idx file of bytes. */
export function idx(shape: readonly number[], data: ArrayLike<number>): Buffer {
  const head = Buffer.alloc(4 + 4 * shape.length)
  head[2] = 8
  head[3] = shape.length
  for (const [i, n] of shape.entries()) head.writeUInt32BE(n, 4 + 4 * i)
  return Buffer.concat([head, Buffer.from(Array.from(data))])
}

/** A tar archive, ustar. */
export function tar(files: Readonly<Record<string, Buffer | string>>): Buffer {
  const blocks: Buffer[] = []
  const add = (name: string, kind: string, data: Buffer) => {
    const header = Buffer.alloc(512)
    header.write(name.slice(0, 100))
    header.write('0000644\0'.padEnd(8), 100)
    header.write(`${data.length.toString(8).padStart(11, '0')}\0`, 124)
    header.write('        ', 148)
    header.write(kind, 156)
    header.write('ustar\x0000', 257)
    const sum = header.reduce((a, b) => a + b, 0)
    header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148)
    blocks.push(header, data, Buffer.alloc((512 - (data.length % 512)) % 512))
  }
  for (const [name, data] of Object.entries(files)) {
    if (name.length > 100) add('././@LongLink', 'L', Buffer.from(`${name}\0`))
    add(name, '0', Buffer.from(data))
  }
  return Buffer.concat([...blocks, Buffer.alloc(1024)])
}
