import assert from 'node:assert/strict'
import { DDPM, type DDPMOptions, Device, type DiffusionError, Tensor } from '../../lib'
import { inUnits, parseMemoryLimit } from '../../lib/memory-limit'

const unetConfig = {
  ...{ imageSize: 16, inChannels: 3, outChannels: 3, modelChannels: 32, numResBlocks: 1 },
  ...{ attentionResolutions: [2], channelMult: [1, 2], numHeads: 2 },
} as const

/** Of its own, so that nothing else is held there. */
const device = Device.open('cpu', { threads: 5 })

const make = (o: DDPMOptions = {}) =>
  new DDPM({ device, unetConfig, imageSize: 16, timesteps: 20, useEma: false, ...o })

const draw = async (model: DDPM, batchSize: number) => {
  const samples = await model.sample({ batchSize, seed: 3, steps: 2 })
  return Buffer.from(((await samples.data()) as Float32Array).buffer)
}

const batch = (n: number) => Tensor.from(new Float32Array(n * 3 * 16 * 16).fill(0.25), [n, 16, 16, 3])

async function learn(model: DDPM, n: number): Promise<number[]> {
  model.configureOptimizers({ lr: 1e-3 })
  const losses = []
  for (let step = 0; step < 2; step++) losses.push((await model.trainingStep({ image: batch(n) } as never)).loss)
  return losses
}

/** What `fn` does in a model with this limit; of which nothing is left on the device. */
async function within<T>(memoryLimit: number, fn: (model: DDPM) => Promise<T>, o: DDPMOptions = {}): Promise<T> {
  const model = make({ ...o, memoryLimit })
  try {
    return await fn(model)
  } finally {
    model.dispose()
    await device.synchronize()
    assert.equal(device.memoryInfo().inUse, 0)
  }
}

/** The refusal of `fn`, before which nothing was taken. */
async function refused(memoryLimit: number, fn: (model: DDPM) => Promise<unknown>, o: DDPMOptions = {}) {
  let error: DiffusionError | undefined
  await within(
    memoryLimit,
    async (model) => {
      await assert.rejects(fn(model), (thrown: DiffusionError) => {
        error = thrown
        return thrown.code === 'out-of-memory' && thrown.argument === 'memoryLimit'
      })
      assert.ok(device.memoryInfo().inUse < 2 ** 15, 'more than the images was taken')
    },
    o,
  )
  const { message, expected, received } = error!
  assert.equal(received, `${memoryLimit} bytes`)
  const needed = Number(/^at least (\d+) bytes$/.exec(expected!)![1])
  assert.ok(message.includes(` needs ${inUnits(needed)} of the memory of cpu (`), message)
  assert.ok(message.includes(` a memoryLimit of ${inUnits(needed)}`), message)
  return { message, needed, batchSize: Number(/batchSize (\d+)/.exec(message)?.[1]) }
}

const packedOf = (model: DDPM) =>
  Object.values(model.memoryInfo().programs).reduce((sum, { packed }) => sum + packed, 0)

