/** Calls of the addon that no program of ours would make: wrong receivers, prototypes, arguments, at wrong times. */
import { type NativeDevice, native } from '../../../lib/native'
import type { Random } from '../../support/random'

type Anything = unknown

/** Objects of every kind that were made so far, and the prototypes whose methods are borrowed. */
interface World {
  readonly random: Random
  readonly device: NativeDevice
  readonly objects: object[]
  readonly prototypes: readonly object[]
  accepted: number
}

const pick = <T>(random: Random, items: readonly T[]): T => items[Math.floor(random.uniform() * items.length)]
const chance = (random: Random, p: number) => random.uniform() < p

/** At the edges of what integers, floats and sizes hold. */
const edges = [
  ...[0, -0, 1, -1, 2, 3, 7, 8, 16, 0.5, -0.5, 1e9, 1e308, -1e308, 5e-324, Infinity, -Infinity, NaN],
  ...[2 ** 31 - 1, 2 ** 31, -(2 ** 31), -(2 ** 31) - 1, 2 ** 32, 2 ** 53, -(2 ** 53), 2 ** 62, 2 ** 63, 2 ** 64],
]
const words = [
  'x',
  '',
  'y',
  'weights',
  'grads',
  'm',
  '__proto__',
  'a\0b',
  '\ud800',
  'x'.repeat(100_000),
  'f32',
  'i32',
  'cpu',
]

/** ES2024's, which the types of this project's target don't have. */
function resizable(bytes: number, max: number): ArrayBuffer & { resize(bytes: number): void } {
  return Reflect.construct(ArrayBuffer, [bytes, { maxByteLength: max }])
}

/** 4-byte numbers, in arrays that are ordinary, offset, empty, detached, shared, resized. */
function numbers({ random }: World): Anything {
  const length = pick(random, [0, 1, 4, 8, 16, 1000])
  const Kind = pick(random, [Float32Array, Int32Array, Float32Array, Float64Array, Uint8Array, BigInt64Array])
  switch (Math.floor(random.uniform() * 7)) {
    case 0: {
      const array = new Float32Array(length)
      structuredClone(array.buffer, { transfer: [array.buffer] })
      return array
    }
    case 1:
      return new Float32Array(new SharedArrayBuffer(4 * length))
    case 2: {
      const buffer = resizable(64, 4096)
      const array = new Float32Array(buffer)
      buffer.resize(pick(random, [0, 4, 16]))
      return array
    }
    case 3:
      return new Float32Array(64).subarray(60)
    case 4:
      return new DataView(new ArrayBuffer(16))
    case 5:
      return Object.create(Float32Array.prototype)
    default:
      return new Kind(length)
  }
}

/** An object whose members do something when they are read. */
function trap(world: World): object {
  const { random } = world
  const act = () => {
    if (chance(random, 0.3)) callSomething(world, 1)
    if (chance(random, 0.1)) throw new Error('a getter that throws')
    return anything(world, 1)
  }
  if (chance(random, 0.5))
    return new Proxy(
      {},
      {
        get: act,
        ownKeys: () => ['x', 'name', 'dims'],
        getOwnPropertyDescriptor: () => ({ configurable: true, enumerable: true, value: 1 }),
      },
    )
  const object = {}
  for (const name of ['x', 'y', 'name', 'dims', 'dtype', 'shape', 'offset', 'length', 'weights', 'precision']) {
    Object.defineProperty(object, name, { get: act, enumerable: true })
  }
  return object
}

function anything(world: World, depth: number): Anything {
  const { random, objects } = world
  switch (Math.floor(random.uniform() * 12)) {
    case 0:
      return pick(random, edges)
    case 1:
      return pick(random, words)
    case 2:
    case 3:
      return pick(random, objects)
    case 4:
      return numbers(world)
    case 5:
      return depth > 2 ? [] : Array.from({ length: pick(random, [0, 1, 4, 5]) }, () => anything(world, depth + 1))
    case 6:
      return trap(world)
    case 7:
      return pick<Anything>(random, [null, undefined, true, Symbol('s'), 1n, 2n ** 70n, () => 1, new Date(0), /x/])
    case 8:
      return Object.assign(Object.create(pick(random, [null, Object.prototype, ...world.prototypes])), {
        x: pick(random, objects),
      })
    case 9:
      return Math.floor(random.uniform() * 8)
    case 10:
      return { name: 'x', dims: [1, 1, 2, 4], dtype: 'f32', [pick(random, words)]: anything(world, depth + 1) }
    default:
      return { x: pick(random, objects), y: pick(random, objects), weights: pick(random, objects) }
  }
}

const bindings = ({ random, objects }: World): Anything => ({
  x: pick(random, objects),
  y: pick(random, objects),
  '': pick(random, objects),
})

