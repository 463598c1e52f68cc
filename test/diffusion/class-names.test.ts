import assert from 'node:assert/strict'
import { DDPM } from '../../lib/diffusion/ddpm'
import { DiffusionError } from '../../lib/errors'
import { tinyModel } from '../train/support'

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

  it('are not more than the classes of the network', () => {
    rejects(() => open([...classNames, 'a', 'b']), /classNames: expected at most 7 names/)
    const unetConfig = { ...tinyModel.unetConfig, inChannels: 3, outChannels: 3 }
    const plain = { timesteps: 20, unetConfig }
    rejects(() => new DDPM({ ...plain, classNames, device: 'cpu' }), /classNames: expected at most 0 names/)
  })
})
