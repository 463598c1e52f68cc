/** Weights that go from their file into a bank, and initial values that a device's thread draws: the bits of the ways over the host. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, rmSync, truncateSync, utimesSync, writeFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { plainTensors } from '../../lib/checkpoint/plain-numbers'
import { ReopenedFile } from '../../lib/checkpoint/reopened-file'
import { openStateDictFile, readStateDictFile } from '../../lib/checkpoint/state-dict-file'
import { Device } from '../../lib/device'
import type { FileDType } from '../../lib/file-numbers'
import type { HeldNumbers, NativeBuffer, StoredNumbers } from '../../lib/native'
import { normalOf, ParameterTable, uniformFanIn, zeros } from '../../lib/nn/parameters'
import { type StateDict, Weights } from '../../lib/nn/weights'
import { Tensor } from '../../lib/tensor'
import { assertSameBits } from '../support/compare'
import { testedBackends } from '../support/devices'
import { Random } from '../support/random'
import { torchFile } from '../support/torch-file'

/** A table with every layout; some tensors are more than a piece of 2^18 numbers, and some end within one. */
function tableOf(): ParameterTable {
  const table = new ParameterTable()
  table.add('conv.weight', [37, 130, 3, 3], uniformFanIn(9 * 130))
  table.add('conv.bias', [37], { kind: 'constant', value: 0.1 })
  table.add('point.weight', [40, 33, 1, 1], uniformFanIn(33))
  table.add('wide.weight', [3, 40000, 3, 1], normalOf(0.02))
  table.add('linear.weight', [600, 601], normalOf(0.3, 0.1))
  table.add('norm.weight', [17], { kind: 'ones' })
  table.add('norm.bias', [17], zeros)
  table.add('scale', [], zeros)
  const projection = { axes: [700, 500, 1, 1], order: [1, 0, 2, 3], graphShape: [500, 700] } as const
  table.add('projection', [700, 500], normalOf(1), { stored: projection })
  const memory = { axes: [2, 4, 5, 8], order: [0, 3, 1, 2], graphShape: [2, 160] } as const
  table.add('mem_kv', [2, 4, 5, 8], normalOf(1), { stored: memory })
  table.add('frozen.weight', [9, 8, 3, 3], uniformFanIn(72))
  table.freeze((name) => name.startsWith('frozen'))
  return table
}

const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1)
const widths = { F32: 4, F16: 2, BF16: 2, F64: 8 } as const
const dtypes = Object.keys(widths) as FileDType[]

/** Numbers of a file with what is special of their format among them. */
function bytesOf(dtype: FileDType, n: number, random: Random): Buffer {
  if (dtype === 'F64') {
    const special = [NaN, Infinity, -Infinity, 1e300, -1e300, 1e-310, 1e-42, -0, 1 + 2 ** -24, 1 + 3 * 2 ** -24]
    return Buffer.from(Float64Array.from({ length: n }, (_, i) => special[i] ?? random.normal()).buffer)
  }
  if (dtype === 'F32') return Buffer.from(random.normals(n).buffer)
  // Every half precision number there is, one after the other; bfloat16's without those that are no numbers.
  const halves = Uint16Array.from({ length: n }, (_, i) => (dtype === 'F16' ? i * 7 : i % 0x7f80))
  return Buffer.from(halves.buffer)
}

