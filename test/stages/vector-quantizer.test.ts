// VectorQuantizer2 against taming-transformers': entries, loss, indices and gradients.
import assert from 'node:assert/strict'
import { Quantizer } from '../../lib/nn/autoencoder/quantizer'
import { ParameterTable, Scope } from '../../lib/nn/parameters'
import { VectorQuantizer2, type VectorQuantizer2Options } from '../../lib/stages/vector-quantizer'
import { Tensor } from '../../lib/tensor'
import { camelCased, tensorOf } from '../nn/check-autoencoder'
import { assertScaled } from '../nn/check-golden'
import { Golden } from '../nn/golden'
import { testDevice } from '../support/devices'
import { runGraph, testedBackends } from '../support/run-graph'

const ids = ['legacy', 'fixed', 'legacy_beta1.5', 'sane', 'remap_int', 'remap_extra']

const open = () => Golden.open('quantizer.safetensors')

function optionsOf({ config }: Golden, id: string): VectorQuantizer2Options {
  const { quantizer, used } = config.cases.find((one: { id: string }) => one.id === id)
  const given = camelCased(quantizer) as Partial<VectorQuantizer2Options> & { beta: number }
  return { nE: config.n_e, eDim: config.e_dim, ...given, ...(used && { remap: used }) }
}

const feedOf = (golden: Golden, name: string) => {
  const [n, c, h, w] = golden.tensors[name].shape
  return { dims: [n, 1, 1, c * h * w] as const, data: golden.floats(name) }
}

for (const device of testedBackends) {
  describe(`VectorQuantizer2 on ${device}`, () => {
    for (const id of ids) {
      it(`${id}: entries, loss and indices are PyTorch's`, async () => {
        const golden = await open()
        using quantizer = new VectorQuantizer2({ ...optionsOf(golden, id), device })
        await quantizer.loadStateDict(await golden.parameters(() => true))
        const { quant, loss, indices } = await quantizer.forward(tensorOf(golden, 'in/z'))
        const expected = (name: string) => golden.floats(`out/${id}/${name}`)
        assertScaled(await quant.data(), expected('quant'), 1e-5, 0, 'quant')
        assertScaled(Float32Array.of(loss), expected('loss'), 1e-5, 0, 'loss')
        assert.deepEqual(indices.shape, golden.tensors[`out/${id}/indices`].shape)
        assert.deepEqual(await indices.values(), golden.integers(`out/${id}/indices`))
        if (!golden.has(`out/${id}/entry`)) return
        const [n, c, h, w] = quant.shape
        const entry = await quantizer.getCodebookEntry(indices, [n, h, w, c])
        assert.deepEqual(entry.shape, quant.shape)
        assertScaled(await entry.data(), expected('entry'), 1e-5, 0, 'entry')
      })

      it(`${id}: gradients are PyTorch's`, async () => {
        const golden = await open()
        const { nE, eDim, beta, legacy = true } = optionsOf(golden, id)
        const table = new ParameterTable()
        const quantizer = new Quantizer(new Scope(table), { nE, eDim, beta, legacy })
        const { flat } = await table.fromStateDict(await golden.parameters(() => true))
        const [n, channels, height, width] = golden.tensors['in/z'].shape
        const feeds = {
          z: feedOf(golden, 'in/z'),
          w: feedOf(golden, 'in/w'),
          mean: { dims: [n, 1, 1, 1] as const, data: new Float32Array(n).fill(1 / n) },
        }
        // The mean of quant w, which has no op: ((quant + w)^2 - quant^2 - w^2) / 2.
        const { gradZ, grads } = await runGraph(
          device,
          feeds,
          (graph, v) => {
            const z = graph.toNhwc(v.z, { channels, height, width })
            const { quant, loss } = quantizer.quantize({ graph, train: false }, z)
            const flatQuant = graph.toNchw(quant)
            const meanOf = (a: typeof v.z, b: typeof v.z) => graph.weightedSum(graph.loss(a, b, { type: 'l2' }), v.mean)
            const scaled = (a: typeof v.z, scale: number) => graph.affine(a, { scale })
            const zeros = scaled(v.w, 0)
            const product = graph.add(
              scaled(meanOf(flatQuant, scaled(v.w, -1)), 0.5),
              scaled(meanOf(flatQuant, zeros), -0.5),
            )
            const total = graph.add(product, graph.weightedSum(loss, v.mean))
            const [gradient] = graph.backward(total, [v.z])
            return { gradZ: gradient! }
          },
          { banks: { weights: flat, grads: new Float32Array(table.count) } },
        )
        const expected = (name: string) => golden.floats(`out/${id}/${name}`)
        assertScaled(gradZ, expected('grad_z'), 1e-5, 0, 'grad_z')
        const { 'embedding.weight': codebook } = table.toStateDict(grads)
        assertScaled(await codebook.data(), expected('grad_embedding'), 1e-5, 0, 'grad_embedding')
      })
    }
  })
}

