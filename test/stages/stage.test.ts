import assert from 'node:assert/strict'
import { Device } from '../../lib/device'
import { Linear } from '../../lib/nn/layers'
import { ParameterTable, Scope } from '../../lib/nn/parameters'
import { parseOptions } from '../../lib/options'
import { Stage, type StageOptions, stageSchema, type WeightsSource } from '../../lib/stages/stage'
import { Tensor } from '../../lib/tensor'
import { testDevice } from '../support/devices'
import { numbersOf } from '../support/numbers'

const size = 1 << 12

/** y = w x for each of many rows of weights. */
class Scale extends Stage {
  readonly #layer: Linear

  constructor(options: StageOptions = {}, source?: WeightsSource) {
    const table = new ParameterTable()
    const layer = new Linear(new Scope(table, 'scale'), 1, size, { bias: false })
    super('Scale', table, parseOptions('Scale', options, stageSchema), source)
    this.#layer = layer
  }

  async times(x: number): Promise<Float32Array> {
    return this.call(async () => {
      const program = await this.program('times', {}, (graph) => {
        return { y: this.#layer.build({ graph, train: false }, graph.input('x', [1, 1, 1, 1])) }
      })
      const { y } = await program.run({ ...this.weights.bindings('weights'), x: Float32Array.of(x) })
      return y
    })
  }
}

const all = (value: number) => ({ 'scale.weight': Tensor.from(new Float32Array(size).fill(value), [size, 1]) })

/** Weights that say how often they were read. */
function counted(): { source: WeightsSource; reads: () => number } {
  let reads = 0
  return { source: async () => all(++reads), reads: () => reads }
}

describe('a stage', () => {
  const device = Device.open(testDevice)
  const inUse = async () => {
    await device.synchronize()
    return device.memoryInfo().inUse
  }

  it('takes memory from its first use on, and reads its weights once for all calls', async () => {
    const { source, reads } = counted()
    const before = await inUse()
    using stage = new Scale({ device }, source)
    assert.deepEqual([stage.loaded, await inUse()], [false, before])
    const results = await Promise.all([stage.times(2), stage.times(3)])
    assert.deepEqual(
      results.map((y) => [y[0], y[size - 1]]),
      [
        [2, 2],
        [3, 3],
      ],
    )
    assert.deepEqual([stage.loaded, reads()], [true, 1])
    const { programBytes, weightBytes } = stage.memoryInfo()
    assert.equal(weightBytes, 4 * size)
    assert.ok(programBytes > 0)
  })

  it('gives it back, and reads its weights again', async () => {
    const { source, reads } = counted()
    const before = await inUse()
    using stage = new Scale({ device }, source)
    await stage.times(1)
    await stage.offload()
    assert.deepEqual([stage.loaded, await inUse(), reads()], [false, before, 1])
    assert.equal((await stage.times(1))[0], 2)
    assert.equal(reads(), 2)
  })

  it('keeps weights that no file has', async () => {
    const before = await inUse()
    using drawn = new Scale({ device, seed: 3 })
    const [first] = [await drawn.times(1)]
    await drawn.offload()
    assert.deepEqual([drawn.loaded, await inUse()], [false, before])
    assert.deepEqual(await drawn.times(1), first)

    const { source, reads } = counted()
    using given = new Scale({ device }, source)
    await given.loadStateDict(all(7))
    await given.offload()
    await given.offload() // there is nothing to give back, and nothing lost
    assert.equal((await given.times(1))[0], 7)
    assert.deepEqual(await numbersOf(await given.stateDict()), await numbersOf(all(7)))
    assert.equal(reads(), 0, 'what is replaced as a whole is not read before')
  })

  it('is given back when the calls on their way have ended', async () => {
    using stage = new Scale({ device })
    const release = stage.hold()
    const before = await stage.times(1)
    let gone = false
    const offload = stage.offload().then(() => {
      gone = true
    })
    assert.deepEqual(await stage.times(1), before)
    assert.deepEqual([gone, stage.loaded], [false, true])
    release()
    const during = stage.times(1) // comes while the weights are copied
    await offload
    assert.deepEqual(await during, before)
    assert.equal(stage.loaded, false)
  })

  it('says so when its weights cannot be read, and reads them when asked again', async () => {
    let fails = true
    using stage = new Scale({ device }, async () => {
      if (fails) throw new Error('no such file')
      return all(1)
    })
    await assert.rejects(stage.times(1), /no such file/)
    fails = false
    assert.equal((await stage.times(1))[0], 1)
  })

  it('is not used after dispose()', async () => {
    const before = await inUse()
    const stage = new Scale({ device })
    await stage.times(1)
    stage.dispose()
    assert.equal(await inUse(), before)
    await assert.rejects(stage.times(1), { code: 'disposed', message: 'Scale was used after dispose()' })
    await assert.rejects(stage.stateDict(), { code: 'disposed' })
  })
})
