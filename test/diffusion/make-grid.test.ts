import assert from 'node:assert/strict'
import { imageRows, makeGrid } from '../../lib/diffusion/models/make-grid'
import { Tensor } from '../../lib/tensor'

/** [n, c, 2, 1]: image i's channel k has the pixels 10*i + k and that + 0.5. */
function images(n: number, c: number): Tensor {
  const data = Array.from(
    { length: n * c * 2 },
    (_, j) => 10 * Math.floor(j / (2 * c)) + (Math.floor(j / 2) % c) + (j % 2) / 2,
  )
  return Tensor.from(data, [n, c, 2, 1])
}

describe('grids of images', () => {
  it('are those of make_grid', async () => {
    const grid = await makeGrid(images(3, 3), 2)
    assert.deepEqual(grid.shape, [3, 2 * 4 + 2, 2 * 3 + 2])
    const data = await grid.data()
    const expected = new Float32Array(3 * 10 * 8)
    for (const [i, y, x] of [
      [0, 2, 2],
      [1, 2, 5],
      [2, 6, 2],
    ]) {
      for (let k = 0; k < 3; k++) {
        expected[(k * 10 + y) * 8 + x] = 10 * i + k
        expected[(k * 10 + y + 1) * 8 + x] = 10 * i + k + 0.5
      }
    }
    assert.deepEqual(data, expected)
  })

  it('have three channels, no more columns than images, and no border around a single one', async () => {
    assert.deepEqual((await makeGrid(images(2, 1), 8)).shape, [3, 6, 8])
    const single = await makeGrid(images(1, 1), 4)
    assert.deepEqual(single.shape, [3, 2, 1])
    assert.deepEqual([...(await single.data())], [0, 0.5, 0, 0.5, 0, 0.5])
  })

  it('are eight images wide by default, and of images only', async () => {
    assert.deepEqual((await makeGrid(images(9, 1))).shape, (await makeGrid(images(9, 1), 8)).shape)
    const [one] = [images(1, 1)]
    const wrong: [string, Promise<unknown>][] = [
      ['images', makeGrid(Tensor.from([1, 2], [2, 1]))],
      ['images', makeGrid([one] as never)],
      ['columns', makeGrid(one, 0)],
      ['columns', makeGrid(one, Number.NaN)],
    ]
    for (const [argument, grid] of wrong) await assert.rejects(grid, { code: 'invalid-argument', argument })
  })

  it('show moments from left to right', async () => {
    const rows = await imageRows([images(2, 1), images(2, 1), images(2, 1)])
    assert.deepEqual(rows.shape, [3, 10, 11])
    const data = await rows.data()
    for (const x of [2, 5, 8]) assert.deepEqual([data[2 * 11 + x], data[6 * 11 + x]], [0, 10])
  })
})