describe('VectorQuantizer2', () => {
  const make = (options: object = {}) =>
    new VectorQuantizer2({ nE: 6, eDim: 2, beta: 1, device: testDevice, ...options })
  /** Entry i is (i, 0). */
  const codebook = { 'embedding.weight': Tensor.from([0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0], [6, 2]) }
  const z = Tensor.from([0.1, 5.4, 3.4, 2.6, 0, 0, 0, 0], [1, 2, 2, 2])

  it('draws indices of unknown entries by the seed', async () => {
    using quantizer = make({ remap: [5, 0], seed: 3 })
    using same = make({ remap: [5, 0], seed: 3 })
    await quantizer.loadStateDict(codebook)
    await same.loadStateDict(codebook)
    const draws = async (of: VectorQuantizer2) => {
      const all: number[] = []
      for (let i = 0; i < 8; i++) {
        const [first, second, ...unknown] = await (await of.forward(z)).indices.values()
        assert.deepEqual([first, second], [1, 0])
        all.push(...unknown)
      }
      return all
    }
    const found = await draws(quantizer)
    assert.deepEqual(new Set(found), new Set([0, 1]))
    assert.deepEqual(await draws(same), found)
  })

  it('gives entries the shape of the indices, without one of their own', async () => {
    using quantizer = make()
    await quantizer.loadStateDict(codebook)
    const entries = await quantizer.getCodebookEntry(Tensor.from(Int32Array.of(4, 0, 5), [3, 1]))
    assert.deepEqual(entries.shape, [3, 1, 2])
    assert.deepEqual([...(await entries.data())], [4, 0, 0, 0, 5, 0])
  })

  it('of equally near entries takes the first', async () => {
    using quantizer = make()
    await quantizer.loadStateDict(codebook)
    const { indices } = await quantizer.forward(Tensor.from([2.5, 0.5, 0, 0], [1, 2, 1, 2]))
    assert.deepEqual([...(await indices.values())], [2, 0])
  })

  it('says what is wrong with its input', async () => {
    assert.throws(() => make({ remap: [6] }), { code: 'invalid-argument', argument: 'remap' })
    assert.throws(() => make({ unknownIndex: 'extra' }), { code: 'invalid-argument', argument: 'unknownIndex' })
    assert.throws(() => make({ nE: undefined }), { code: 'invalid-argument', argument: 'nE' })
    using quantizer = make()
    using remapped = make({ remap: [1, 2] })
    const entries = (q: VectorQuantizer2, data: number[], shape?: number[]) =>
      q.getCodebookEntry(Tensor.from(Int32Array.from(data)), shape)
    await assert.rejects(quantizer.forward(Tensor.randn([1, 3, 2, 2])), { code: 'invalid-argument', argument: 'z' })
    await assert.rejects(entries(quantizer, [6]), { code: 'invalid-argument', argument: 'indices' })
    await assert.rejects(entries(remapped, [2], [1, 1, 1, 2]), { code: 'invalid-argument', argument: 'indices' })
    await assert.rejects(entries(remapped, [1]), { code: 'invalid-argument', argument: 'shape' })
    await assert.rejects(entries(quantizer, [1, 2], [1, 1, 1, 2]), { code: 'invalid-argument', argument: 'shape' })
    const floats = quantizer.getCodebookEntry(Tensor.from([1]))
    await assert.rejects(floats, { code: 'invalid-argument', argument: 'indices' })
  })
})
