import assert from 'node:assert/strict'
import path from 'node:path'
import { ImageFolder } from '../../lib/data/image-folder'
import { DDPM } from '../../lib/diffusion/models/ddpm'
import type { DDPMOptions } from '../../lib/diffusion/options/ddpm-options'
import { DiffusionError } from '../../lib/errors'
import { Tensor } from '../../lib/tensor'
import { type EvaluateOptions, evaluate, evaluateShard, mergeEvaluations } from '../../lib/trainer/evaluate'
import type { EvaluationPart } from '../../lib/trainer/evaluation-part'
import { temporaryFolder, tinyModel, writeImages } from './support'

describe('evaluate', () => {
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const T = 6
  const unetConfig = { ...tinyModel.unetConfig, inChannels: 3, outChannels: 3 }
  const open = (options: DDPMOptions = {}) =>
    new DDPM({ unetConfig, timesteps: T, imageSize: 8, device: 'cpu', deterministic: true, ...options })
  const data = (name: string, classes?: string) => ImageFolder.open(at(name), { size: 8, classes })

  before(async () => {
    await writeImages(at('images'), 5)
    await writeImages(at('two', 'rose'), 2)
    await writeImages(at('two', 'tulip'), 2)
  })

  it('is the mean of calcBpd over the images, however they are divided', async () => {
    using ddpm = open()
    const images = await data('images')
    const whole = await evaluate(ddpm, images, { seed: 3 })
    const x = Tensor.wrap((await images.batch(0, 5)).images, [5, 3, 8, 8])
    const direct = await ddpm.calcBpd(x, { seed: 3 })
    const mean = async (tensor: Tensor) => (await tensor.data()).reduce((a, b) => a + b, 0) / 5
    const near = (a: number, b: number) => assert.ok(Math.abs(a - b) <= 1e-5 * Math.abs(b), `${a} is not ${b}`)
    near(whole.bitsPerDim, await mean(direct.totalBpd))
    near(whole.priorBpd, await mean(direct.priorBpd))
    near(whole.bitsPerDim, whole.priorBpd + whole.vb.reduce((a, b) => a + b, 0))
    for (const key of ['vb', 'xstartMse', 'mse'] as const) {
      const values = await direct[key].data()
      assert.equal(whole[key].length, T)
      for (let t = 0; t < T; t++)
        near(
          whole[key][t],
          [0, 1, 2, 3, 4].reduce((s, i) => s + values[i * T + t] / 5, 0),
        )
    }
    assert.deepEqual(await evaluate(ddpm, images, { seed: 3, batchSize: 2 }), whole)
    assert.notDeepEqual(await evaluate(ddpm, images, { seed: 4 }), whole)
    const two = await evaluate(ddpm, images, { seed: 3, limit: 2 })
    assert.equal(two.images, 2)
    near(two.bitsPerDim, (await direct.totalBpd.data()).slice(0, 2).reduce((a, b) => a + b) / 2)
  })

  it('is divided among shards, and put together to the same bits', async () => {
    using ddpm = open()
    const images = await data('images')
    const options = { seed: 3, batchSize: 1 }
    const whole = await evaluate(ddpm, images, options)
    for (const total of [1, 2, 3, 5]) {
      const parts: EvaluationPart[] = []
      for (let i = total; i > 0; i--)
        parts.push(await evaluateShard(ddpm, images, { ...options, shard: `${i}/${total}` }))
      assert.deepEqual(mergeEvaluations(JSON.parse(JSON.stringify(parts))), whole)
    }
    const [a, b] = await Promise.all(
      ['1/2', '2/2'].map((shard) => evaluateShard(ddpm, images, { ...options, shard, limit: 4 })),
    )
    assert.deepEqual([a.first, a.images, b.first, b.images], [0, 2, 2, 2])
    const refused = (parts: EvaluationPart[], pattern: RegExp) => assert.throws(() => mergeEvaluations(parts), pattern)
    for (const wrong of [[], [{}], [null], [{ ...a, sums: { ...a.sums, vb: [[]] } }], [{ ...a, first: -1 }], 'a'])
      refused(wrong as never, /^DiffusionError: parts: expected results of evaluateShard/)
    refused([a], /1 of 2 shards is missing: 2/)
    refused([a, b, a], /shard 1 of 2 is there twice: part 1 and part 3/)
    const third = await evaluateShard(ddpm, images, { ...options, shard: '3/3' })
    refused([a, third], /part 1 is shard 1 of 2, and part 2 3 of 3/)
    await assert.rejects(
      evaluateShard(ddpm, images, { ...options, shard: '1/6' }),
      /5 images are 5 batches of 1, too few/,
    )
  })

  it('reports each timestep, and stops at once', async () => {
    using ddpm = open()
    const images = await data('images')
    const done: number[] = []
    await evaluate(ddpm, images, { batchSize: 3, onProgress: (e) => done.push(e.done, e.total, e.images) })
    assert.deepEqual(done, Array.from({ length: 2 * T }, (_, i) => [i + 1, 2 * T, i < T ? 0 : 3]).flat())
    const controller = new AbortController()
    let steps = 0
    const onProgress: EvaluateOptions['onProgress'] = () => ++steps === 2 && controller.abort()
    await assert.rejects(
      evaluate(ddpm, images, { signal: controller.signal, onProgress }),
      (error) => error instanceof DiffusionError && error.code === 'aborted',
    )
    assert.equal(steps, 2)
  })

  it('tells a class-conditional model the classes by their names, or none', async () => {
    const classes = { unetConfig: { ...unetConfig, numClasses: 3, useScaleShiftNorm: true } }
    using ddpm = open({ ...classes, classNames: ['tulip', 'rose'], nullClass: 2 })
    await ddpm.loadStateDict(await noisy(ddpm)) // at the start nothing depends on the class
    const images = await data('two', 'folders')
    const x = Tensor.wrap((await images.batch(0, 4)).images, [4, 3, 8, 8])
    const own = (await images.batch(0, 4)).labels!.map((label) => 1 - label) // the folders' order is the other one
    const direct = async (y: Int32Array) => (await ddpm.calcBpd(x, { seed: 0, y })).totalBpd.data()
    const mean = (values: Iterable<number>) => [...values].reduce((a, b) => a + b, 0) / 4
    const near = (a: number, b: number) => assert.ok(Math.abs(a - b) <= 1e-5 * Math.abs(b), `${a} is not ${b}`)
    const [right, none] = [mean(await direct(own)), mean(await direct(new Int32Array(4).fill(2)))]
    assert.ok(Math.abs(right - none) > 1e-3 * right)
    near((await evaluate(ddpm, images)).bitsPerDim, right)
    near((await evaluate(ddpm, await data('two'))).bitsPerDim, none)

    const rejects = (model: DDPM, folder: ImageFolder, pattern: RegExp) =>
      assert.rejects(evaluate(model, folder), (e) => e instanceof DiffusionError && pattern.test(e.message))
    using other = open({ ...classes, classNames: ['oak'], nullClass: 2 })
    await rejects(other, images, /classes: expected classes of the model: oak/)
    using always = open({ unetConfig: { ...unetConfig, numClasses: 3 } })
    await rejects(always, await data('two'), /has no null class/)
    using plain = open()
    await rejects(plain, images, /nothing for a model without classes/)
  })
})

/** The model's weights with noise, so that no layer is zero. */
async function noisy(ddpm: DDPM) {
  const dict = await ddpm.stateDict()
  for (const [i, [name, tensor]] of Object.entries(dict).entries()) {
    if (!name.startsWith('model.')) continue
    const noise = await Tensor.randn(tensor.shape, { seed: i }).data()
    dict[name] = Tensor.from((await tensor.data()).map((v, k) => v + 0.1 * noise[k]) as Float32Array, tensor.shape)
  }
  return dict
}