function safetensorsOf(table: ParameterTable, dtypeOf: (index: number) => FileDType): Buffer {
  const random = new Random(3)
  const header: Record<string, unknown> = {}
  const parts: Buffer[] = []
  let position = 0
  for (const [i, { name, shape }] of table.slots.entries()) {
    const dtype = dtypeOf(i)
    const bytes = bytesOf(dtype, sizeOf(shape), random)
    header[name] = { dtype, shape, data_offsets: [position, position + bytes.length] }
    position += bytes.length
    parts.push(bytes)
  }
  const text = Buffer.from(JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  return Buffer.concat([length, text, ...parts])
}

const opened = async (file: string): Promise<StateDict> => {
  const { tensors, budget } = await openStateDictFile(file)
  return plainTensors(tensors, budget)
}
const readAll = async (file: string): Promise<StateDict> => {
  const { tensors } = await readStateDictFile(file)
  return Object.fromEntries(
    Object.entries(tensors).map(([name, { data, shape }]) => [name, Tensor.wrap(data as Float32Array, shape)]),
  )
}

let folder: string
before(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'ddpm-fill-'))
})
after(() => rmSync(folder, { recursive: true }))

for (const backend of testedBackends) {
  describe(`banks on ${backend}`, () => {
    const device = Device.open(backend)
    const made = () => new Weights(device, tableOf(), 5)

    for (const [i, first] of dtypes.entries()) {
      it(`of a file that begins with ${first} have the bits of its numbers`, async () => {
        const file = path.join(folder, `${first}.safetensors`)
        writeFileSync(
          file,
          safetensorsOf(tableOf(), (index) => dtypes[(i + index) % dtypes.length]),
        )
        const dict = await opened(file)
        assert.ok(Object.values(dict).every(({ inFile }) => inFile))
        const weights = made()
        await weights.write('weights', dict)
        const expected = await weights.table.fromStateDict(await readAll(file))
        assertSameBits(await weights.bank('weights').read(), expected.flat, 'weights')
        assertSameBits(await weights.bank('frozen').read(), expected.frozen, 'frozen')
        const back = await weights.read('weights')
        for (const [name, tensor] of Object.entries(await readAll(file))) {
          assertSameBits(await dict[name].data(), await tensor.data(), name)
          assertSameBits(await back[name].data(), await tensor.data(), `${name} of the state dict`)
        }
        weights.release()
      })
    }

    it('of torch.save have the bits of its numbers', async () => {
      const file = path.join(folder, 'model.ckpt')
      const table = tableOf()
      const random = new Random(4)
      const entries = table.slots.map(
        ({ name, shape }) => [name, { shape, data: random.normals(sizeOf(shape)) }] as const,
      )
      writeFileSync(file, torchFile({ dict: Object.fromEntries(entries) }))
      const dict = await opened(file)
      assert.ok(Object.values(dict).every(({ inFile }) => inFile))
      const weights = made()
      await weights.write('weights', dict)
      const expected = await weights.table.fromStateDict(
        Object.fromEntries(entries.map(([name, { shape, data }]) => [name, Tensor.wrap(data, shape)])),
      )
      assertSameBits(await weights.bank('weights').read(), expected.flat, 'weights')
      weights.release()
    })

    it('begin with the values that the host draws, but for what is loaded', async () => {
      const drawn = made()
      const table = drawn.table
      const initial = table.initialBanks(5)
      assertSameBits(await drawn.bank('weights').read(), initial.flat, 'weights')
      assertSameBits(await drawn.bank('frozen').read(), initial.frozen, 'frozen')
      drawn.release()
      const file = path.join(folder, 'F32.safetensors')
      const all = await opened(file)
      const some = Object.fromEntries(Object.entries(all).filter(([name]) => /^(conv|frozen|mem)/.test(name)))
      const expected = await table.fromStateDict(some, {
        strict: false,
        into: initial.flat,
        frozenInto: initial.frozen,
      })
      for (const isThere of [false, true]) {
        const weights = made()
        if (isThere) weights.bindings('weights')
        await weights.write('weights', some, { strict: false })
        assertSameBits(await weights.bank('weights').read(), expected.flat, 'weights')
        assertSameBits(await weights.bank('frozen').read(), expected.frozen, 'frozen')
        weights.release()
      }
    })

    it('stay as they are when a file ends while it is read', async () => {
      const file = path.join(folder, 'shorter.safetensors')
      const contents = safetensorsOf(tableOf(), () => 'F32')
      writeFileSync(file, contents)
      const dict = await opened(file)
      const weights = made()
      const before = await weights.bank('weights').read()
      const { inUse } = device.memoryInfo()
      truncateSync(file, contents.length - 5)
      await assert.rejects(weights.write('weights', dict), { code: 'bad-file', message: /became shorter/ })
      await assert.rejects(dict.scale.data(), { code: 'bad-file', message: /became shorter/ })
      writeFileSync(file, contents)
      utimesSync(file, 1, 1)
      await assert.rejects(weights.write('weights', dict), { code: 'bad-file', message: /was changed/ })
      rmSync(file)
      await assert.rejects(weights.write('weights', dict), { code: 'not-found' })
      assertSameBits(await weights.bank('weights').read(), before, 'weights')
      await device.synchronize()
      assert.equal(device.memoryInfo().inUse, inUse)
      weights.release()
    })

    it('stay as they are, all of them, when another bank can not be read', async () => {
      const [good, bad] = ['good.safetensors', 'bad.safetensors'].map((name) => path.join(folder, name))
      for (const file of [good, bad])
        writeFileSync(
          file,
          safetensorsOf(tableOf(), () => 'F32'),
        )
      const [weightsDict, averages] = [await opened(good), await opened(bad)]
      utimesSync(bad, 1, 1)
      const weights = made()
      const before = await weights.bank('weights').read()
      const { inUse } = device.memoryInfo()
      const both = weights.writeAll([
        ['weights', weightsDict],
        ['ema', averages],
      ])
      await assert.rejects(both, { code: 'bad-file', message: /was changed/ })
      assertSameBits(await weights.bank('weights').read(), before, 'weights')
      await device.synchronize()
      assert.equal(device.memoryInfo().inUse, inUse)
      assert.equal(weights.has('ema'), false)
      weights.release()
    })

    it('take no memory when they are disposed of while they are read', async () => {
      const file = path.join(folder, 'disposed.safetensors')
      writeFileSync(
        file,
        safetensorsOf(tableOf(), () => 'F32'),
      )
      const dict = await opened(file)
      const { inUse } = device.memoryInfo()
      const weights = made()
      const reading = weights.write('weights', dict)
      weights.dispose()
      await assert.rejects(reading, { code: 'disposed' })
      await device.synchronize()
      assert.equal(device.memoryInfo().inUse, inUse)
    })

    it('are not made of a file that is written into while it is read', async () => {
      const file = path.join(folder, 'written')
      writeFileSync(file, 'numbers')
      const handle = await open(file)
      const bad = (reason: string) => new Error(reason)
      const reopened = await ReopenedFile.of(file, handle, { argument: 'file', bad: bad as never })
      await handle.close()
      assert.equal(await reopened.use(async () => 1), 1)
      const reading = reopened.use(async () => utimesSync(file, 1, 1))
      await assert.rejects(reading, /was changed while it was read/)
    })
  })
}

