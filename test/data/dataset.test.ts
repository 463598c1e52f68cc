import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'
import { bucketsOf, groupCount, groups } from '../../lib/data/buckets'
import { resample } from '../../lib/data/resample'
import { folderSource } from '../../lib/data/sources/folder'
import { subset } from '../../lib/data/sources/subset'
import { Dataset, DiffusionError, ImageFolder, Tensor, type UserItems } from '../../lib/index'
import { temporaryFolder, writeImages } from '../train/support'
import { floatTiff } from './files'

const rejects = (promise: Promise<unknown>, code: string, pattern: RegExp) =>
  assert.rejects(promise, (error) => {
    assert.ok(error instanceof DiffusionError, String(error))
    assert.equal(error.code, code)
    assert.match(error.message, pattern)
    return true
  })

describe('Dataset', () => {
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  /** A folder with one image. */
  async function folderOf(name: string, image: sharp.Sharp | Buffer, file = 'a.png'): Promise<string> {
    mkdirSync(at(name), { recursive: true })
    writeFileSync(at(name, file), image instanceof Buffer ? image : await (image as sharp.Sharp).toBuffer())
    return at(name)
  }
  const raw = (data: Uint8Array | Uint16Array, width: number, channels: 1 | 2 | 3 | 4) =>
    sharp(data, { raw: { width, height: data.length / width / channels, channels } })

  it('takes images that are not square', async () => {
    // 16 rows of 24 columns: a ramp from left to right.
    const ramp = Uint8Array.from({ length: 16 * 24 }, (_, i) => (i % 24) * 10)
    const own = await folderOf('wide', raw(ramp, 24, 1).png())
    const data = await Dataset.open(own, { size: [8, 12], channels: 1 })
    const { images, shape } = await data.batch(0, 1)
    assert.deepEqual(shape, [1, 1, 8, 12])
    // Pixels 2k and 2k + 1 become one.
    for (let x = 2; x < 10; x++) assert.ok(Math.abs(images[12 * 3 + x] - ((20 * x + 5) / 127.5 - 1)) < 0.02, `${x}`)
  })

  describe('crops', () => {
    const bars = (columns: number) => {
      const data = Uint8Array.from({ length: 8 * columns }, (_, i) => Math.floor(((i % columns) * 8) / columns) * 30)
      return raw(data, columns, 1).png()
    }

    it('none of it with none: each side is scaled by itself', async () => {
      const data = await Dataset.open(await folderOf('bars', bars(32)), { size: 8, channels: 1, crop: 'none' })
      const { images } = await data.batch(0, 1)
      const row = Array.from(images.subarray(0, 8), (v) => Math.round(((v + 1) * 127.5) / 30))
      assert.deepEqual(row, [0, 1, 2, 3, 4, 5, 6, 7])
    })

    it('another part each time with random, the same one at the same position', async () => {
      const open = () => Dataset.open(at('bars'), { size: 8, channels: 1, crop: 'random', seed: 5 })
      const [one, two] = await Promise.all([open(), open()])
      const { images } = await one.batch(0, 40)
      assert.deepEqual((await two.batch(7, 20)).images, images.slice(7 * 64, 27 * 64))
      const starts = new Set(Array.from({ length: 40 }, (_, i) => images[i * 64]))
      assert.ok(starts.size >= 4, `${starts.size} different crops`)
      // Bars are 4 columns wide, as in the image of 32 x 8: nothing was scaled.
      assert.ok([...images].every((v) => Math.abs(((((v + 1) * 127.5) / 30 + 0.5) % 1) - 0.5) < 1e-4))
    })

    it('of a larger image with cropScale, so that squares move, too', async () => {
      const own = await folderOf('square', bars(8))
      const still = await (await Dataset.open(own, { size: 8, channels: 1, crop: 'random' })).batch(0, 8)
      const moved = await (await Dataset.open(own, { size: 8, channels: 1, crop: 'random', cropScale: 1.5 })).batch(
        0,
        8,
      )
      const kinds = ({ images }: { images: Float32Array }) =>
        new Set(Array.from({ length: 8 }, (_, i) => images.subarray(i * 64, (i + 1) * 64).join())).size
      assert.deepEqual([kinds(still), kinds(moved) > 3], [1, true])
    })
  })

  it('turns upside down', async () => {
    const own = await folderOf(
      'rows',
      raw(
        Uint8Array.from({ length: 64 }, (_, i) => Math.floor(i / 8) * 30),
        8,
        1,
      ).png(),
    )
    const { images } = await (await Dataset.open(own, { size: 8, channels: 1, flipVertical: true })).batch(0, 100)
    const tops = Array.from({ length: 100 }, (_, i) => images[i * 64])
    const turned = tops.filter((v) => v === Math.fround(210 / 127.5 - 1)).length
    assert.equal(tops.filter((v) => v === -1).length, 100 - turned)
    assert.ok(turned > 30 && turned < 70, `${turned} of 100`)
  })

  describe('channels and bits', () => {
    const pixels = async (own: string, channels: number, o = {}) =>
      (await (await Dataset.open(own, { size: 2, channels, ...o })).batch(0, 1)).images

    it('keeps alpha as the last of 2 and of 4', async () => {
      const rgba = Uint8Array.of(255, 0, 0, 255, 255, 0, 0, 255, 255, 0, 0, 51, 255, 0, 0, 51)
      const own = await folderOf('alpha', raw(rgba, 2, 4).png())
      const images = await pixels(own, 4)
      assert.deepEqual([...images.subarray(0, 4)], [1, 1, 1, 1])
      assert.deepEqual([...images.subarray(12)], [1, 1, ...[51, 51].map((v) => Math.fround(v / 127.5 - 1))])
      assert.deepEqual([...(await pixels(own, 2)).subarray(4)], [...images.subarray(12)])
    })

    it('keeps all 16 bits', async () => {
      const values = Uint16Array.of(1, 300, 40_001, 65_535)
      const own = await folderOf('grey16', raw(values, 2, 1).toColourspace('grey16').png())
      const expected = Float32Array.from(values, (v) => v / 32767.5 - 1)
      assert.deepEqual(await pixels(own, 1), expected)
      const rgb = await pixels(own, 3)
      for (const c of [0, 1, 2]) assert.deepEqual(rgb.subarray(4 * c, 4 * c + 4), expected)
      assert.deepEqual((await pixels(own, 2)).subarray(4), new Float32Array(4).fill(1))
    })

    it('lays 16 bits with alpha onto the background', async () => {
      const rgba = Uint16Array.from({ length: 16 }, (_, i) => (i % 4 === 3 ? 0 : 9))
      const own = await folderOf('clear16', raw(rgba, 2, 4).toColourspace('rgb16').png())
      const images = await pixels(own, 3, { background: '#ff3300' })
      const expected = [255, 51, 0].map((v) => Math.fround(v / 127.5 - 1))
      for (const c of [0, 1, 2]) for (const p of [0, 3]) assert.ok(Math.abs(images[4 * c + p] - expected[c]) < 1e-6)
    })

    it('reads floats between the black and white that are said, and refuses others', async () => {
      const values = Float32Array.of(0, 0.25, 0.5, 1)
      const own = await folderOf('float', floatTiff(values, 2, 1), 'a.tif')
      assert.deepEqual([...(await pixels(own, 1, { range: [0, 1] }))], [-1, -0.5, 0, 1])
      assert.deepEqual([...(await pixels(own, 1, { range: [-1, 1] }))], [...values])
      await rejects(
        pixels(own, 1),
        'invalid-argument',
        /float, whose black and white are not known: say them \(range\)/,
      )
      const beyond = await folderOf('beyond', floatTiff(Float32Array.of(0, 1, 2, 1), 2, 1), 'a.tif')
      await rejects(pixels(beyond, 1, { range: [0, 1] }), 'invalid-argument', /floats outside of its range, 0 to 1/)
      const rgb = Float32Array.from({ length: 12 }, (_, i) => i / 11)
      const coloured = await pixels(await folderOf('rgb', floatTiff(rgb, 2, 3), 'a.tif'), 3, { range: [0, 1] })
      for (let i = 0; i < 12; i++)
        assert.ok(Math.abs(coloured[(i % 3) * 4 + Math.floor(i / 3)] - (2 * rgb[i] - 1)) < 1e-6)
    })
  })

  describe('aspect buckets', () => {
    const buckets = [
      [8, 16],
      [8, 8],
      [16, 8],
    ] as const

    it('are by the nearest ratio', () => {
      const sizes = [
        { height: 10, width: 30 },
        { height: 10, width: 12 },
        { height: 99, width: 100 },
        { height: 30, width: 16 },
      ]
      assert.deepEqual([...bucketsOf(sizes, buckets)], [0, 1, 1, 2])
    })

    it('make batches of one bucket each, all images in an epoch, in another order the next', () => {
      const bucketOf = Uint32Array.from({ length: 23 }, (_, i) => (i * 7) % 3)
      const [first, second] = [0, 1].map((epoch) => groups(1, epoch, bucketOf, 4))
      assert.equal(first.length, groupCount(bucketOf, 4))
      for (const group of [...first, ...second]) assert.equal(new Set(Array.from(group, (i) => bucketOf[i])).size, 1)
      for (const epoch of [first, second]) assert.equal(new Set(epoch.flatMap((group) => [...group])).size, 23)
      assert.notDeepEqual(first, second)
    })

    it('give batches of their shapes, the same ones at a position', async () => {
      for (const [i, [height, width]] of [...buckets, ...buckets].entries()) {
        const image = sharp({ create: { width: width * 2, height: height * 2, channels: 3, background: 'red' } })
        await folderOf('shapes', image.png(), `${i}.png`)
      }
      const data = await Dataset.open(at('shapes'), { size: 8, buckets, seed: 1 })
      const shapes = new Set<string>()
      for (const k of [0, 1, 2, 3]) {
        const { shape, images } = await data.batch(2 * k, 2)
        shapes.add(shape.join())
        assert.deepEqual((await data.batch(2 * k, 2)).images, images)
      }
      assert.deepEqual([...shapes].sort(), ['2,3,16,8', '2,3,8,16', '2,3,8,8'])
      await rejects(data.batch(1, 2), 'invalid-argument', /a multiple of 2/)
    })
  })

  it('of a part of a source knows the part alone', async () => {
    await writeImages(at('parts', 'x'), 3)
    await writeImages(at('parts', 'y'), 3)
    const options = { size: 8, classes: 'folders', cacheBytes: 0 } as const
    const source = await folderSource(at('parts'), { channels: 3, height: 8, width: 8 })
    const some = await Dataset.of(subset(source, [1, 4]), options)
    assert.deepEqual(
      [some.length, some.classNames, [some.fileOf(0), some.fileOf(1)].sort()],
      [2, ['x', 'y'], ['x/0001.png', 'y/0001.png']],
    )
    const others = await Dataset.of(subset(source, [0, 4]), options)
    assert.notEqual(others.fingerprint, some.fingerprint)
  })

  it('identifies folders as before there were other sources', async () => {
    await writeImages(at('known', 'x'), 2)
    const plain = await ImageFolder.open(at('known'), { size: 8 })
    const classes = await ImageFolder.open(at('known'), { size: 8, classes: 'folders' })
    const hash = (...more: unknown[]) => {
      const all = [plain.files, { size: 8, channels: 3, background: 'white' }, ...more]
      return createHash('sha256').update(JSON.stringify(all)).digest('hex').slice(0, 16)
    }
    assert.deepEqual([plain.fingerprint, classes.fingerprint], [hash(), hash(['x'], [0, 0])])
  })

  describe('of an object', () => {
    const items = (o: Partial<UserItems> = {}): UserItems => ({
      length: 5,
      get: (i) => Tensor.from(new Float32Array(12).fill(i / 8), [3, 2, 2]),
      ...o,
    })
    const open = (o: Partial<UserItems>) => Dataset.open(items(o), { size: 2 })

    it('shuffles what it gives, as a tensor, as floats or as a picture of any size', async () => {
      const { images } = await (await open({})).batch(0, 5)
      assert.deepEqual(Array.from({ length: 5 }, (_, i) => images[i * 12] * 8).sort(), [0, 1, 2, 3, 4])
      const floats = await open({ get: async (i) => new Float32Array(12).fill(i / 8) })
      assert.deepEqual((await floats.batch(0, 5)).images, images)
      const picture = { data: new Uint8ClampedArray(4 * 6 * 3).fill(255), height: 4, width: 6 }
      assert.ok((await (await open({ get: () => picture })).batch(0, 5)).images.every((v) => v === 1))
    })

    it('has its classes', async () => {
      const data = await open({ classNames: ['a', 'b'], labels: [0, 1, 1, 0, 1] })
      const { labels, images } = await data.batch(0, 5)
      assert.deepEqual(
        Array.from(labels!),
        Array.from(labels!, (_, i) => [0, 1, 1, 0, 1][images[i * 12] * 8]),
      )
    })

    it('is refused where it is wrong', async () => {
      await rejects(open({ length: 0 }), 'invalid-argument', /data\.length: expected an integer of at least 1, got 0/)
      const labels = (labels: number[]) => open({ classNames: ['a', 'b'], labels })
      await rejects(labels([0, 1]), 'invalid-argument', /data\.labels: expected 5 numbers/)
      await rejects(
        labels([0, 1, 2, 0, 0]),
        'invalid-argument',
        /data\.labels\[2\]: expected a class from 0 to 1, got 2/,
      )
      const get = async (image: unknown) => (await open({ get: () => image as Tensor })).batch(0, 1)
      await rejects(get(undefined), 'invalid-argument', /data\.get\(\d\): expected a Float32Array, a Tensor/)
      await rejects(
        get(new Float32Array(5)),
        'invalid-argument',
        /expected 12 floats, \[3, 2, 2\], got Float32Array\(5\)/,
      )
      await rejects(get(new Float32Array(12).fill(3)), 'invalid-argument', /a number in \[-1, 1\], got 3/)
      await rejects(get(Tensor.from(new Float32Array(8), [2, 2, 2])), 'invalid-argument', /Tensor \[3, height, width\]/)
    })
  })
})

