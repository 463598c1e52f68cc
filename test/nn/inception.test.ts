import assert from 'node:assert/strict'
import { checkInception, type FileTensor, foldInception, inceptionTensors } from '../../lib/nn/inception/fold'
import { InceptionNetwork, inceptionSize } from '../../lib/nn/inception/network'
import { sizeOf } from '../../lib/tensor'
import { assertClose } from '../support/compare'
import { runGraph, testedBackends } from '../support/run-graph'
import { Golden } from './golden'
import { hashedImages, hashedWeights } from './hashed-weights'

type FileTensors = Record<string, FileTensor & { data: Float32Array }>

/** As a file has them: with norms. */
async function fileTensors({ parameters }: InceptionNetwork): Promise<FileTensors> {
  const entries = Object.entries(hashedWeights({ slots: inceptionTensors(parameters) }))
  const loaded = entries.map(async ([name, t]) => [name, { shape: t.shape, data: await t.data() }] as const)
  return Object.fromEntries(await Promise.all(loaded))
}

describe('InceptionV3 (network)', () => {
  for (const backend of ['reference' as const, ...testedBackends]) {
    it(`narrow, of images of another size, is the definition in torch (${backend})`, async () => {
      const golden = await Golden.open('inception_v3.safetensors')
      const { width, shape } = golden.config.narrow
      const network = new InceptionNetwork({ width })
      const dict = foldInception(network.parameters, await fileTensors(network), 'a file')
      const { flat: weights } = await network.parameters.fromStateDict(dict)
      const [n, channels, rows, columns] = shape as number[]
      const x = await hashedImages(shape).data()
      const out = await runGraph(
        backend,
        { x: { dims: [n, 1, 1, channels * rows * columns], data: x } },
        (g, v) => {
          const given = g.toNhwc(v.x, { channels, height: rows, width: columns })
          const resized = g.resizeBilinear(given, { height: inceptionSize, width: inceptionSize })
          return { ...network.build(g, resized) }
        },
        { banks: { weights } },
      )
      assertClose(out.features, golden.floats('narrow/features'), { abs: 1e-4, rel: 0 }, 'features')
      assertClose(out.logits, golden.floats('narrow/logits'), { abs: 1e-4, rel: 0 }, 'logits')
    })
  }

  it('has the parameters of the file, and no others', () => {
    const tensors = inceptionTensors(new InceptionNetwork().parameters)
    assert.equal(tensors.length, 94 * 5 + 2)
    const trained = tensors.filter(({ name }) => !name.includes('running_'))
    // torchvision's inception_v3 has 27161264, of which 3326696 are those of AuxLogits, and 1000 classes.
    const count = trained.reduce((sum, { shape }) => sum + sizeOf(shape), 0)
    assert.equal(count, 27161264 - 3326696 + 8 * 2049)
  })

  it('refuses tensors that are missing, unexpected, of another shape or not finite, by their names', async () => {
    const network = new InceptionNetwork({ width: 1 / 16 })
    const good = await fileTensors(network)
    const refused = (change: (tensors: FileTensors) => void, message: RegExp) => {
      const tensors = { ...good }
      change(tensors)
      const read = () => {
        checkInception(network.parameters, tensors, 'inception.pth')
        foldInception(network.parameters, tensors, 'inception.pth')
      }
      assert.throws(read, { code: 'state-mismatch', message })
    }
    const name = 'Mixed_6b.branch7x7_2.conv.weight'
    refused((t) => delete t[name], /inception\.pth.*missing: Mixed_6b\.branch7x7_2\.conv\.weight/)
    refused((t) => delete t['Mixed_7c.branch_pool.bn.running_var'], /missing: Mixed_7c\.branch_pool\.bn\.running_var/)
    refused((t) => {
      t.more = good['fc.bias']
    }, /unexpected: more/)
    refused((t) => {
      t[name] = { ...t[name], shape: [8, 8, 7, 1] }
    }, /Mixed_6b\.branch7x7_2\.conv\.weight is \[8,8,7,1\], not \[8,8,1,7\]/)
    const variance = 'Mixed_5b.branch1x1.bn.running_var'
    refused((t) => {
      t[variance] = { ...t[variance], data: t[variance].data.map(() => -1) }
    }, /Mixed_5b\.branch1x1\.bn has numbers that are not finite/)
    refused((t) => {
      t['fc.weight'] = { ...t['fc.weight'], data: t['fc.weight'].data.map(() => Number.NaN) }
    }, /fc\.weight has numbers that are not finite/)
  })
})
