/** Several runs that are asked for at once and waited for once: NativeDevice.runAll. */
import assert from 'node:assert/strict'
import { Graph } from '../../lib/graph'
import { type NativeRun, native } from '../../lib/native'
import { testedBackends } from '../support/devices'

/** y = x + one, on a device of its own. */
function open(backend: string, elements = 8) {
  const device = native.openDevice(backend, 0, 1)
  const graph = new Graph()
  const [x, one] = ['x', 'one'].map((name) => graph.input(name, [1, 1, 1, elements]))
  const program = graph.native.compile(device, { y: graph.add(x, one).id }, {})
  return { device, program, elements }
}

/** `count` runs there and back between two buffers that begin with zeros: how many there have been is their largest number. */
function countingRuns({ device, program, elements }: ReturnType<typeof open>, count: number) {
  const [a, b, one] = [0, 0, 1].map((value) => {
    const buffer = device.allocate(elements)
    buffer.write(new Float32Array(elements).fill(value))
    return buffer
  })
  const runs = Array.from({ length: count }, (_, i): NativeRun => {
    return { program, bindings: i % 2 ? { x: b, one, y: a } : { x: a, one, y: b } }
  })
  const counted = async () => Math.max((await a.read())[0], (await b.read())[0])
  return { runs, counted }
}

/** Runs that take long enough to do something meanwhile. */
const [longRuns, large] = [2000, 1 << 19]

describe('runs that are queued', () => {
  for (const backend of ['reference', ...testedBackends]) {
    it(`happen in their order, each once (${backend})`, async () => {
      const opened = open(backend)
      const { device, program } = opened
      const { runs, counted } = countingRuns(opened, 40)
      await device.runAll(runs).done
      assert.equal(await counted(), 40)
      const { direct, recorded, replayed } = program.launches()
      assert.equal(direct + replayed, 40)
      if (backend === 'cuda-host') assert.deepEqual([direct, recorded], [2, 2])
      await device.runAll([]).done
      device.close()
    })
  }

  it('let others have their turn between two', async () => {
    const opened = open('cpu', large)
    const { device, program } = opened
    const { runs, counted } = countingRuns(opened, longRuns)
    const { done } = device.runAll(runs)
    await device.synchronize()
    const { direct } = program.launches()
    assert.ok(direct < longRuns, `${direct} runs before what was asked for after them`)
    await done
    assert.equal(await counted(), longRuns)
    device.close()
  })

  it('stop when they are told to, or when a program is released', async () => {
    for (const end of ['stop', 'release'] as const) {
      const opened = open('cpu', large)
      const { device, program } = opened
      const { runs, counted } = countingRuns(opened, longRuns)
      const queue = device.runAll(runs)
      if (end === 'stop') queue.stop()
      else program.release()
      await queue.done
      assert.ok((await counted()) < longRuns, end)
      queue.stop()
      device.close()
    }
  })

  it('are rejected when the device is closed', async () => {
    const opened = open('cpu', large)
    const { done } = opened.device.runAll(countingRuns(opened, longRuns).runs)
    const rejected = assert.rejects(done, { code: 'closed' })
    opened.device.close()
    await rejected
  })

  it('are refused, all of them, where one of them is wrong', async () => {
    const [opened, other] = [open('cpu'), open('cpu')]
    const { device, program } = opened
    const { runs, counted } = countingRuns(opened, 3)
    const [{ bindings }] = runs
    const wrong: [unknown, object][] = [
      [
        { program, bindings: { x: bindings.x, one: bindings.one } },
        { code: 'invalid-argument', argument: 'y' },
      ],
      [
        { program, bindings: { ...bindings, z: bindings.x } },
        { code: 'invalid-argument', argument: 'z' },
      ],
      [
        { program: other.program, bindings },
        { code: 'invalid-argument', argument: 'program' },
      ],
      [
        { program: {}, bindings },
        { code: 'invalid-argument', argument: 'program' },
      ],
      [{ program }, { code: 'invalid-argument', argument: 'bindings' }],
      [7, { code: 'invalid-argument', argument: 'runs' }],
    ]
    for (const [run, error] of wrong) assert.throws(() => device.runAll([...runs, run as NativeRun]), error)
    assert.throws(() => device.runAll({} as never), { code: 'invalid-argument', argument: 'runs' })
    await device.synchronize()
    assert.equal(await counted(), 0)
    bindings.x.release()
    assert.throws(() => device.runAll(runs), { code: 'closed' })
    for (const { device: each } of [opened, other]) each.close()
  })
})
