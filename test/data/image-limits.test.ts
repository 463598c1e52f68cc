// Images that cost far more than they are.
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { crc32, gzipSync } from 'node:zlib'
import sharp from 'sharp'
import { withDecodeRoom } from '../../lib/data/decode-room'
import { checkImageHeader } from '../../lib/data/image-file'
import { decodeCost, maxDecodeBytes, maxPixels } from '../../lib/data/image-limits'
import { ImageFolder, readImage } from '../../lib/index'
import { temporaryFolder } from '../train/support'

const svg = '<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8" fill="red"/></svg>'

describe('limits of images', () => {
  const folder = temporaryFolder()
  const at = (name: string) => path.join(folder, name)
  const refused = async (file: string, message: RegExp) => {
    const expected = { name: 'DiffusionError', code: 'bad-file', message } as const
    await assert.rejects(checkImageHeader(at(file)), expected, file)
    await assert.rejects(readImage(at(file), { size: 8 }), expected, file)
  }

  it('SVGs are read on request only, whatever they are called', async () => {
    for (const name of ['a.svg', 'b.png']) writeFileSync(at(name), svg)
    writeFileSync(at('c.jpg'), gzipSync(svg))
    writeFileSync(at('d.png'), `<?xml version="1.0"?><!-- ${'x'.repeat(500)} -->${svg}`)
    writeFileSync(at('e.png'), `<!-- ${'x'.repeat(5000)} -->${svg}`)
    for (const name of ['a.svg', 'b.png', 'c.jpg', 'd.png']) await refused(name, /SVG.*only read on request/)
    await refused('e.png', /neither PNG/)
    for (const name of ['a.svg', 'c.jpg']) {
      const image = await readImage(at(name), { size: 4, svg: true })
      assert.deepEqual([...(await image.data())].slice(0, 32), [...Array(16).fill(1), ...Array(16).fill(-1)])
    }
  })

  it('in a folder, too', async () => {
    const own = temporaryFolder()
    writeFileSync(path.join(own, 'a.svg'), svg)
    await sharp({ create: { width: 4, height: 4, channels: 3, background: 'red' } }).toFile(path.join(own, 'b.png'))
    const without = await ImageFolder.open(own, { size: 4 })
    assert.deepEqual([without.length, without.unreadable.map(({ file }) => file)], [1, ['a.svg']])
    assert.equal((await ImageFolder.open(own, { size: 4, svg: true })).length, 2)
  })

  it('floats and integers of 32 bits are not guessed', async () => {
    for (const [depth, name] of [
      ['float', 'f.tif'],
      ['uint', 'u.tif'],
      ['short', 's.tif'],
    ] as const) {
      writeFileSync(at(name), greyTiff(depth))
      await refused(name, new RegExp(`its samples are of the type ${depth}, whose black and white are not known`))
    }
    const own = temporaryFolder()
    writeFileSync(path.join(own, 'a.tif'), greyTiff('float'))
    writeFileSync(path.join(own, 'b.tif'), greyTiff('ushort'))
    const folder = await ImageFolder.open(own, { size: 8 })
    assert.deepEqual([folder.files, folder.unreadable.map(({ file }) => file)], [['b.tif'], ['a.tif']])
    assert.ok(Math.abs((await folder.batch(0, 1)).images[0] - 0.5) < 0.01)
  })

  it('names the limit that an image is beyond', async () => {
    // A PNG's header is enough: its size is at bytes 16 to 24, what a pixel is and interlacing behind it.
    const png = await sharp({ create: { width: 8, height: 8, channels: 4, background: 'red' } })
      .png()
      .toBuffer()
    const claims = (file: string, width: number, height: number, interlaced: boolean) => {
      const bytes = Buffer.from(png)
      bytes.writeUInt32BE(width, 16)
      bytes.writeUInt32BE(height, 20)
      bytes.set([16, 6, 0, 0, interlaced ? 1 : 0], 24) // RGBA of 16 bits
      bytes.writeUInt32BE(crc32(bytes.subarray(12, 29)), 29)
      writeFileSync(at(file), bytes)
    }
    claims('large.png', 12_000, 12_000, false)
    await refused('large.png', /maxPixels \(134217728\)/)
    claims('interlaced.png', 11_500, 11_500, true)
    await refused('interlaced.png', /interlaced.* more than maxDecodeBytes/)
    claims('wide.png', 1_000_000, 134, false)
    await refused('wide.png', /maxDecodeBytes/)
    claims('good.png', 11_500, 11_500, false)
    await checkImageHeader(at('good.png'))
    writeFileSync(at('empty.png'), '')
    await refused('empty.png', /neither PNG/)
  })

  it('a format that is decoded whole may have fewer pixels', () => {
    const of = (format: string, side: number, more: object = {}) =>
      decodeCost(
        { format, width: side, height: side, channels: 3, depth: 'uchar', ...more } as unknown as sharp.Metadata,
        format as 'png',
        'x',
      )
    const side = Math.floor(Math.sqrt(maxPixels))
    for (const format of ['png', 'jpeg']) assert.ok(of(format, side) <= maxDecodeBytes)
    for (const [format, largest] of [
      ['heif', 5100],
      ['webp', 8100],
      ['gif', 9400],
    ] as const) {
      of(format, largest)
      assert.throws(() => of(format, side), /maxDecodeBytes/)
    }
    of('tiff', side)
    assert.throws(() => of('tiff', side, { depth: 'ushort' }), /maxDecodeBytes/)
    assert.throws(() => of('jpeg', side, { isProgressive: true }), /progressive JPEG/)
  })

  it('decodes that are large wait for one another', async () => {
    let held = 0
    let most = 0
    let done = 0
    const decode = (bytes: number) =>
      withDecodeRoom(bytes, async () => {
        held += bytes
        most = Math.max(most, held)
        await new Promise(setImmediate)
        held -= bytes
        done++
        if (done === 5) throw new Error('damaged')
      })
    const third = maxDecodeBytes / 3
    const results = await Promise.allSettled([...Array(12).fill(third), maxDecodeBytes, 1, third].map(decode))
    assert.equal(results.filter(({ status }) => status === 'rejected').length, 1)
    assert.ok(most <= maxDecodeBytes && most > 2 * third, `${most} at once`)
    await decode(maxDecodeBytes) // nothing is left held
  })
})

