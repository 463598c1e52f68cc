// lpips' distance against taming-transformers' of a VGG16 with few channels.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { type StoredTensor, writeSafetensors } from '../../lib/checkpoint/safetensors'
import type { Graph, Value } from '../../lib/graph'
import { LPIPS } from '../../lib/stages/lpips'
import { Tensor } from '../../lib/tensor'
import { tensorOf } from '../nn/check-autoencoder'
import { assertScaled, tolerance } from '../nn/check-golden'
import { Golden } from '../nn/golden'
import { testDevice as device } from '../support/devices'

describe('LPIPS', () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'ddpm-native-lpips-'))
  const at = (name: string) => path.join(folder, name)
  let golden: Golden
  after(() => rmSync(folder, { recursive: true }))

  /** In one file by taming's names, and in two by torchvision's and lpips'. */
  before(async () => {
    golden = await Golden.open('lpips.safetensors')
    const entries = golden.names('param/').map((name) => [name, golden.tensors[`param/${name}`]] as const)
    const write = (file: string, own: readonly (readonly [string, StoredTensor])[]) => {
      return writeSafetensors(at(file), Object.fromEntries(own))
    }
    await write('whole.safetensors', entries)
    const isLinear = ([name]: readonly [string, StoredTensor]) => name.startsWith('lin')
    const features = entries.filter((entry) => !isLinear(entry))
    const named = features.map(([name, t]) => [name.replace(/^net\.slice\d/, 'features'), t] as const)
    await write('vgg16.safetensors', [...named, ['classifier.0.weight', named[0][1]]])
    await write('linear.safetensors', entries.filter(isLinear))
    const negative = { ...golden.tensors['param/lin1.model.1.weight'], data: new Float32Array(6).fill(-1) }
    await write('negative.safetensors', [...entries.filter(isLinear), ['lin1.model.1.weight', negative]])
  })

  for (const files of [['whole'], ['vgg16', 'linear']]) {
    it(`of ${files.join(' and ')}: distances and their gradients are PyTorch's`, async () => {
      using lpips = await LPIPS.fromFiles(
        files.map((name) => at(`${name}.safetensors`)),
        { device },
      )
      for (const name of ['rgb', 'grey']) {
        const [x, y] = ['x', 'y'].map((which) => tensorOf(golden, `in/${name}/${which}`))
        const expected = golden.floats(`out/${name}/distance`)
        assertScaled(await (await lpips.forward(x, y)).data(), expected, tolerance.out, 0, name)
        const { shape } = x
        const image = lpips.device.upload(await y.data())
        const gradient = lpips.device.allocate(y.size)
        const weights = Float32Array.of(1, 2)
        const end = (_: Graph, value: Value) => value
        const distance = await lpips.descend({ shape, x: await x.data(), image, end, weights, gradient })
        assertScaled(distance, expected, tolerance.out, 0, name)
        const grad = golden.floats(`out/${name}/grad_y`)
        assertScaled(await gradient.read(), grad, tolerance.gradient, 0, `gradient of ${name}`)
        image.release()
        gradient.release()
      }
    })
  }

  it('says what is wrong', async () => {
    const open = (...names: string[]) =>
      LPIPS.fromFiles(
        names.map((name) => at(`${name}.safetensors`)),
        { device },
      )
    await assert.rejects(open('vgg16'), { code: 'state-mismatch', expected: 'lin0' })
    await assert.rejects(open('linear'), { code: 'state-mismatch', expected: 'features.0.weight' })
    await assert.rejects(open('vgg16', 'negative'), { code: 'state-mismatch', argument: 'lin1' })
    await assert.rejects(open('none'), { code: 'not-found' })
    await assert.rejects(LPIPS.fromFiles([]), { code: 'invalid-argument', argument: 'paths' })
    const other = path.join(__dirname, '..', '..', '..', 'test', 'fixtures', 'gaussian.safetensors')
    await assert.rejects(LPIPS.fromFiles([other]), { code: 'state-mismatch', argument: 'paths' })
    using lpips = await open('whole')
    const [x, small] = [Tensor.randn([1, 3, 16, 16]), Tensor.randn([1, 3, 15, 16])]
    await assert.rejects(lpips.forward(small, small), { code: 'invalid-argument', argument: 'x' })
    await assert.rejects(lpips.forward(x, small), { code: 'invalid-argument', argument: 'y' })
  })
})
