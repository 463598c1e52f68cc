import assert from 'node:assert/strict'
import sharp from 'sharp'
import { encodeImage } from '../../lib/data/image-format'
import { imageAt, imageGrid, joinBytes, toBytes } from '../../lib/data/image-grid'

describe('image grid', () => {
  it('clamps and rounds to bytes', () => {
    const { data } = toBytes(Float32Array.of(-2, -1, 0, 1, 3, Number.NaN), [1, 1, 2, 3])
    assert.deepEqual([...data], [0, 0, 128, 255, 255, 0])
  })

  it('puts channels last, image after image', () => {
    const samples = Float32Array.from({ length: 2 * 3 * 2 }, (_, i) => i / 127.5 - 1)
    const one = toBytes(samples, [2, 3, 1, 2])
    assert.deepEqual(
      [one.shape, [...one.data]],
      [
        [2, 1, 2, 3],
        [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11],
      ],
    )
    const { data, width, height, channels } = imageAt(joinBytes([one, one]), 3)
    assert.deepEqual([[...data], width, height, channels], [[6, 8, 10, 7, 9, 11], 2, 1, 3])
  })

  it('lays images out by rows and survives PNG', async () => {
    const shape = [5, 3, 4, 6]
    const samples = Float32Array.from({ length: 5 * 72 }, (_, i) => Math.floor(i / 72) / 2 - 1)
    const grid = imageGrid(toBytes(samples, shape), { gap: 1, scale: 2 })
    assert.deepEqual([grid.width, grid.height], [(3 * 7 + 1) * 2, (2 * 5 + 1) * 2])
    const { data, info } = await sharp(await encodeImage(grid))
      .raw()
      .toBuffer({ resolveWithObject: true })
    assert.deepEqual([info.width, info.height, info.channels], [44, 22, 3])
    const at = (x: number, y: number) => data[(y * 44 + x) * 3]
    assert.equal(at(0, 0), 255) // the gap
    assert.equal(at(2, 2), 0) // image 0
    assert.equal(at(2 + 14, 2 + 10), 255) // image 4
    assert.equal(at(2 + 28, 2), 128) // image 2
    assert.equal(at(2 + 28, 2 + 10), 255) // nothing in the last cell
  })
})
