import assert from 'node:assert/strict'
import { ClassEmbedder } from '../../lib/stages/class-embedder'
import { Tensor } from '../../lib/tensor'
import { testDevice } from '../support/devices'

describe('ClassEmbedder', () => {
  const table = Tensor.from([1, 2, 3, 4, 5, 6], [3, 2])

  it('gives a token for each label, by the row of its table', async () => {
    using stage = new ClassEmbedder({ embedDim: 2, nClasses: 3, device: testDevice })
    await stage.loadStateDict({ 'embedding.weight': table })
    for (const labels of [[2, 0], Int32Array.of(2, 0), Tensor.from(Int32Array.of(2, 0))]) {
      using tokens = await stage.encode(labels)
      assert.deepEqual(
        [tokens.shape, [...(await tokens.data())]],
        [
          [2, 1, 2],
          [5, 6, 1, 2],
        ],
      )
    }
    assert.deepEqual([stage.key, stage.trainable], ['class', true])
  })

  it('refuses what is no label', async () => {
    using stage = new ClassEmbedder({ embedDim: 2, nClasses: 3, key: 'kind', device: testDevice })
    for (const labels of [[3], [-1], [0.5], [], 'cat', undefined]) {
      await assert.rejects(stage.encode(labels as never), { code: 'invalid-argument', argument: 'kind' })
    }
    assert.throws(() => new ClassEmbedder({} as never), { argument: 'embedDim' })
  })
})
