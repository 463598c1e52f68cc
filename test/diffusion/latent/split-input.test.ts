// Patches of maps: ddpm.py's get_fold_unfold.
import assert from 'node:assert/strict'
import { borderDistances, Patches, parseSplit, within } from '../../../lib/diffusion/latent/split-input'
import { Tensor } from '../../../lib/tensor'
import { Golden } from '../../nn/golden'
import { assertClose } from '../../support/compare'

const params = parseSplit({ ks: [4, 4], stride: [2, 2], vqf: 2, patchDistributedVq: true })
const close = { abs: 1e-6, rel: 1e-6 }

describe('split_input_params', () => {
  for (const [id, up] of [
    ['fold', 1],
    ['fold_up', 2],
  ] as const) {
    it(`${id}: weights and their sums are ddpm.py's`, async () => {
      const golden = await Golden.open('ldm/ldm_split.safetensors')
      const patches = new Patches([8, 8], params, { up })
      for (const name of ['weighting', 'normalization'] as const) {
        assert.deepEqual(patches[name].shape, golden.tensors[`out/${id}/${name}`].shape)
        assertClose(await patches[name].data(), golden.floats(`out/${id}/${name}`), close, name)
      }
    })
  }

  it('what is cut and not changed is what it was, where patches cover it', async () => {
    const x = Tensor.from(
      Float32Array.from({ length: 2 * 3 * 6 * 9 }, (_, i) => Math.sin(i)),
      [2, 3, 6, 9],
    )
    const patches = new Patches([6, 9], parseSplit({ ks: [4, 3], stride: [2, 3], tieBraker: false }))
    assert.deepEqual(patches.grid, [2, 3])
    const back = await patches.fold(await patches.unfold(x))
    assertClose(await back.data(), await x.data(), close, 'x')
    // A column that no patch reaches is 0 / 0.
    const bare = new Patches([6, 9], parseSplit({ ks: [4, 4], stride: [2, 4] }))
    const folded = await (await bare.fold(await bare.unfold(x))).data()
    assert.ok(Number.isNaN(folded[8]) && !Number.isNaN(folded[7]))
  })

  it('patches of the border count less with the tie braker', () => {
    const patches = new Patches([8, 8], parseSplit({ ks: [4, 4], stride: [2, 2], tieBraker: true }))
    const plain = new Patches([8, 8], params)
    const ties = borderDistances([3, 3]).map((v) => Math.min(Math.max(v, 0.01), 0.5))
    return Promise.all([patches.weighting.data(), plain.weighting.data()]).then(([a, b]) =>
      assertClose(
        a,
        b.map((v, i) => v * ties[i % 9]),
        close,
        'weights',
      ),
    )
  })

  it('is refused by name, or cut to the map', () => {
    assert.throws(() => new Patches([3, 8], params), { code: 'invalid-argument', argument: 'ks' })
    assert.deepEqual(within(params, [3, 8]).ks, [3, 4])
    assert.throws(() => parseSplit({ ks: [4], stride: [2, 2] }), { code: 'invalid-argument', argument: 'ks' })
    assert.throws(() => parseSplit({ ks: [4, 4], stride: [2, 2], vqF: 2 } as never), { code: 'unknown-option' })
  })
})
