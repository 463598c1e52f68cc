/** Banks whose weights are held in 16 or 8 bits: filled from files, arrays and initial values with the bits of plain arithmetic, and read. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { plainTensors } from '../../lib/checkpoint/plain-numbers'
import { openStateDictFile } from '../../lib/checkpoint/state-dict-file'
import { Device } from '../../lib/device'
import type { FileDType } from '../../lib/file-numbers'
import { type WeightFormat, weightFormats } from '../../lib/native'
import { normalOf, ones, ParameterTable, uniformFanIn, zeros } from '../../lib/nn/parameters'
import { type StateDict, Weights } from '../../lib/nn/weights'
import { joined } from '../../lib/parameter-slot'
import { Tensor } from '../../lib/tensor'
import { assertSameBits } from '../support/compare'
import { devicesOfFormat } from '../support/devices'
import { Random } from '../support/random'
import { held, toBfloat16, toFloat16 } from '../support/weight-formats'

/** Every layout; some tensors are more than a piece of 2^18 numbers, and some end within one. */
function tableOf(format: WeightFormat): ParameterTable {
  const table = new ParameterTable()
  table.add('conv.weight', [37, 13, 3, 3], uniformFanIn(9 * 13), { layer: 'conv2d' })
  table.add('conv.bias', [37], { kind: 'constant', value: 0.1 })
  table.add('wide.weight', [3, 40000, 3, 1], normalOf(0.02), { layer: 'conv2d' })
  table.add('linear.weight', [600, 601], normalOf(0.3, 0.1), { layer: 'linear' })
  table.add('norm.weight', [17], ones)
  table.add('ones.weight', [5, 7], ones, { layer: 'linear' })
  table.add('zeros.weight', [5, 7], zeros, { layer: 'linear' })
  const projection = { axes: [700, 500, 1, 1], order: [1, 0, 2, 3], graphShape: [500, 700] } as const
  table.add('projection', [700, 500], normalOf(1), { layer: 'linear', stored: projection })
  const group = ['q', 'k', 'v'].map((name) => table.add(`${name}.weight`, [8, 6], uniformFanIn(6), { layer: 'linear' }))
  table.place(group)
  table.add('frozen.weight', [9, 8, 3, 3], uniformFanIn(72), { layer: 'conv2d' })
  table.add('frozen.bias', [9], uniformFanIn(72))
  table.freeze((name) => name.startsWith('frozen'))
  table.hold(format)
  return table
}

const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1)

/** Of float32 banks in the layout of fp32: the banks in a format, and as float32 what these are. */
function narrowed(format: WeightFormat, wide: { flat: Float32Array; frozen: Float32Array }) {
  const [table, plain] = [tableOf(format), tableOf('fp32')]
  const banks = { flat: new Float32Array(table.count), frozen: new Float32Array(table.frozenCount) }
  const values = { flat: wide.flat.slice(), frozen: wide.frozen.slice() }
  for (const slot of table.slots) {
    const which = slot.frozen ? 'frozen' : 'flat'
    const { offset } = plain.get(slot.name)!
    const own = wide[which].subarray(offset, offset + sizeOf(slot.shape))
    const numbers = held(slot.format, own, (slot.graphShape ?? slot.shape)[0])
    const { buffer, byteOffset, byteLength } = numbers.data
    new Uint8Array(banks[which].buffer).set(new Uint8Array(buffer, byteOffset, byteLength), 4 * slot.offset)
    if (numbers.scales) banks[which].set(numbers.scales, slot.scales!)
    values[which].set(numbers.values, offset)
  }
  return { ...banks, dict: plain.toStateDict(values.flat, values.frozen) }
}

async function assertHolds(weights: Weights, expected: ReturnType<typeof narrowed>): Promise<void> {
  assertSameBits(await weights.bank('weights').read(), expected.flat, 'weights')
  assertSameBits(await weights.bank('frozen').read(), expected.frozen, 'frozen')
  const read = await weights.read('weights')
  assert.deepEqual(Object.keys(read), Object.keys(expected.dict))
  for (const [name, tensor] of Object.entries(read))
    assertSameBits(await tensor.data(), await expected.dict[name].data(), name)
}

/** Normal numbers, or every half there is. */
function bytesOf(dtype: FileDType, n: number, random: Random): Buffer {
  if (dtype === 'F16') return Buffer.from(Uint16Array.from({ length: n }, (_, i) => i * 7).buffer)
  const numbers = random.normals(n, 0.1)
  if (dtype === 'F64') return Buffer.from(Float64Array.from(numbers, (x) => x * (1 + 1e-9)).buffer)
  if (dtype === 'F32') return Buffer.from(numbers.buffer)
  return Buffer.from(Uint16Array.from(new Uint32Array(numbers.buffer), (bits) => bits >>> 16).buffer)
}