describe('NativeBuffer.load and draw', () => {
  const device = Device.open('cpu')
  const place: HeldNumbers = { offset: 0, length: 2, format: 'fp32' }
  const tensor: StoredNumbers = { position: 0, dtype: 'F32', place, axes: [2, 1, 1, 1], order: [0, 1, 2, 3] }
  const load = async (buffer: NativeBuffer, changed: object, file?: number) => {
    const descriptor = openSync(__filename, 'r')
    try {
      await buffer.load(file ?? descriptor, [{ ...tensor, ...changed }])
    } finally {
      closeSync(descriptor)
    }
  }

  it('refuse what lies outside, and what is no file', async () => {
    const buffer = device.allocate(8)
    const wrong: [string, object][] = [
      ['position', { position: -1 }],
      ['position', { position: 2 ** 60 }],
      ['position', { position: Number.NaN }],
      ['dtype', { dtype: 'I64' }],
      ['offset', { place: { ...place, offset: 7 } }],
      ['offset', { place: { ...place, offset: -1 } }],
      ['offset', { place: { ...place, offset: 7, length: 3, format: 'fp16' } }],
      ['offset', { place: { ...place, offset: 1.5 } }],
      ['offset', { place: { ...place, length: -1, format: 'int8', row: 1, scales: 0 } }],
      ['offset', { place: { ...place, length: 1e300 } }],
      ['format', { place: { ...place, format: 'fp8' } }],
      ['row', { place: { ...place, format: 'int8', row: 3, scales: 4 } }],
      ['row', { place: { ...place, format: 'int8', row: 0, scales: 4 } }],
      ['scales', { place: { ...place, format: 'int8', row: 1 } }],
      ['offset', { place: { ...place, format: 'int8', row: 1, scales: 7 } }],
      ['axes', { axes: [2 ** 31 - 1, 2 ** 31 - 1, 2 ** 31 - 1, 2 ** 31 - 1] }],
      ['axes', { axes: [3, 1, 1, 1] }],
      ['axes', { axes: [0, 1, 1, 1] }],
      ['axes', { axes: [1, 1, 1] }],
      ['order', { order: [0, 1, 2, 2] }],
      ['order', { order: [0, 1, 2, 4] }],
    ]
    for (const [argument, changed] of wrong)
      await assert.rejects(load(buffer, changed), { code: 'invalid-argument', argument }, JSON.stringify(changed))
    for (const file of [-1, 9999])
      await assert.rejects(load(buffer, {}, file), { code: 'invalid-argument', argument: 'file' })
    const folder = openSync(__dirname, 'r')
    await assert.rejects(load(buffer, {}, folder), { code: 'invalid-argument', argument: 'file' })
    closeSync(folder)
    await assert.rejects(load(buffer, { position: 2 ** 40 }), { code: 'bad-file' })
    assert.deepEqual([...(await buffer.read())], [0, 0, 0, 0, 0, 0, 0, 0])
    const values = { kind: 'normal', place: { ...place, length: 8 }, index: 0, a: 0, b: 1 } as const
    assert.throws(() => buffer.draw(0, 0, [{ ...values, place: { ...place, length: 9 } }]), { argument: 'offset' })
    assert.throws(() => buffer.fill(new Float32Array(3), place), { argument: 'data' })
    assert.throws(() => buffer.fill(new Int32Array(2) as never, place), { argument: 'data' })
    assert.throws(() => buffer.readAt({ ...place, length: 9 }), { argument: 'offset' })
    assert.throws(() => buffer.draw(0, 0, [{ ...values, kind: 'cauchy' as 'normal' }]), { argument: 'kind' })
    assert.throws(() => buffer.draw(-1, 0, [values]), { argument: 'seedLow' })
    assert.throws(() => buffer.draw(0, 0, [{ ...values, index: 0.5 }]), { argument: 'index' })
    buffer.release()
  })
})

describe('a model that is opened', () => {
  it('takes the memory of its weights and little beside, whatever they are held in', () => {
    const script = path.join(__dirname, 'opening-memory.js')
    const peak = (what: string) =>
      JSON.parse(execFileSync(process.execPath, [script, what, folder], { encoding: 'utf8' }))
    const empty = peak('nothing')
    const [wide, ...narrow] = ['fp32', 'fp16', 'int8'].map((format) => {
      const whole = peak(format)
      const beside = (whole.peak - empty.peak - whole.bytes) / 2 ** 20
      assert.ok(beside < 64, `${format}: ${beside.toFixed(0)} MiB beside the weights`)
      return whole.bytes
    })
    assert.ok(wide > 250e6, `${wide} bytes of weights`)
    for (const [i, part] of [0.51, 0.26].entries()) assert.ok(narrow[i] < part * wide, `${narrow[i]} of ${wide}`)
  })
})
