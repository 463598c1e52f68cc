// What a file may cost: memory, work and steps follow from its size, whatever it asks for.
import assert from 'node:assert/strict'
import { Budget } from '../../lib/checkpoint/budget'
import { readSafetensors } from '../../lib/checkpoint/safetensors'
import { type Source, withSource } from '../../lib/checkpoint/source'
import { readArchive } from '../../lib/checkpoint/torch/archive'
import { type TorchTensor, withTorchFile } from '../../lib/checkpoint/torch/checkpoint'
import { readView } from '../../lib/checkpoint/torch/tensor'
import { readYaml } from '../../lib/checkpoint/yaml'
import {
  archive,
  bytes,
  get,
  global,
  int,
  list,
  type Piece,
  pickle,
  put,
  repeated,
  storage,
  tensor,
  text,
  tuple,
} from '../attack/support/pickle'
import { Random } from '../support/random'

const MiB = 2 ** 20

const refused = (file: Uint8Array, message: RegExp) =>
  assert.rejects(
    withTorchFile(file, async () => {}),
    { name: 'DiffusionError', code: 'bad-file', message },
  )

/** A list of what `n` calls of a function with the same arguments make. */
const calls = (callee: Buffer, args: Piece, n: number) =>
  archive(pickle(']', callee, put(0), '0', args, put(1), '0', repeated(bytes(get(0), get(1), 'Ra'), n)))

/** What is read and unpacked, and the reads. */
class Counted extends Budget {
  bytes = 0
  override work(bytes: number): void {
    this.bytes += bytes
    super.work(bytes)
  }
}

/** Opens a file's pickle and has each of its root's tensors read. Returns the work. */
async function workOf(file: Uint8Array): Promise<number> {
  return withSource(file, 'test', async (source) => {
    const budget = new Counted(file.length, source.bad)
    const read: Source['read'] = async (target, position) => {
      budget.work(target.length)
      target.set(file.subarray(position, position + target.length))
    }
    const { value, open } = await readArchive({ ...source, budget, read })
    for (const item of value as TorchTensor[]) await readView(item, (await open(item.storage)).read, budget)
    return budget.bytes
  })
}

describe('the budget of a file', () => {
  it('is twice its size, some memory beside, and names what was exceeded', () => {
    const budget = new Budget(10 * MiB, (problem) => new Error(problem) as never)
    budget.memory(60 * MiB)
    assert.throws(() => budget.memory(9 * MiB), /memory/)
    const another = new Budget(10 * MiB, (problem) => new Error(problem) as never)
    another.memory(60 * MiB)
    another.release(20 * MiB)
    another.memory(20 * MiB)
    assert.throws(() => another.work(1000 * MiB), /far more work than/)
    assert.throws(() => another.items(1e9), /items/)
    for (const wrong of [Number.NaN, Infinity]) assert.throws(() => another.memory(wrong), /memory/)
  })

  it("pays for what a pickle's calls make", async () => {
    const items = Array.from({ length: 20_000 }, (_, i) => text(`k${i}`))
    const pairs = items.map((item) => bytes(item, 'N\x86'))
    const sequence = (of: Buffer[]) => tuple(list(Buffer.concat(of)))
    const encode = tuple(text('a'.repeat(MiB)), text('latin1'))
    await refused(calls(global('_codecs', 'encode'), encode, 100), /far more memory/)
    for (const name of ['set', 'frozenset']) {
      await refused(calls(global('builtins', name), sequence(items), 100), /far more memory/)
    }
    await refused(calls(global('collections', 'OrderedDict'), sequence(pairs), 100), /far more memory/)
    await refused(calls(global('torch', 'device'), tuple(text('x'.repeat(MiB)), int(0)), 3), /no type/)
    const extents = list(repeated(int(0), 1000))
    const view = tuple(storage({ elements: 0 }), int(0), extents, extents, '\x89', 'N')
    await refused(
      archive(pickle(global('torch._utils', '_rebuild_tensor_v2'), view, 'R'), { 0: Buffer.alloc(0) }),
      /1000/,
    )
  })

  it('pays for strings, integers and steps', async () => {
    await refused(
      archive(pickle('(', repeated(bytes('\x8b', '\0\x04\0\0', repeated('\x55', 1024)), 20_000), 'l')),
      /memory/,
    )
    await refused(archive(pickle('(', repeated('X\0\0\0\0', 1_000_000), 'l')), /memory/)
    await refused(archive(pickle(repeated('N0', 3_000_000), 'N')), /far more/)
  })

  it('does not pay for numbers that are chosen to fall into one bucket', async () => {
    // Bigints with the same low word have the same hash in V8.
    const equal = Array.from({ length: 30_000 }, (_, i) => {
      const long = Buffer.alloc(18, 7)
      long.set([0x8a, 16])
      long.writeUInt32LE(i, 10)
      long.writeUInt32LE(1, 14)
      return bytes(long, 'N')
    })
    await refused(archive(pickle('}(', Buffer.concat(equal), 'u')), /far more items/)
    const numbers = Array.from({ length: 30_000 }, (_, i) => bytes(int(7 * i), 'N'))
    await refused(archive(pickle('}(', Buffer.concat(numbers), 'u')), /far more items/)
    await refused(archive(pickle('N', put(1 << 30))), /as number 1073741824/)
  })

  it('a storage is unpacked once, however many tensors share it', async () => {
    const elements = MiB
    const one = bytes(storage({ elements }), put(0), '0')
    const item = (offset: number, strides: number[], shape: number[]) => tensor(get(0), { offset, shape, strides })
    const shared = (view: (i: number) => Buffer, deflate: boolean) =>
      archive(
        pickle(one, '](', Buffer.concat(Array.from({ length: 200 }, (_, i) => view(i))), 'e'),
        { 0: Buffer.alloc(4 * elements) },
        deflate,
      )
    const single = (i: number) => item(elements - 1 - i, [1], [1])
    assert.ok((await workOf(shared(single, true))) < 5 * MiB)
    // Two elements at either end: what lies between is not read.
    const ends = () => item(0, [elements - 1], [2])
    assert.ok((await workOf(shared(ends, false))) < 20 * MiB)
    // All of it, transposed, again and again: refused, in a bounded time.
    const turned = () => item(0, [1, 1024], [1024, 1024])
    await assert.rejects(workOf(shared(turned, false)), { code: 'bad-file', message: /far more (memory|work)/ })
  })

  it('views of any strides have the elements that their indices say', async () => {
    const random = new Random(11)
    const pick = (n: number) => Math.floor(random.uniform() * n)
    for (let round = 0; round < 40; round++) {
      const shape = Array.from({ length: 1 + pick(4) }, () => 1 + pick(round % 2 ? 5 : 12))
      const strides = shape.map(() => pick(4) * 10 ** pick(round % 3 ? 3 : 5))
      const span = 1 + shape.reduce((sum, extent, i) => sum + (extent - 1) * strides[i], 0)
      const offset = pick(50)
      const elements = offset + span
      const values = Float32Array.from({ length: elements }, (_, i) => i)
      const stored = Buffer.from(values.buffer)
      const view = tensor(storage({ elements }), { offset, shape, strides })
      const { data } = await withTorchFile(archive(pickle(view), { 0: stored }, round % 2 === 0), ({ value, load }) =>
        load(value as TorchTensor),
      )
      const expected: number[] = []
      const walk = (axis: number, at: number): void => {
        if (axis === shape.length) expected.push(at)
        else for (let i = 0; i < shape[axis]; i++) walk(axis + 1, at + i * strides[axis])
      }
      walk(0, offset)
      assert.deepEqual([...data], expected, `${shape} by ${strides}`)
    }
  })
})

