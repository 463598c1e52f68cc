// Two copies of the package in one process, as when two dependencies bring one each: both work, and what of one is given to the other is
// taken, or refused by its name.
import assert from 'node:assert/strict'
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import os from 'node:os'
import path from 'node:path'
import * as ours from '../../lib/index'

const { Classifier, DDPM, Device, DiffusionError, encodePng, makeGrid, saveImages, Tensor, toPixels } = ours
const root = path.join(__dirname, '..', '..', '..')
const few = { imageSize: 8, inChannels: 3, outChannels: 3, modelChannels: 32, channelMult: [1], numResBlocks: 1 }
const unetConfig = { ...few, attentionResolutions: [], numClasses: 3 }
const options = { unetConfig, nullClass: 2, timesteps: 20, device: 'cpu' } as const
const classifierOptions = { encoderConfig: { ...few, attentionResolutions: [] }, timesteps: 20, device: 'cpu' } as const

describe('two copies of the package', () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'ddpm-copy-'))
  after(() => rmSync(folder, { recursive: true }))
  let theirs: typeof ours
  before(() => {
    mkdirSync(path.join(folder, 'dist'))
    cpSync(path.join(root, 'dist', 'lib'), path.join(folder, 'dist', 'lib'), { recursive: true })
    for (const name of ['package.json', 'node_modules', 'build', 'models'])
      symlinkSync(path.join(root, name), path.join(folder, name))
    theirs = createRequire(path.join(folder, 'package.json'))(path.join(folder, 'dist', 'lib', 'index.js'))
    assert.notEqual(theirs.Tensor, Tensor)
  })

  const draw = { batchSize: 1, steps: 3, classLabels: 0, seed: 1 }
  const image = { shape: [1, 3, 8, 8], data: new Float32Array(192) }
  const named = (work: Promise<unknown> | (() => unknown), argument: string) => {
    const expected = { code: 'invalid-argument', argument, message: /of another copy of ddpm-native \(.*ddpm-copy-/ }
    return typeof work === 'function' ? assert.throws(work, expected) : assert.rejects(work, expected)
  }

  it('draw the same', async () => {
    using a = new DDPM(options)
    using b = new theirs.DDPM(options)
    const [x, y] = [await a.sample(draw), await b.sample(draw)]
    assert.deepEqual(await x.data(), await y.data())
  })

  it('name what is of the other', async () => {
    using ddpm = new DDPM(options)
    using other = new theirs.DDPM(options)
    using classifier = new theirs.Classifier(classifierOptions)
    const x = theirs.Tensor.from(image.data, image.shape)
    const labels = theirs.Tensor.from(Int32Array.of(0), [1])
    const foreign: Record<string, object> = {
      ...{ image: { image: x, strength: 0.5 }, mask: { image: Tensor.from(image.data, image.shape), mask: x } },
      ...{ classLabels: { classLabels: labels }, guidingModel: { guidingModel: other, guidanceScale: 2 } },
      ...{
        classifier: { classifier },
        negativeContext: { negativeContext: x, guidanceScale: 2 },
        condFn: { condFn: () => x },
      },
    }
    for (const [argument, o] of Object.entries(foreign)) await named(ddpm.sample({ ...draw, ...o }), argument)
    await named(ddpm.qSample(x, 1), 'xStart')
    await named(ddpm.calcBpd(x, { y: 0 } as never), 'x')
    await named(saveImages(path.join(folder, 'a.png'), x), 'samples')
    await named(saveImages(path.join(folder, 'a.gif'), [x]), 'samples')
    await named(encodePng(x), 'samples')
    await named(toPixels(x), 'samples')
    await named(makeGrid(x), 'images')
    await named(() => Tensor.from(x as never, [1]), 'data')
    await named(() => new DDPM({ ...options, device: theirs.Device.open('cpu') as never }), 'device')
    await named(() => new Classifier({ ...classifierOptions, device: theirs.Device.open('cpu') as never }), 'device')
    assert.ok(Device.open('cpu'))
  })

  it('take a network and a model of the other, and know its errors', async () => {
    using ddpm = new DDPM({ ...options, unetConfig: undefined, model: new theirs.UNet(unetConfig) })
    using own = new DDPM(options)
    assert.deepEqual(await (await ddpm.sample(draw)).data(), await (await own.sample(draw)).data())
    const wrong = () => new theirs.DDPM({ timesteps: -1 })
    assert.throws(wrong, (error) => error instanceof DiffusionError && error.code === 'invalid-argument')
    assert.ok(!(new Error('x') instanceof DiffusionError) && !(({ code: 'io' } as object) instanceof DiffusionError))
  })
})
