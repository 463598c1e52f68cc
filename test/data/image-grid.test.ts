import assert from 'node:assert/strict'
import sharp from 'sharp'
import { encodePng, imageGrid, toPixels } from '../../lib/data/image-grid'

describe('image grid', () => {
  it('clamps and rounds to bytes', () => {
    const { data } = toPixels(Float32Array.of(-2, -1, 0, 1, 3, Number.NaN), [1, 1, 2, 3], 0)
    assert.deepEqual([...data], [0, 0, 128, 255, 255, 0])
  })

  it('lays images out by rows and survives PNG', async () => {
    const shape = [5, 3, 4, 6]
    const samples = Float32Array.from({ length: 5 * 72 }, (_, i) => Math.floor(i / 72) / 2 - 1)
    const grid = imageGrid(samples, shape, { gap: 1, scale: 2 })
    assert.deepEqual([grid.width, grid.height], [(3 * 7 + 1) * 2, (2 * 5 + 1) * 2])
    const { data, info } = await sharp(await encodePng(grid))
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
