/** Native objects are told by tags: whatever JavaScript does to prototypes, receivers, constructors and arrays, no memory is mistaken. */
import assert from 'node:assert/strict'
import { Device } from '../../lib/device'
import { type NativeBuffer, type NativeDevice, type NativeGraph, type NativeProgram, native } from '../../lib/native'
import { testDevice } from '../support/devices'

const { backend } = Device.open(testDevice)
const opened: NativeDevice[] = []
const { close } = Object.getPrototypeOf(Device.open(testDevice).native) as NativeDevice
after(() => {
  for (const device of opened) close.call(device)
})

interface Objects {
  device: NativeDevice
  buffer: NativeBuffer
  graph: NativeGraph
  program: NativeProgram
}

function makeAll(): Objects {
  const device = native.openDevice(backend, 0, 1) // of its own: some cases change its prototype
  opened.push(device)
  const graph = native.createGraph()
  const [x] = graph.add('input', [], { name: 'x', dims: [1, 1, 1, 8], dtype: 'f32' })
  const [y] = graph.add('silu', [x], {})
  return { device, graph, buffer: device.allocate(8), program: graph.compile(device, { y }, {}) }
}

type Kind = keyof Objects
const kinds = ['device', 'buffer', 'graph', 'program'] as const

interface Disguise {
  title: string
  /** What it still is. */
  is?: Kind
  make: (all: Objects) => unknown
}

/** Each object with the prototype of each other, and what only looks like one. */
const disguises = kinds.flatMap((kind): Disguise[] => [
  ...kinds
    .filter((as) => as !== kind)
    .map((as) => ({
      title: `a ${kind} as a ${as}`,
      is: kind,
      make: (all: Objects) => Object.setPrototypeOf(makeAll()[kind], Object.getPrototypeOf(all[as])),
    })),
  { title: `an heir of a ${kind}`, make: (all) => Object.create(all[kind]) },
  { title: `a proxy of a ${kind}`, make: (all) => new Proxy(all[kind], {}) },
])

describe('native objects', () => {
  for (const { title, is, make } of disguises) {
    it(`are not mistaken for another: ${title}`, () => {
      const all = makeAll()
      const given = make(all) as never
      const wrong = { code: 'invalid-argument' }
      if (is !== 'buffer') {
        assert.throws(() => all.buffer.copyFrom(given, 0, 0, 1), wrong)
        assert.throws(() => all.program.run({ x: given, y: all.buffer }), wrong)
      }
      if (is !== 'device') assert.throws(() => all.graph.compile(given, { y: 1 }, {}), wrong)
      for (const kind of kinds.filter((other) => other !== is)) {
        for (const name of Object.getOwnPropertyNames(Object.getPrototypeOf(all[kind]))) {
          if (name === 'constructor') continue
          const method = Reflect.get(all[kind], name) as (...a: unknown[]) => unknown
          assert.throws(() => method.call(given), TypeError, name)
        }
      }
    })
  }

  it('are made by nobody else', () => {
    for (const object of Object.values(makeAll())) {
      const make = object.constructor as new (...a: unknown[]) => object
      for (const args of [[], [{}], [object]]) assert.throws(() => new make(...args), /Illegal constructor/)
      assert.throws(() => Reflect.construct(make, [], Array), /Illegal constructor/)
      assert.throws(() => (make as unknown as () => void).call(object), TypeError)
      assert.throws(() => new (class extends make {})(), /Illegal constructor/)
    }
  })

  it('keep what never changes', () => {
    const { buffer, device } = makeAll()
    assert.throws(() => Object.assign(buffer, { elements: 1e9 }), TypeError)
    assert.throws(() => Object.assign(device, { backend: 'cuda' }), TypeError)
    assert.equal(buffer.elements, 8)
  })

  it('see a device that a getter closes as closed', () => {
    for (const closes of ['outputs', 'options'] as const) {
      const { graph } = makeAll()
      const device = native.openDevice(backend, 0, 1)
      const close = <T>(value: T): T => {
        device.close()
        return value
      }
      const outputs = { get y() { return closes === 'outputs' ? close(1) : 1 } } // biome-ignore format: short
      const options = { get deterministic() { return closes === 'options' ? close(true) : true } } // biome-ignore format: short
      assert.throws(() => graph.compile(device, outputs, options), { code: 'closed' })
    }
  })

  it('see what a getter of bindings released', async () => {
    const { program, buffer, device } = makeAll()
    const x = device.allocate(8)
    const bindings = {
      x,
      get y() {
        x.release()
        program.release()
        return buffer
      },
    }
    await program.run(bindings) // they were taken before
    assert.throws(() => program.run({ x: buffer, y: buffer }), { code: 'closed' })
    assert.throws(() => x.read(), { code: 'closed' })
  })

  it('stay whole where a getter of attributes adds nodes', () => {
    const { graph } = makeAll()
    const attributes = {
      get name() {
        graph.add('silu', [0], {})
        return 'z'
      },
      dims: [1, 1, 1, 8],
      dtype: 'f32',
    }
    const [z] = graph.add('input', [], attributes)
    assert.deepEqual(graph.dims(z), [1, 1, 1, 8])
  })
})

interface Resizable extends ArrayBuffer {
  resize(bytes: number): void
}
// Node has it, the library of types not yet.
const resizable = (bytes: number) => Reflect.construct(ArrayBuffer, [bytes, { maxByteLength: 2 * bytes }]) as Resizable

describe('arrays that are written to a buffer', () => {
  const cases: Record<string, () => [Float32Array, number[] | undefined]> = {
    'a part of an array': () => [new Float32Array([9, 9, 1, 2, 9]).subarray(2, 4), [1, 2]],
    'a detached one': () => {
      const array = new Float32Array([1, 2])
      structuredClone(array, { transfer: [array.buffer] })
      return [array, []]
    },
    'a shared one': () => {
      const array = new Float32Array(new SharedArrayBuffer(8))
      array.set([1, 2])
      return [array, [1, 2]]
    },
    'one that shrank': () => {
      const memory = resizable(16)
      const array = new Float32Array(memory)
      array.set([1, 2, 3, 4])
      memory.resize(8)
      return [array, [1, 2]]
    },
    'one whose memory shrank away': () => {
      const memory = resizable(16)
      const array = new Float32Array(memory, 8, 2)
      memory.resize(8)
      return [array, []]
    },
    'of doubles': () => [new Float64Array(2) as unknown as Float32Array, undefined],
    'a view of bytes': () => [new DataView(new ArrayBuffer(8)) as unknown as Float32Array, undefined],
    'a pretender': () => [Object.setPrototypeOf({ length: 2, 0: 1, 1: 1 }, Float32Array.prototype), undefined],
  }
  for (const [title, make] of Object.entries(cases)) {
    it(title, async () => {
      const { buffer } = makeAll()
      const [array, expected] = make()
      if (!expected) {
        assert.throws(() => buffer.write(array), { code: 'invalid-argument', argument: 'data' })
        return
      }
      buffer.write(array, 1)
      assert.deepEqual([...(await buffer.read())], [0, ...expected, ...new Array(7 - expected.length).fill(0)])
    })
  }
})