describe('resampling', () => {
  it('keeps a constant, and the mean of what it makes smaller', () => {
    const data = Float32Array.from({ length: 20 * 30 * 5 }, (_, i) => (i % 5) / 5)
    const small = resample({ data, height: 20, width: 30, channels: 5 }, 7, 11)
    for (const [i, v] of small.data.entries()) assert.ok(Math.abs(v - (i % 5) / 5) < 1e-6)
  })

  it('is what sharp makes of the same pixels', async () => {
    const data = Uint8Array.from(
      { length: 24 * 24 },
      (_, i) => 128 + 100 * Math.sin((i % 24) / 3) * Math.cos(i / 24 / 4),
    )
    const image = sharp(data, { raw: { width: 24, height: 24, channels: 1 } })
    for (const size of [12, 16]) {
      const expected = await image.clone().resize(size, size, { fit: 'fill' }).toColourspace('b-w').raw().toBuffer()
      const { data: actual } = resample({ data, height: 24, width: 24, channels: 1 }, size, size)
      // Its edges are extended, and it rounds between the two passes.
      for (let y = 3; y < size - 3; y++) {
        for (let x = 3; x < size - 3; x++) assert.ok(Math.abs(actual[y * size + x] - expected[y * size + x]) <= 3)
      }
    }
  })
})
