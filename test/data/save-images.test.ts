import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'
import { encodePng, saveImages, Tensor, toPixels } from '../../lib/index'
import { temporaryFolder } from '../train/support'

/** [n, c, 2, 3]; image i is grey i / (n - 1). */
const samples = (n: number, c = 3) =>
  Tensor.from(
    Float32Array.from({ length: n * c * 6 }, (_, k) => (2 * Math.floor(k / (6 * c))) / (n - 1 || 1) - 1),
    [n, c, 2, 3],
  )

describe('samples as pictures', () => {
  const folder = temporaryFolder()
  const at = (name: string) => path.join(folder, name)
  const rejects = (promise: Promise<unknown>, argument: string) =>
    assert.rejects(promise, { name: 'DiffusionError', code: 'invalid-argument', argument })

  it('are written in the format of the name', async () => {
    for (const [name, format] of [
      ['a.png', 'png'],
      ['a.JPG', 'jpeg'],
      ['a.webp', 'webp'],
      ['a.avif', 'heif'],
      ['a.tiff', 'tiff'],
      ['a.gif', 'gif'],
    ]) {
      await saveImages(at(name), samples(4), { scale: 8 })
      const metadata = await sharp(at(name)).metadata()
      assert.deepEqual([metadata.format, metadata.width, metadata.height], [format, 8 * (2 * 5 + 2), 8 * (2 * 4 + 2)])
      const { data, info } = await sharp(at(name)).removeAlpha().raw().toBuffer({ resolveWithObject: true })
      const pixel = (x: number, y: number) => data[(y * info.width + x) * info.channels]
      assert.ok(Math.abs(pixel(8 * 2 + 12, 8 * 6 + 8) - 170) < 5, name) // image 2
    }
    for (const name of ['a.bmp', 'a.apng', 'a.mp4', 'b.safetensors'])
      await rejects(saveImages(at(name), samples(1)), 'file')
    assert.ok(!existsSync(at('a.bmp')))
  })

  it('are an animation where there are several', async () => {
    const frames = [-1, 0, 1].map((v) => Tensor.from(new Float32Array(18).fill(v), [1, 3, 2, 3]))
    for (const name of ['d.gif', 'd.webp']) {
      await saveImages(at(name), frames, { scale: 4, fps: 5 })
      const { pages, width, pageHeight, delay, loop } = await sharp(at(name), { animated: true }).metadata()
      assert.deepEqual([pages, width, pageHeight, loop], [3, 12, 8, 0])
      assert.deepEqual([delay![0], delay!.at(-1)], [200, 1000])
    }
    await rejects(saveImages(at('d.png'), frames), 'file')
    await rejects(saveImages(at('d.gif'), []), 'samples')
    await rejects(saveImages(at('d.gif'), [samples(1), samples(2)]), 'samples')
  })

  it('are a PNG, and pixels for a canvas', async () => {
    const png = await encodePng(samples(3), { columns: 3, gap: 0 })
    const raw = await sharp(Buffer.from(png)).raw().toBuffer({ resolveWithObject: true })
    assert.deepEqual([raw.info.width, raw.info.height, raw.info.channels], [9, 2, 3])
    const { data, width, height } = await toPixels(samples(3), { columns: 3, gap: 0 })
    assert.ok(data instanceof Uint8ClampedArray)
    assert.deepEqual([width, height, data.length], [9, 2, 72])
    for (let p = 0; p < 18; p++)
      assert.deepEqual([...data.subarray(4 * p, 4 * p + 3)], [...raw.data.subarray(3 * p, 3 * p + 3)])
    assert.ok(data.every((v, i) => i % 4 !== 3 || v === 255))
    assert.deepEqual([data[0], data[12], data[24]], [0, 128, 255])
    // Grey as grey, one image without a border, and an image alone.
    assert.deepEqual([...(await toPixels(samples(2, 1), { gap: 0 })).data.subarray(12, 16)], [255, 255, 255, 255])
    assert.equal((await toPixels(samples(1))).width, 3)
    assert.equal((await toPixels(Tensor.from(new Float32Array(18), [3, 2, 3]))).height, 2)
    await saveImages(at('same.png'), samples(3), { columns: 3, gap: 0 })
    assert.ok(readFileSync(at('same.png')).equals(Buffer.from(png)))
  })

  it('are of shapes that are pictures', async () => {
    const shapes = [
      [2, 2],
      [1, 2, 4, 4],
      [0, 3, 4, 4],
      [1, 1, 1, 1, 1],
    ]
    for (const shape of shapes) {
      const wrong = Tensor.from(new Float32Array(shape.reduce((a, b) => a * b)), shape)
      for (const use of [encodePng, toPixels]) await rejects(use(wrong), 'samples')
      await rejects(saveImages(at('w.png'), wrong), 'samples')
    }
    await rejects(encodePng(Tensor.from(new Int32Array(3), [1, 3, 1, 1])), 'samples')
    await rejects(toPixels(undefined as unknown as Tensor), 'samples')
    await rejects(encodePng(samples(1), { scale: 0 }), 'scale')
    await rejects(encodePng(samples(2), { scale: 1e6 }), 'scale')
    await rejects(toPixels(samples(2), { gap: 1e9 }), 'gap')
    for (const file of [undefined, '', 5, new URL('file:///a.png'), samples(1)])
      await rejects(saveImages(file as string, samples(1)), 'file')
    await assert.rejects(toPixels(samples(1), { colums: 2 } as object), { code: 'unknown-option', expected: 'columns' })
  })
})