function safetensorsOf(dtypes: readonly FileDType[]): Buffer {
  const random = new Random(3)
  const header: Record<string, unknown> = {}
  const parts: Buffer[] = []
  let position = 0
  for (const [i, { name, shape }] of tableOf('fp32').slots.entries()) {
    const dtype = dtypes[i % dtypes.length]
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

let folder: string
before(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'ddpm-narrow-'))
})
after(() => rmSync(folder, { recursive: true }))

const narrow = weightFormats.filter((format) => format !== 'fp32')
for (const format of narrow) {
  for (const backend of devicesOfFormat(format)) {
    describe(`${format} banks on ${backend}`, () => {
      const device = Device.open(backend)
      const made = () => new Weights(device, tableOf(format), 5)

      const dtypes: FileDType[] = format === 'int8' ? ['F32', 'BF16', 'F64'] : ['F32', 'F16', 'BF16', 'F64']
      for (const first of dtypes) {
        it(`of a file of ${first} and others, and of the same tensors as arrays`, async () => {
          const file = path.join(folder, `${format}-${first}.safetensors`)
          const at = dtypes.indexOf(first)
          writeFileSync(file, safetensorsOf([...dtypes.slice(at), ...dtypes.slice(0, at)]))
          const dict = await opened(file)
          assert.ok(Object.values(dict).every(({ inFile }) => inFile))
          const expected = narrowed(format, await tableOf('fp32').fromStateDict(dict))
          const weights = made()
          await weights.write('weights', dict)
          await assertHolds(weights, expected)
          const arrays: StateDict = {}
          for (const [name, tensor] of Object.entries(dict))
            arrays[name] = Tensor.wrap(await tensor.data(), tensor.shape)
          const again = made()
          await again.write('weights', arrays)
          await assertHolds(again, expected)
          for (const each of [weights, again]) each.release()
        })
      }

      it('of initial values, kept when they are released, averaged and replaced in part', async () => {
        const weights = made()
        const initial = tableOf('fp32').initialBanks(5)
        const expected = narrowed(format, initial)
        await assertHolds(weights, expected)
        weights.copy('weights', 'ema')
        weights.release(await weights.copies())
        assert.equal(weights.resident, false)
        await assertHolds(weights, expected)
        assertSameBits(await weights.bank('ema').read(), expected.flat, 'ema')
        const all = await tableOf('fp32').toStateDict(new Random(1).normals(tableOf('fp32').count))
        const some = Object.fromEntries(Object.entries(all).filter(([name]) => /^(conv|k|projection)/.test(name)))
        const o = { strict: false, into: initial.flat, frozenInto: initial.frozen }
        const changed = narrowed(format, await tableOf('fp32').fromStateDict(some, o))
        await weights.write('weights', some, { strict: false })
        await assertHolds(weights, changed)
        assertSameBits(await weights.bank('ema').read(), expected.flat, 'ema')
        assert.equal(weights.bytes, 4 * (2 * weights.table.count + weights.table.frozenCount))
        weights.release()
      })

      it('are replaced by none that has a number they can not hold', async () => {
        const weights = made()
        weights.bindings('weights')
        const before = await weights.bank('weights').read()
        const { inUse } = device.memoryInfo()
        const wrong = { fp16: [65520, -1e9], bf16: [3.4e38], int8: [Number.NaN, Number.POSITIVE_INFINITY], fp32: [] }
        for (const number of wrong[format]) {
          const dict = await weights.read('weights')
          const numbers = await dict['linear.weight'].data()
          numbers[12345] = number
          dict['linear.weight'] = Tensor.wrap(numbers, [600, 601])
          await assert.rejects(weights.write('weights', dict), {
            code: 'unsupported',
            argument: 'weightFormat',
            received: `'${format}'`,
            message: /'linear.weight'/,
          })
        }
        await device.synchronize()
        assertSameBits(await weights.bank('weights').read(), before, 'weights')
        assert.equal(device.memoryInfo().inUse, inUse)
        weights.release()
      })
    })
  }
}

