import assert from 'node:assert/strict'
import { DDPM } from '../../lib/diffusion/models/ddpm'
import { DiffusionError } from '../../lib/errors'
import { type ClassLabels, Tensor } from '../../lib/index'
import { tinyModel } from '../train/support'
import { randomize } from './fixture'

describe('class names', () => {
  const classNames = ['Food & Drink', 'Flags', 'Travel & Places', 'People & Body', 'Red food', 'flag-pole']
  const open = (names?: string[], numClasses = 7) => {
    const unetConfig = { ...tinyModel.unetConfig, inChannels: 3, outChannels: 3, numClasses }
    return new DDPM({ timesteps: 20, unetConfig, classNames: names, device: 'cpu' })
  }
  const rejects = (fn: () => unknown, pattern: RegExp) =>
    assert.throws(fn, (error) => error instanceof DiffusionError && pattern.test(error.message))

  it('are found by words that only one of them has', () => {
    using ddpm = open(classNames)
    assert.deepEqual(ddpm.classNames, classNames)
    const cases: [string, number][] = [
      ['Food & Drink', 0],
      ['food & drink', 0],
      ['food_drink', 0],
      ['drink', 0],
      ['trav', 2],
      ['places', 2],
      ['Flags', 1],
      ['flag pole', 5],
      ['red food', 4],
    ]
    for (const [text, label] of cases) assert.equal(ddpm.classLabel(text), label, text)
  })

  it('that are the same words, or none, are told apart as they are written', () => {
    using ddpm = open(['-1', '1', 'a_b', 'a b', '#', 'cafe\u0301', '4e1'])
    for (const [label, name] of ddpm.classNames!.entries()) assert.equal(ddpm.classLabel(name), label, name)
    assert.equal(ddpm.classLabel('CAF\u00c9'), 5)
    for (const text of ['+1', 'A-B']) rejects(() => ddpm.classLabel(text), /it could be several classes/)
    rejects(() => ddpm.classLabel('4'), /no such class/)
  })

  it('are listed where none or several are meant', () => {
    using ddpm = open(classNames)
    rejects(() => ddpm.classLabel('rink'), /class 'rink': there is no such class; expected one of Food & Drink, Flags,/)
    rejects(() => ddpm.classLabel('food'), /class 'food': it could be several classes/)
    rejects(() => ddpm.classLabel('flag'), /several/)
    for (const text of ['', '&']) rejects(() => ddpm.classLabel(text), /no such class/)
    using nameless = open()
    assert.deepEqual(nameless.classNames, [])
    rejects(() => nameless.classLabel('food'), /expected a model whose classes have names/)
  })

  it('that are numbers are names, and no numbers of classes', async () => {
    using ddpm = open(['0', '1', '10', '11', '2', '40'])
    assert.deepEqual(
      ['2', '10', '40'].map((name) => ddpm.classLabel(name)),
      [4, 2, 5],
    )
    for (const text of ['4', '3', '12', '00']) rejects(() => ddpm.classLabel(text), /no such class/)
    using mixed = open(['2 cats', '20 cats', '200 dogs'])
    assert.deepEqual(
      ['2', '20', '200', '200 d'].map((name) => mixed.classLabel(name)),
      [0, 1, 2, 2],
    )
  })

  it('stand for labels wherever those are taken', async () => {
    using ddpm = await randomize(open(classNames))
    const draw = async (classLabels: ClassLabels) =>
      (await ddpm.sample({ batchSize: 2, steps: 2, seed: 1, classLabels })).data()
    const expected = await draw([2, 1])
    assert.deepEqual(await draw(['travel', 'Flags']), expected)
    assert.deepEqual(await draw(['travel', 1]), expected)
    assert.notDeepEqual(await draw('travel'), expected)
    assert.deepEqual(await draw('travel'), await draw(2))
    await assert.rejects(draw('oak'), /class 'oak': there is no such class; expected one of Food & Drink/)
    const x = Tensor.randn([2, 3, 8, 8])
    const mean = async (y: ClassLabels) => (await ddpm.pMeanVariance(x, 3, { y })).modelMean.data()
    assert.deepEqual(await mean('red food'), await mean(4))
  })

  it('are not more than the classes of the network', () => {
    rejects(() => open([...classNames, 'a', 'b']), /classNames: expected at most 7 names/)
    const unetConfig = { ...tinyModel.unetConfig, inChannels: 3, outChannels: 3 }
    const plain = { timesteps: 20, unetConfig }
    rejects(() => new DDPM({ ...plain, classNames, device: 'cpu' }), /classNames: expected at most 0 names/)
  })
})
