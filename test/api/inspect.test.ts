import assert from 'node:assert/strict'
import { inspect } from 'node:util'
import { DDPM } from '../../lib/index'
import { smallUNet } from '../support/small-unet'

describe('what console.log shows of a model', () => {
  const lines = (value: unknown) => inspect(value).split('\n')

  it('is ten lines at most, without weights and buffers', () => {
    const classNames = Array.from({ length: 1000 }, (_, i) => `class ${i}`)
    const unetConfig = { ...smallUNet, numClasses: 1001 }
    using ddpm = new DDPM({ unetConfig, classNames, nullClass: 1000, device: 'cpu' })
    const shown = lines(ddpm)
    assert.ok(shown.length <= 10, shown.join('\n'))
    assert.match(shown.join('\n'), /^DDPM \{[\s\S]*network: 'UNet'[\s\S]*numTimesteps: 1000[\s\S]*fp32 on cpu/)
    assert.ok(lines(ddpm.network).length <= 10)
    assert.ok(lines({ ddpm }).length <= 12)
  })

  it('is there for a function, and for a model that was disposed of', () => {
    const ddpm = new DDPM({ model: (x) => x, imageSize: 8, channels: 1, device: 'cpu' })
    assert.match(inspect(ddpm), /a function/)
    ddpm.dispose()
    assert.ok(lines(ddpm).length <= 10)
  })
})