describe('numbers rounded to a format', () => {
  const device = Device.open('cpu')
  const through = async (format: WeightFormat, numbers: readonly number[]) => {
    const buffer = device.allocate(numbers.length)
    const place = { offset: 0, length: numbers.length, format, row: numbers.length, scales: numbers.length - 1 }
    await buffer.fill(Float32Array.from(numbers), place)
    const read = await buffer.readAt(place)
    buffer.release()
    return read
  }
  /** Between every two neighbours: both, the middle, and next to the middle. */
  const around = (values: readonly number[]) =>
    values.flatMap((low, i) => {
      const high = values[i + 1] ?? low
      const middle = Math.fround((low + high) / 2)
      const [bits, float] = [new Uint32Array(1), new Float32Array(1)]
      float[0] = middle
      bits.set(new Uint32Array(float.buffer))
      const near = [-1, 1].map((step) => new Float32Array(Uint32Array.of(bits[0] + step).buffer)[0])
      return [low, middle, ...near].flatMap((x) => [x, -x])
    })

  it('fp16: every number, ties to even, subnormals and what is not finite', async () => {
    const halves = Array.from({ length: 0x7c00 }, (_, i) => {
      const [exponent, fraction] = [i >> 10, i & 1023]
      return exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25)
    })
    const special = [
      Number.NaN,
      Number.POSITIVE_INFINITY,
      Number.NEGATIVE_INFINITY,
      -0,
      65504,
      65519.99,
      1e-40,
      2 ** -25,
    ]
    const numbers = [...around(halves.slice(1)), ...special].map(Math.fround)
    assertSameBits(await through('fp16', numbers), Float32Array.from(numbers, toFloat16), 'fp16')
  })

  it('bf16: ties to even, subnormals and what is not finite', async () => {
    const some = Array.from(
      { length: 0x7f80 / 16 },
      (_, i) => new Float32Array(Uint32Array.of((i * 16) << 16).buffer)[0],
    )
    const next = Array.from({ length: 200 }, (_, i) => new Float32Array(Uint32Array.of((0x3f80 + i) << 16).buffer)[0])
    const special = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -0, 3.38e38, 1e-45, 1e-40]
    const numbers = [...around(next), ...some, ...special].map(Math.fround)
    assertSameBits(await through('bf16', numbers), Float32Array.from(numbers, toBfloat16), 'bf16')
  })

  it('int8: rows of any scale', async () => {
    const random = new Random(2)
    for (const scale of [1, 1e-30, 1e30, 1e-43, 1.4e-45, 0]) {
      const numbers = random.normals(999).map((x) => x * scale)
      const expected = held('int8', numbers, 1)
      assertSameBits(await through('int8', [...numbers]), expected.values, `int8 of ${scale}`)
    }
  })
})

describe('the layout of narrow banks', () => {
  for (const format of narrow) {
    it(`${format}: groups stay joined, nothing overlaps, and tables lie in others as by themselves`, () => {
      const table = tableOf(format)
      const slots = ['q', 'k', 'v'].map((name) => table.get(`${name}.weight`)!)
      const all = joined(slots)!
      assert.deepEqual([all.shape, all.offset, all.format], [[24, 6], slots[0].offset, format])
      const whole = new ParameterTable()
      whole.append(table, 'first.')
      whole.append(tableOf(format), 'second.')
      for (const { name, offset, scales, frozen, format: own } of table.slots) {
        for (const [prefix, times] of [
          ['first', 0],
          ['second', 1],
        ] as const) {
          const slot = whole.get(`${prefix}.${name}`)!
          const place = times * (frozen ? table.frozenCount : table.count)
          const expected = {
            offset: offset + place,
            scales: scales === undefined ? scales : scales + place,
            format: own,
          }
          assert.deepEqual({ offset: slot.offset, scales: slot.scales, format: slot.format }, expected, name)
        }
      }
      for (const frozen of [false, true]) {
        const taken = new Uint8Array(4 * (frozen ? whole.frozenCount : whole.count))
        for (const slot of whole.slots.filter((each) => each.frozen === frozen)) {
          const width = { fp32: 4, fp16: 2, bf16: 2, int8: 1 }[slot.format]
          const ranges = [[4 * slot.offset, width * sizeOf(slot.shape)]]
          if (slot.scales !== undefined) ranges.push([4 * slot.scales, 4 * (slot.graphShape ?? slot.shape)[0]])
          for (const [from, length] of ranges) {
            assert.ok(from + length <= taken.length, slot.name)
            assert.ok(
              taken.subarray(from, from + length).every((x) => x === 0),
              slot.name,
            )
            taken.fill(1, from, from + length)
          }
        }
      }
      assert.ok(whole.count % 16 === 0 && whole.frozenCount % 16 === 0)
    })
  }

  it('is one: a table that is in use is not held otherwise, and no bank of it is on the host', async () => {
    const table = tableOf('fp16')
    table.hold('fp16')
    assert.throws(() => tableOf('fp16').initialBanks(0), { code: 'internal' })
    assert.ok(table.count > 0)
    assert.throws(() => table.hold('fp32'), { code: 'invalid-argument', argument: 'model' })
    assert.throws(() => table.toStateDict(new Float32Array(table.count)), { code: 'internal' })
    await assert.rejects(table.fromStateDict({}, { strict: false }), { code: 'internal' })
  })
})
