import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, renameSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'
import { ImageFolder } from '../../lib/data/image-folder'
import { DiffusionError } from '../../lib/errors'
import { temporaryFolder, writeImages } from '../train/support'

/** Of [count, channels, size, size]. */
function pixel(batch: Float32Array, o: { channels: number; size: number; y: number; x: number; image?: number }) {
  const { channels, size, y, x, image = 0 } = o
  return Array.from({ length: channels }, (_, c) => batch[((image * channels + c) * size + y) * size + x])
}

function close(actual: readonly number[], expected: readonly number[], tolerance = 0.01) {
  assert.equal(actual.length, expected.length)
  for (const [i, v] of actual.entries())
    assert.ok(Math.abs(v - expected[i]) <= tolerance, `${actual} is not ${expected}`)
}

const expectCode = (code: string, pattern: RegExp) => (error: unknown) => {
  assert.ok(error instanceof DiffusionError)
  assert.equal(error.code, code)
  assert.match(error.message, pattern)
  return true
}

describe('ImageFolder', () => {
  const folder = temporaryFolder()
  const path2 = (...names: string[]) => path.join(folder, ...names)

  describe('modes', () => {
    const rgb = { r: 200, g: 100, b: 50 }
    const flat = (width = 20, height = 20) => sharp({ create: { width, height, channels: 3, background: rgb } })
    const signed = [200, 100, 50].map((v) => v / 127.5 - 1)

    /** One file in a folder of its own, decoded to 8x8. */
    async function decoded(name: string, image: sharp.Sharp, channels: 1 | 3 = 3, background?: string) {
      const own = path2('modes', name.replace('.', '-'))
      mkdirSync(own, { recursive: true })
      await image.toFile(path.join(own, name))
      const dataset = await ImageFolder.open(own, { size: 8, channels, background })
      const { images: batch } = await dataset.batch(0, 1)
      assert.equal(batch.length, channels * 64)
      assert.ok(batch.every((v) => v >= -1 && v <= 1))
      return batch
    }

    for (const name of ['a.png', 'a.jpg', 'a.webp', 'a.tiff', 'a.gif']) {
      it(`reads ${name}`, async () => {
        close(pixel(await decoded(name, flat()), { channels: 3, size: 8, y: 3, x: 4 }), signed, 0.04)
      })
    }

    it('reads a palette', async () => {
      close(pixel(await decoded('p.png', flat().png({ palette: true })), { channels: 3, size: 8, y: 0, x: 0 }), signed)
    })

    it('reads CMYK', async () => {
      const batch = await decoded('cmyk.jpg', flat().toColourspace('cmyk').jpeg())
      const [r, g, b] = pixel(batch, { channels: 3, size: 8, y: 0, x: 0 })
      assert.ok(r > g && g > b)
    })

    it('reads grey as RGB, and RGB as grey', async () => {
      const [r, g, b] = pixel(await decoded('grey.png', flat().greyscale().png()), { channels: 3, size: 8, y: 0, x: 0 })
      assert.equal(r, g)
      assert.equal(g, b)
      const batch = await decoded('colour.png', flat(), 1)
      close(pixel(batch, { channels: 1, size: 8, y: 0, x: 0 }), [r])
    })

    it('reads 16 bits', async () => {
      const grey = sharp(new Uint16Array(100).fill(40_000), { raw: { width: 10, height: 10, channels: 1 } })
      const batch = await decoded('grey16.png', grey.toColourspace('grey16').png())
      close(pixel(batch, { channels: 3, size: 8, y: 0, x: 0 }), Array(3).fill((2 * 40_000) / 65_535 - 1), 0.02)
    })

    it('shows the background through transparent pixels, at 8 and at 16 bits', async () => {
      const clear = sharp({
        create: { width: 9, height: 9, channels: 4, background: { r: 9, g: 9, b: 9, alpha: 0 } },
      }).png()
      close(pixel(await decoded('clear.png', clear.clone()), { channels: 3, size: 8, y: 4, x: 4 }), [1, 1, 1], 0)
      const blue = await decoded('clear2.png', clear.clone(), 3, '#0000ff')
      close(pixel(blue, { channels: 3, size: 8, y: 4, x: 4 }), [-1, -1, 1], 0)
      const clear16 = sharp(new Uint16Array(400), { raw: { width: 10, height: 10, channels: 4 } }).toColourspace(
        'rgb16',
      )
      close(pixel(await decoded('clear16.png', clear16.png()), { channels: 3, size: 8, y: 4, x: 4 }), [1, 1, 1], 0)
    })

    it('scales and crops at the centre, enlarges, and reads 1x1', async () => {
      // 40x20: blue, then a red square in the middle, then blue.
      const red = {
        input: { create: { width: 20, height: 20, channels: 3 as const, background: 'red' } },
        left: 10,
        top: 0,
      }
      const wide = sharp({ create: { width: 40, height: 20, channels: 3, background: 'blue' } }).composite([red])
      const batch = await decoded('wide.png', wide.png())
      for (const x of [1, 6]) close(pixel(batch, { channels: 3, size: 8, y: 4, x }), [1, -1, -1], 0.05)
      close(pixel(await decoded('one.png', flat(1, 1)), { channels: 3, size: 8, y: 7, x: 7 }), signed)
    })

    it('turns images upright by their EXIF orientation', async () => {
      const left = {
        input: { create: { width: 10, height: 20, channels: 3 as const, background: 'red' } },
        left: 0,
        top: 0,
      }
      const image = sharp({ create: { width: 20, height: 20, channels: 3, background: 'blue' } }).composite([left])
      const batch = await decoded('turned.jpg', image.jpeg({ quality: 100 }).withMetadata({ orientation: 6 }))
      // A quarter turn clockwise takes the left half to the top.
      close(pixel(batch, { channels: 3, size: 8, y: 0, x: 7 }), [1, -1, -1], 0.1)
      close(pixel(batch, { channels: 3, size: 8, y: 7, x: 0 }), [-1, -1, 1], 0.1)
    })
  })

  it('lists subfolders in a fixed order, without hidden and other files', async () => {
    const own = path2('tree')
    await writeImages(path.join(own, 'b'), 2)
    await writeImages(path.join(own, 'A', 'deep'), 1)
    await writeImages(path.join(own, '.thumbnails'), 1)
    writeFileSync(path.join(own, 'notes.txt'), 'not an image')
    const dataset = await ImageFolder.open(own, { size: 8 })
    assert.deepEqual(dataset.files, ['A/deep/0000.png', 'b/0000.png', 'b/0001.png'])
    assert.equal(dataset.unreadable.length, 0)
  })

  it('names unreadable files and goes on without them, the same way each time', async () => {
    const own = path2('damaged')
    await writeImages(own, 6, 64)
    writeFileSync(path.join(own, '0001.png'), 'this is text')
    writeFileSync(path.join(own, '0002.png'), '')
    const whole = await sharp(path.join(own, '0003.png')).png({ compressionLevel: 0 }).toBuffer()
    writeFileSync(path.join(own, '0003.png'), whole.subarray(0, whole.length / 2)) // a good header
    const told: string[] = []
    const open = () => ImageFolder.open(own, { size: 8, onUnreadable: ({ file }) => told.push(file) })
    const dataset = await open()
    assert.deepEqual(told, ['0001.png', '0002.png'])
    assert.equal(dataset.length, 4)
    const { images: epoch } = await dataset.batch(0, 4)
    assert.deepEqual(told, ['0001.png', '0002.png', '0003.png'])
    assert.equal(dataset.unreadable.length, 3)
    assert.ok(dataset.unreadable.every(({ reason }) => reason.length > 0))
    assert.deepEqual((await (await open()).batch(0, 4)).images, epoch)
  })

  it('has a clear error for folders without a readable image', async () => {
    const own = path2('empty')
    mkdirSync(own)
    const open = (folder: string) => ImageFolder.open(folder, { size: 8 })
    await assert.rejects(open(own), expectCode('invalid-argument', /no readable image in/))
    writeFileSync(path.join(own, 'a.png'), 'text')
    await assert.rejects(open(own), expectCode('invalid-argument', /all 1 are unreadable, first a\.png/))
    await assert.rejects(open(path.join(own, 'a.png')), expectCode('io', /it is a file/))
    await assert.rejects(open(path2('nowhere')), expectCode('not-found', /no such folder/))
  })

  describe('files that can not be read for a while', () => {
    const own = path2('unreadable')
    before(() => writeImages(own, 12, 64))

    it('are tried again, and left out in no case', async () => {
      const dataset = await ImageFolder.open(own, { size: 8, cacheBytes: 0 })
      const whole = await dataset.batch(0, 12)
      const first = path.join(own, dataset.fileOf(0))
      renameSync(first, `${first}.away`)
      const back = setTimeout(() => renameSync(`${first}.away`, first), 50)
      assert.deepEqual(await dataset.batch(0, 12), whole)
      clearTimeout(back)
      renameSync(first, `${first}.away`)
      const named = expectCode(
        'not-found',
        new RegExp(`cannot read the image .*${dataset.fileOf(0)}: there is no such file`),
      )
      await assert.rejects(dataset.batch(0, 1), named)
      renameSync(`${first}.away`, first)
      assert.deepEqual(await dataset.batch(0, 12), whole)
      assert.deepEqual(dataset.unreadable, [])
    })

    it('end it with io where files can not be opened at all', () => {
      const script = `
        const { ImageFolder } = require(${JSON.stringify(require.resolve('../../lib/data/image-folder'))})
        const fs = require('node:fs')
        const told = []
        const say = (text) => fs.writeSync(1, text + ' skipped ' + told.length)
        const open = () => ImageFolder.open(${JSON.stringify(own)}, { size: 8, onUnreadable: (f) => told.push(f) })
        open().then((dataset) => {
          const taken = []
          try { for (;;) taken.push(fs.openSync('/dev/null')) } catch {}
          return dataset.batch(0, 12).then(() => say('read'), ({ code, message }) => say(code + ' ' + message))
        })`
      const { stdout } = spawnSync('bash', ['-c', 'ulimit -n 64; exec "$0" -e "$1"', process.execPath, script], {
        encoding: 'utf8',
      })
      assert.match(stdout, /^io cannot read the image .*\.png: too many files are open in this process skipped 0$/)
    })
  })

  describe('order', () => {
    const own = path2('order')
    before(() => writeImages(own, 10))

    it('is a permutation, another one each epoch and seed, and needs no state', async () => {
      const dataset = await ImageFolder.open(own, { size: 8, seed: 1 })
      const epoch = (d: ImageFolder, e: number) => Array.from({ length: 10 }, (_, i) => d.fileOf(e * 10 + i))
      assert.deepEqual(epoch(dataset, 0).toSorted(), dataset.files)
      assert.deepEqual(epoch(dataset, 7).toSorted(), dataset.files)
      assert.notDeepEqual(epoch(dataset, 0), epoch(dataset, 1))
      const other = await ImageFolder.open(own, { size: 8, seed: 2 })
      assert.notDeepEqual(epoch(other, 0), epoch(dataset, 0))
      const again = await ImageFolder.open(own, { size: 8, seed: 1, cacheBytes: 0 })
      assert.deepEqual(epoch(again, 5), epoch(dataset, 5))
    })

    it('gives the same samples in any batches, with or without a cache, flips included', async () => {
      const options = { size: 8, seed: 3, flip: true }
      const dataset = await ImageFolder.open(own, options)
      const uncached = await ImageFolder.open(own, { ...options, cacheBytes: 0 })
      const { images: all } = await dataset.batch(0, 24)
      const batches = uncached.batches(8, 8, 3)
      for (const from of [8, 16])
        assert.deepEqual((await batches.next()).images, all.slice(from * 192, (from + 8) * 192))
      await batches.stop()
    })

    it('mirrors about half of the samples', async () => {
      const ramp = path2('ramp')
      mkdirSync(ramp)
      const data = Uint8Array.from({ length: 192 }, (_, i) => (Math.floor(i / 3) % 8) * 30)
      await sharp(data, { raw: { width: 8, height: 8, channels: 3 } })
        .png()
        .toFile(path.join(ramp, 'a.png'))
      const dataset = await ImageFolder.open(ramp, { size: 8, flip: true })
      const { images: batch } = await dataset.batch(0, 200)
      const left = Array.from(
        { length: 200 },
        (_, image) => pixel(batch, { channels: 3, size: 8, y: 3, x: 0, image })[0],
      )
      const mirrored = left.filter((v) => v === Math.fround(210 / 127.5 - 1)).length
      assert.equal(left.filter((v) => v === -1).length, 200 - mirrored)
      assert.ok(mirrored > 70 && mirrored < 130, `${mirrored} of 200`)
    })
  })
})
