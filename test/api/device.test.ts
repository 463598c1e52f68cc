import assert from 'node:assert/strict'
import { DDPM, Device, DiffusionError } from '../../lib/index'

describe('Device', () => {
  it('is opened once, whoever asks', () => {
    assert.equal(Device.open('cpu'), Device.open('cpu'))
    using ddpm = new DDPM({ model: (x) => x, device: 'cpu' })
    assert.equal(ddpm.device, Device.open('cpu'))
  })

  it('auto is one that works', () => {
    const { name, memoryBytes } = Device.open().info()
    assert.ok(name.length > 0 && memoryBytes > 0)
  })

  it('says what is missing', () => {
    assert.throws(
      () => Device.open('cuda:99'),
      (e) => e instanceof DiffusionError && e.code === 'device-unavailable' && e.message.length > 10,
    )
  })

  it('knows how much of its memory is used', () => {
    const device = Device.open('cpu')
    const before = device.memoryInfo().inUse
    const buffer = device.allocate(1 << 20)
    assert.ok(device.memoryInfo().inUse >= before + 4 * 2 ** 20)
    buffer.release()
    assert.ok(device.memoryInfo().total > 2 ** 28)
  })
})