describe('memoryLimit', function () {
  this.timeout(60_000)
  afterEach(async () => {
    Device.open(device, { memoryLimit: 'auto' })
  })
  /** Less than any program needs. */
  const some = 3.5e6

  it('is what the device has, unless it is given; then what was given last', () => {
    const { total, limit } = device.memoryInfo()
    const constrained = process.constrainedMemory()
    assert.equal(limit, constrained > 0 ? Math.min(total, constrained) : total)
    make({ memoryLimit: 5e6 }).dispose()
    assert.equal(device.memoryInfo().limit, 5e6)
    make().dispose()
    assert.equal(Device.open(device).memoryInfo().limit, 5e6)
    assert.equal(Device.open('cpu', { threads: 5, memoryLimit: 6e6 }), device)
    assert.equal(device.memoryLimit, 6e6)
    make({ memoryLimit: 'auto' }).dispose()
    assert.equal(device.memoryLimit, limit)
  })

  it('is no part of what makes a model again', () => {
    using model = make({ memoryLimit: 1e9 })
    assert.ok(!('memoryLimit' in model.config))
  })

  it('refuses what is no size', () => {
    for (const memoryLimit of [0, -1, 0.5, Number.NaN, Infinity, 1e300, '4GB', 'Auto', [], {}, 4n, true] as never[]) {
      const wrong = { code: 'invalid-argument', argument: 'memoryLimit' }
      assert.throws(() => make({ memoryLimit }), wrong)
      assert.throws(() => Device.open('cpu', { threads: 5, memoryLimit }), wrong)
    }
    assert.equal(device.memoryLimit, device.memoryInfo().limit)
  })

  it('samples in exactly what the refusal said, with the same bits and fewer packed weights', async () => {
    const free = make()
    const drawn = await draw(free, 4)
    const kept = packedOf(free)
    assert.ok(kept > 0)
    free.dispose()
    await device.synchronize()

    const { message, needed } = await refused(some, (model) => draw(model, 4))
    assert.match(
      message,
      /^memoryLimit: a sampling step of batch size 4 needs .*\(weights .*, activations .*\), and the limit is 3.5 MB/,
    )
    await refused(needed - 1, (model) => draw(model, 4))
    const most = async (limit: number, packed: (bytes: number) => boolean) =>
      within(limit, async (model) => {
        assert.ok(drawn.equals(await draw(model, 4)), `other bits with ${limit}`)
        assert.ok(packed(packedOf(model)), `${packedOf(model)} packed with ${limit}`)
        assert.ok(device.memoryInfo().inUse <= limit)
      })
    await most(needed, (bytes) => bytes < kept / 2)
    await most(needed + 2 * kept, (bytes) => bytes === kept)
  })

  it('names a batch size that fits', async () => {
    const { needed } = await refused(some, (model) => draw(model, 32))
    const { batchSize } = await refused(needed - 1, (model) => draw(model, 64))
    assert.ok(batchSize >= 16 && batchSize < 32, `${batchSize}`)
    await within(needed - 1, (model) => draw(model, batchSize))
  })

  it('programs of earlier calls make room', async () => {
    const { needed } = await refused(some, (model) => draw(model, 4))
    await within(needed + 2 ** 16, async (model) => {
      for (const n of [1, 2, 3, 4]) await draw(model, n)
    })
  })

  it('trains in exactly what the refusal said, with the same losses', async () => {
    const free = make()
    const losses = await learn(free, 4)
    free.dispose()
    await device.synchronize()
    const { needed, message } = await refused(some, (model) => learn(model, 4))
    assert.match(message, /^memoryLimit: a training step of batch size 4 needs/)
    const weights = free.parameterCount * 4 * 4 // gradients and two moments beside them
    assert.ok(message.includes(`(weights ${inUnits(weights)}, activations`), message)
    const closer = await refused(needed - 1, (model) => learn(model, 4))
    assert.ok(closer.message.includes('useCheckpoint of unetConfig'), closer.message)
    assert.match(closer.message, /batchSize [123], with accumulate/)
    assert.deepEqual(await within(needed, (model) => learn(model, 4)), losses)
    await within(needed - 1, (model) => learn(model, closer.batchSize))
    await within(needed - 1, (model) => learn(model, 4), { unetConfig: { ...unetConfig, useCheckpoint: true } })
  })

  it('refuses weights that do not fit before they are read', async () => {
    const dict = await (async () => {
      using model = make()
      return model.stateDict()
    })()
    await device.synchronize()
    const { message } = await refused(1e6, (model) => model.loadStateDict(dict))
    assert.match(message, /^memoryLimit: a network needs 2\.\d+ MB of the memory of cpu \(weights 2\.\d+ MB\)/)
    assert.throws(() => make({ useEma: true, memoryLimit: some }), /averaging the weights .* useEma: false; a memory/)
    assert.equal(device.memoryInfo().inUse, 0)
  })

  it('counts what else is held, and says how to be rid of it', async () => {
    const held = device.allocate(2 ** 20)
    try {
      const model = make({ memoryLimit: 5e6 })
      const expected = /what else is held 4\.\d+ MB\).*offload\(\) of stages and dispose\(\) of models/
      await assert.rejects(draw(model, 1), expected)
      assert.throws(() => device.allocate(2 ** 20), { code: 'out-of-memory', expected: `at least ${2 ** 23} bytes` })
      model.dispose()
    } finally {
      held.release()
      await device.synchronize()
    }
  })

  it('is written with units', () => {
    const written: Record<string, number | 'auto' | undefined> = {
      ...{
        '1': 1,
        '4000000000': 4e9,
        '4GB': 4e9,
        '4 gb': 4e9,
        '4GiB': 2 ** 32,
        '1.5kB': 1500,
        '500MB': 5e8,
        '1TB': 1e12,
      },
      ...{ '2b': 2, '0.5kib': 512, auto: 'auto' },
      ...{ '': undefined, '0': undefined, '-1': undefined, '4G': undefined, GB: undefined, '4GBs': undefined },
      ...{
        '1e9': undefined,
        '0x10': undefined,
        '4,5GB': undefined,
        '9999999999TB': undefined,
        '4constructor': undefined,
      },
    }
    for (const [text, bytes] of Object.entries(written)) assert.equal(parseMemoryLimit(text), bytes, text)
    assert.deepEqual(
      [999, 1000, 12_340, 999_999, 5_620_096, 1.2e10].map((bytes) => inUnits(bytes)),
      ['999 bytes', '1 kB', '12.4 kB', '1000 kB', '5.63 MB', '12 GB'],
    )
  })
})
