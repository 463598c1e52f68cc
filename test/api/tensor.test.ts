import assert from 'node:assert/strict'
import { Tensor } from '../../lib/index'

describe('Tensor', () => {
  it('copies what it is given and what it gives', async () => {
    const source = Float32Array.of(1, 2, 3, 4)
    const tensor = Tensor.from(source, [2, 2])
    source[0] = 9
    const data = await tensor.data()
    data[1] = 9
    assert.deepEqual([...(await tensor.data())], [1, 2, 3, 4])
    assert.deepEqual(tensor.shape, [2, 2])
    assert.equal(tensor.size, 4)
  })

  it('is float32 from numbers and int32 from an Int32Array', async () => {
    assert.equal(Tensor.from([1, 2]).dtype, 'float32')
    const integers = Tensor.from(Int32Array.of(1, 2))
    assert.equal(integers.dtype, 'int32')
    assert.deepEqual(await integers.data(), Float32Array.of(1, 2))
    assert.deepEqual(Tensor.from([5], []).shape, [])
  })

  it('can be disposed of once or more, and not used afterwards', async () => {
    let kept: Tensor
    {
      using tensor = Tensor.from([1])
      kept = tensor
    }
    assert.ok(kept.disposed)
    kept.dispose()
    await assert.rejects(kept.data(), { code: 'disposed' })
  })

  it('randn depends on the seed, not on the number of rows', async () => {
    const few = await Tensor.randn([2, 3], { seed: 1 }).data()
    const many = await Tensor.randn([5, 3], { seed: 1 }).data()
    assert.deepEqual(few, many.slice(0, 6))
    assert.notDeepEqual(few, await Tensor.randn([2, 3], { seed: 2 }).data())
  })
})
