import assert from 'node:assert/strict'
import { Device } from '../../lib/device'
import { ones, ParameterTable, Scope, standardNormal, uniformFanIn, zeros } from '../../lib/nn/parameters'
import { Weights } from '../../lib/nn/weights'
import { Tensor } from '../../lib/tensor'
import { assertSameBits } from '../support/compare'
import { Random } from '../support/random'

function smallTable(): ParameterTable {
  const table = new ParameterTable()
  const scope = new Scope(table)
  scope.at('conv').parameter('weight', [2, 3, 1, 2], uniformFanIn(6))
  scope.at('norm').parameter('weight', [17], ones)
  scope.at('out').parameter('bias', [1], zeros)
  return table
}

const mean = (values: Float32Array) => values.reduce((sum, v) => sum + v, 0) / values.length

describe('ParameterTable', () => {
  it('slots start at multiples of 16 and have unique names', () => {
    const table = smallTable()
    assert.deepEqual(
      table.slots.map(({ name, offset }) => [name, offset]),
      [
        ['conv.weight', 0],
        ['norm.weight', 16],
        ['out.bias', 48],
      ],
    )
    assert.equal(table.count, 64)
    assert.equal(table.size, 30)
    assert.throws(() => table.add('out.bias', [1], zeros), { code: 'internal' })
  })

  it('tables are put one after the other as they lie, each group and what is frozen, too', () => {
    const grouped = new ParameterTable()
    const [, b, , d] = [3, 32, 5, 16].map((size, i) => grouped.add('abcd'[i], [size], zeros))
    grouped.place([d, b])
    grouped.freeze((name) => name === 'c')
    const whole = new ParameterTable()
    whole.append(smallTable(), '')
    whole.append(grouped, 'second.')
    whole.append(smallTable(), 'third.')
    for (const { name, offset, frozen } of grouped.slots) {
      const slot = whole.get(`second.${name}`)!
      assert.deepEqual([slot.offset, slot.frozen], [frozen ? offset : 64 + offset, frozen], name)
    }
    assert.equal(whole.get('third.norm.weight')!.offset, 64 + grouped.count + 16)
    assert.deepEqual([whole.count, whole.frozenCount], [128 + grouped.count, grouped.frozenCount])
    assert.throws(() => grouped.add('e', [1], zeros), { code: 'internal' })
  })

  it('groups lie side by side where their first one would, in the order of the group; the order of names stays', () => {
    const table = new ParameterTable()
    const add = (name: string, size: number) => table.add(name, [size], zeros)
    const [, b, , d] = [add('a', 3), add('b', 32), add('c', 5), add('d', 16)]
    table.place([d, b])
    assert.throws(() => table.place([b]), { code: 'internal' })
    add('e', 1)
    assert.deepEqual(
      table.slots.map(({ name, offset }) => [name, offset]),
      [
        ['a', 0],
        ['b', 32],
        ['c', 64],
        ['d', 16],
        ['e', 80],
      ],
    )
    assert.equal(table.count, 96)
    assert.throws(() => add('late', 1), { code: 'internal' })
  })

  it("PyTorch's [out, in, kh, kw] lies as [out, kh, kw, in]", async () => {
    const table = smallTable()
    const conv = Tensor.from(
      Float32Array.from({ length: 12 }, (_, i) => i),
      [2, 3, 1, 2],
    )
    const { flat } = await table.fromStateDict({ 'conv.weight': conv }, { strict: false })
    assert.deepEqual([...flat.subarray(0, 12)], [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11])
    assert.deepEqual(await table.toStateDict(flat)['conv.weight'].data(), await conv.data())
  })

  it('a state dict comes back bit for bit', async () => {
    const table = smallTable()
    const random = new Random(3)
    const dict = Object.fromEntries(
      table.slots.map(({ name, shape }) => [
        name,
        Tensor.from(random.normals(shape.reduce((a, b) => a * b, 1)), shape),
      ]),
    )
    const { flat, missing, unexpected } = await table.fromStateDict(dict)
    assert.deepEqual([missing, unexpected], [[], []])
    for (const [name, tensor] of Object.entries(table.toStateDict(flat))) {
      assert.deepEqual(tensor.shape, dict[name].shape)
      assertSameBits(await tensor.data(), await dict[name].data(), name)
    }
  })

  it('missing, unexpected and wrongly shaped entries are named', async () => {
    const table = smallTable()
    const good = table.toStateDict(table.initialize(0))
    const { 'out.bias': bias, ...rest } = good
    const rejects = (dict: typeof good, strict: boolean, message: RegExp) =>
      assert.rejects(table.fromStateDict(dict, { strict }), { code: 'state-mismatch', message })
    await rejects({ ...rest, 'out.bais': bias }, true, /missing: out\.bias; unexpected: out\.bais/)
    await rejects(
      { ...good, 'out.bias': Tensor.from([1, 2]) },
      true,
      /out\.bias \(expected float32 \[1\], got float32 \[2\]/,
    )
    await rejects({ ...good, 'out.bias': Tensor.from([1, 2]) }, false, /out\.bias/)
    await rejects({ ...good, 'out.bias': Tensor.from(Int32Array.of(1)) }, true, /int32/)

    const into = new Float32Array(table.count).fill(7)
    const loaded = await table.fromStateDict({ ...rest, other: bias }, { strict: false, into })
    assert.deepEqual([loaded.missing, loaded.unexpected], [['out.bias'], ['other']])
    assert.equal(loaded.flat[48], 7)
    assert.equal(loaded.flat[16], 1)
    assert.equal(into[16], 7)
  })

  it("initial weights have PyTorch's distributions and depend on the seed and the parameter only", () => {
    const table = new ParameterTable()
    const n = 40_000
    const [first, second, embedding, scale] = [
      table.add('first', [200, 200], uniformFanIn(200)),
      table.add('second', [200, 200], uniformFanIn(200)),
      table.add('embedding', [200, 200], standardNormal),
      table.add('scale', [200], ones),
    ]
    const flat = table.initialize(5)
    const of = ({ offset }: { offset: number }, length = n) => flat.subarray(offset, offset + length)
    const bound = 1 / Math.sqrt(200)
    assert.ok(of(first).every((v) => Math.abs(v) < bound))
    assert.ok(of(first).some((v) => v > 0.999 * bound) && of(first).some((v) => v < -0.999 * bound))
    // Within 4 standard errors.
    const variance = (values: Float32Array) => mean(values.map((v) => v * v))
    assert.ok(Math.abs(mean(of(first))) < (4 * bound) / Math.sqrt(3 * n))
    assert.ok(Math.abs(variance(of(first)) / (bound ** 2 / 3) - 1) < 4 * Math.sqrt(0.8 / n))
    assert.ok(Math.abs(mean(of(embedding))) < 4 / Math.sqrt(n))
    assert.ok(Math.abs(variance(of(embedding)) - 1) < 4 * Math.sqrt(2 / n))
    assert.ok(of(scale, 200).every((v) => v === 1))
    assert.notDeepEqual(of(first), of(second))
    assertSameBits(table.initialize(5), flat, 'the same seed')
    assert.notDeepEqual(table.initialize(6), flat)
  })
})

describe('Weights', () => {
  it('banks are allocated when they are asked for', async () => {
    const device = Device.open('cpu')
    const weights = new Weights(device, smallTable(), 1)
    assert.equal(weights.has('weights'), false)
    assertSameBits(await weights.bank('weights').read(), smallTable().initialize(1), 'weights')
    assert.ok((await weights.bank('m').read()).every((v) => v === 0))
    assert.equal(weights.has('ema'), false)
    weights.copy('weights', 'ema')
    assertSameBits(await weights.bank('ema').read(), await weights.bank('weights').read(), 'ema')
    weights.release()
  })

  it('a write that fails changes nothing, and one that is not strict keeps the rest', async () => {
    const weights = new Weights(Device.open('cpu'), smallTable(), 1)
    const before = await weights.bank('weights').read()
    await assert.rejects(weights.write('weights', { 'out.bias': Tensor.from([3]) }), { code: 'state-mismatch' })
    assertSameBits(await weights.bank('weights').read(), before, 'after a failure')
    const { missing } = await weights.write('weights', { 'out.bias': Tensor.from([3]) }, { strict: false })
    assert.deepEqual(missing, ['conv.weight', 'norm.weight'])
    before[48] = 3
    assertSameBits(await weights.bank('weights').read(), before, 'partly written')
    const dict = await weights.read('weights')
    await weights.write('ema', dict)
    assertSameBits(await weights.bank('ema').read(), before, 'ema')
    weights.release()
  })
})