describe('messages about files', () => {
  const header = (json: string) => {
    const text = Buffer.from(json)
    const length = Buffer.alloc(8)
    length.writeBigUInt64LE(BigInt(text.length))
    return Buffer.concat([length, text, Buffer.alloc(4)])
  }
  const messageOf = async (promise: Promise<unknown>) => {
    const error = await promise.then(
      () => assert.fail('read'),
      (error) => error,
    )
    assert.deepEqual([error.name, error.code], ['DiffusionError', 'bad-file'])
    for (const part of [error.message, error.received, error.expected, error.argument]) {
      if (part === undefined) continue
      assert.ok(part.length < 2500, `${part.length} characters`)
      // biome-ignore lint/suspicious/noControlCharactersInRegex: none of these
      assert.doesNotMatch(part, /[\0-\x08\x0b-\x1f\x7f-\x9f\u202e]/)
    }
    return error.message as string
  }

  it('are short and printable, whatever the file says', async () => {
    const entry = '"dtype":"F32","shape":[1],"data_offsets":[0,4]'
    const hostile = JSON.stringify(`\x1b]0;title\x07\x9b2J\u202e${'x'.repeat(3 * MiB)}`)
    await messageOf(readSafetensors(header(`{"a":{"dtype":${hostile},"shape":[1],"data_offsets":[0,4]}}`)))
    await messageOf(readSafetensors(header(`{${hostile}:{"dtype":1}}`)))
    await messageOf(readSafetensors(header(`{${hostile}:{${entry}},${hostile}:{${entry}}}`)))
    await messageOf(
      readSafetensors(header(`{"a":{"dtype":"F32","shape":[${'1,'.repeat(5000)}2],"data_offsets":[0,4]}}`)),
    )
    await messageOf(readYaml(Buffer.from(`a: ${'@'.repeat(30_000)}`)))
    await messageOf(withTorchFile(archive(pickle(global('\x1b[2J'.repeat(100), 'x'), ')R')), async () => {}))
    const key = text(`\x1b[2J${'k'.repeat(MiB)}`)
    const lost = tuple(text('storage'), global('torch', 'FloatStorage'), key, text('cpu'), int(1))
    await messageOf(withTorchFile(archive(pickle(lost, 'Q')), async () => {}))
  })

  it('depth is an error of the file, not of the stack', async () => {
    const deep = `${'['.repeat(20_000)}${']'.repeat(20_000)}`
    assert.match(await messageOf(readSafetensors(header(`{"a":{"dtype":${deep}}}`))), /nested/)
    assert.match(await messageOf(readSafetensors(header(`{"__metadata__":{"a":${deep}}}`))), /nested/)
    await messageOf(readYaml(Buffer.from(`a: ${deep.slice(15_000, 25_000)}`)))
  })
})