/** Arguments that a method could take, most of them. */
function plausible(world: World, name: string): Anything[] {
  const { random, objects, device } = world
  const size = () => pick(random, [0, 1, 4, 8, 100, ...edges])
  const sizes = () => Array.from({ length: 4 }, () => pick(random, [1, 1, 2, 4, ...edges]))
  const place = () => ({
    offset: size(),
    length: size(),
    format: pick(random, ['fp32', 'fp16', 'bf16', 'int8', 'fp8']),
    row: size(),
    scales: size(),
  })
  const axes = () => pick(random, [[0, 1, 2, 3], [0, 2, 3, 1], [3, 2, 1, 0], sizes()])
  switch (name) {
    case 'allocate':
      return [pick(random, [1, 4, 8, 1000, 0, -1, NaN, 2 ** 40, 2 ** 62])]
    case 'write':
      return [numbers(world), size()]
    case 'read':
      return [size(), size()]
    case 'copyFrom':
      return [pick(random, objects), size(), size(), size()]
    case 'load':
      return [
        pick(random, [0, 1, 2, -1, 99]),
        [
          {
            position: size(),
            dtype: pick(random, ['F32', 'F16', 'F64', 'U8']),
            place: place(),
            axes: sizes(),
            order: axes(),
          },
        ],
      ]
    case 'fill':
      return [numbers(world), place()]
    case 'readAt':
      return [place()]
    case 'draw':
      return [
        pick(random, [0, 7, ...edges]),
        0,
        [
          {
            kind: pick(random, ['constant', 'normal', 'uniform']),
            place: place(),
            index: size(),
            a: pick(random, edges),
            b: 1,
          },
        ],
      ]
    case 'add':
      return chance(random, 0.4)
        ? [
            'input',
            [],
            { name: pick(random, words), dims: [1, 1, pick(random, [1, 2, 4]), pick(random, [4, 8])], dtype: 'f32' },
          ]
        : [
            pick(random, ['silu', 'add', 'concat', 'slice', 'loss']),
            [0, 1, 2].map(() => Math.floor(random.uniform() * 6) - 1),
            { start: size(), count: size(), type: 'l2' },
          ]
    case 'compile':
    case 'compileBeside':
      return [chance(random, 0.7) ? device : pick(random, objects), { y: Math.floor(random.uniform() * 4) }, {}]
    case 'run':
      return [bindings(world)]
    case 'runAll':
      return [
        Array.from({ length: pick(random, [0, 1, 3]) }, () => ({
          program: pick(random, objects),
          bindings: bindings(world),
        })),
      ]
    case 'dims':
      return [size()]
    case 'backward':
      return [size(), [size(), size()]]
    default:
      return []
  }
}

const promises: Promise<Anything>[] = []

/** One call. What it throws is as it should be; only the process may not end. */
function callSomething(world: World, depth: number): void {
  const { random, objects, prototypes } = world
  const prototype = pick(random, prototypes)
  const name = pick(
    random,
    Object.getOwnPropertyNames(prototype).filter((n) => n !== 'constructor'),
  )
  // The end of the device ends everything else, so it comes seldom.
  if (name === 'close' && !chance(random, 0.02)) return
  const own = objects.filter((object) => Object.getPrototypeOf(object) === prototype)
  const receiver = chance(random, 0.85) && own.length > 0 ? pick(random, own) : anything(world, depth)
  const args = plausible(world, name)
  for (const i of args.keys()) if (chance(random, 0.15)) args[i] = anything(world, depth)
  while (chance(random, 0.1)) args.push(anything(world, depth))
  try {
    const descriptor = Object.getOwnPropertyDescriptor(prototype, name)!
    const result = descriptor.get
      ? Reflect.apply(descriptor.get, receiver, [])
      : Reflect.apply(descriptor.value, receiver, args)
    world.accepted++
    // runAll gives a promise with a function to stop it by.
    if (result?.done instanceof Promise && chance(random, 0.3)) result.stop()
    const promise = result?.done ?? result
    if (promise instanceof Promise) promises.push(promise.catch((error) => complain(error)))
    else if (typeof result === 'object' && result !== null && objects.length < 40) objects.push(result)
  } catch (error) {
    complain(error)
  }
}

/** An internal error is a bug of the addon's own. */
function complain(error: unknown): void {
  const { code, message } = (error ?? {}) as { code?: unknown; message?: unknown }
  if (code === 'internal') throw new InternalError(String(message))
}

export class InternalError extends Error {}

/** From one seed; resolves when all that was asked for is done, with how many calls were accepted. */
export async function hostileCalls(backend: string, random: Random): Promise<number> {
  const device = native.openDevice(backend, 0, 2)
  const graph = native.createGraph()
  const [x] = graph.add('input', [], { name: 'x', dims: [1, 1, 1, 8], dtype: 'f32' })
  const program = graph.compile(device, { y: graph.add('silu', [x], {})[0] }, {})
  const buffer = device.allocate(8)
  const originals = [device, graph, program, buffer]
  const prototypes = originals.map((object) => Object.getPrototypeOf(object))
  const world: World = { random, device, objects: [...originals, device.allocate(8)], prototypes, accepted: 0 }
  for (let call = 0; call < 200; call++) {
    callSomething(world, 0)
    if (chance(random, 0.02)) Object.setPrototypeOf(pick(random, world.objects), pick(random, prototypes))
    if (chance(random, 0.05)) await Promise.race([...promises, new Promise((resolve) => setImmediate(resolve))])
  }
  await Promise.all(promises.splice(0))
  for (const object of originals) Object.setPrototypeOf(object, prototypes[originals.indexOf(object)])
  device.close()
  return world.accepted
}