/** 8 x 8 samples of three quarters of their range, grey, not compressed (TIFF 6.0, section 4). */
function greyTiff(depth: 'float' | 'uint' | 'short' | 'ushort'): Buffer {
  const bytes = depth.endsWith('short') ? 2 : 4
  const data = Buffer.alloc(64 * bytes)
  for (let at = 0; at < data.length; at += bytes) {
    if (depth === 'float') data.writeFloatLE(0.75, at)
    else if (depth === 'uint') data.writeUInt32LE(0.75 * 2 ** 32, at)
    else data.writeUInt16LE(0.75 * 2 ** 16, at)
  }
  const kind = { uint: 1, ushort: 1, short: 2, float: 3 }[depth]
  // Width, height, bits, compression, photometric, offset, samples, rows, bytes, sample format.
  const tags = [256, 257, 258, 259, 262, 273, 277, 278, 279, 339]
  const values = [8, 8, 8 * bytes, 1, 1, 8, 1, 8, data.length, kind]
  const directory = Buffer.alloc(2 + 12 * tags.length + 4)
  directory.writeUInt16LE(tags.length)
  for (const [i, tag] of tags.entries()) {
    directory.writeUInt16LE(tag, 2 + 12 * i)
    directory.writeUInt16LE(4, 4 + 12 * i)
    directory.writeUInt32LE(1, 6 + 12 * i)
    directory.writeUInt32LE(values[i], 10 + 12 * i)
  }
  const head = Buffer.from('II*\0\0\0\0\0', 'latin1')
  head.writeUInt32LE(8 + data.length, 4)
  return Buffer.concat([head, data, directory])
}
