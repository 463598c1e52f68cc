import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { halfToFloat } from '../../lib/checkpoint/dtypes'
import {
  readSafetensors,
  readSafetensorsHeader,
  type StoredTensor,
  writeSafetensors,
} from '../../lib/checkpoint/safetensors'
import { DiffusionError } from '../../lib/errors'
import { Random } from '../support/random'

/** A file of this header (an object, or text as it is) and this much data. */
function fileOf(header: unknown, data: Uint8Array | number = 0): Uint8Array {
  const text = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  return Buffer.concat([length, text, typeof data === 'number' ? Buffer.alloc(data) : data])
}

const bytesOf = (array: Float64Array | Uint16Array) => new Uint8Array(array.buffer)

const sample: Record<string, StoredTensor> = {
  bytes: { dtype: 'U8', shape: [3], data: Uint8Array.of(1, 2, 255) },
  flags: { dtype: 'BOOL', shape: [2], data: Uint8Array.of(0, 1) },
  weight: { dtype: 'F32', shape: [2, 3], data: Float32Array.of(0, -0, 1.5, Number.NaN, Infinity, 1e-45) },
  scalar: { dtype: 'F32', shape: [], data: Float32Array.of(3) },
  nothing: { dtype: 'F32', shape: [0, 4], data: new Float32Array(0) },
  step: { dtype: 'I64', shape: [1], data: BigInt64Array.of(-(2n ** 60n)) },
  labels: { dtype: 'I32', shape: [2], data: Int32Array.of(-1, 7) },
  ['__proto__']: { dtype: 'F32', shape: [1], data: Float32Array.of(4) },
  '12': { dtype: 'F32', shape: [1], data: Float32Array.of(5) },
  'ä"\\\n': { dtype: 'F32', shape: [1], data: Float32Array.of(6) },
}

describe('safetensors', () => {
  let folder: string
  before(async () => {
    folder = await mkdtemp(path.join(os.tmpdir(), 'ddpm-safetensors-'))
  })
  after(() => rm(folder, { recursive: true }))

  const bad = (bytes: Uint8Array, message: RegExp) =>
    assert.rejects(readSafetensors(bytes), { name: 'DiffusionError', code: 'bad-file', message })

  it('what was written is read, from a file and from bytes', async () => {
    const file = path.join(folder, 'sample.safetensors')
    await writeSafetensors(file, sample, { config: '{"a": 1}', ö: '' })
    for (const source of [file, await readFile(file)]) {
      const { tensors, metadata } = await readSafetensors(source)
      assert.deepEqual(metadata, { config: '{"a": 1}', ö: '' })
      assert.deepEqual(Object.keys(tensors).sort(), Object.keys(sample).sort())
      for (const [name, tensor] of Object.entries(tensors)) assert.deepEqual(tensor, sample[name], name)
    }
    const { entries, metadata } = await readSafetensorsHeader(file)
    assert.equal(metadata.config, '{"a": 1}')
    assert.deepEqual(
      entries.find(({ name }) => name === 'weight'),
      { name: 'weight', dtype: 'F32', shape: [2, 3] },
    )
    assert.deepEqual(await readdir(folder), ['sample.safetensors'])
  })

  it('the data starts aligned and wide elements come first', async () => {
    const file = path.join(folder, 'aligned.safetensors')
    await writeSafetensors(file, sample)
    const bytes = await readFile(file)
    const length = Number(bytes.readBigUInt64LE())
    assert.equal(length % 8, 0)
    for (const entry of Object.values(JSON.parse(bytes.toString('utf8', 8, 8 + length)))) {
      const { dtype, data_offsets: offsets } = entry as { dtype: string; data_offsets: number[] }
      assert.equal(offsets[0] % { F32: 4, I32: 4, I64: 8, U8: 1, BOOL: 1 }[dtype]!, 0)
    }
  })

  it('an empty file of tensors', async () => {
    const file = path.join(folder, 'empty.safetensors')
    await writeSafetensors(file, {})
    const { tensors, metadata } = await readSafetensors(file)
    assert.deepEqual([Object.keys(tensors), metadata], [[], {}])
  })

  it('F16, BF16 and F64 become float32', async () => {
    const entry = (dtype: string, n: number, begin: number, size: number) => ({
      dtype,
      shape: [n],
      data_offsets: [begin, begin + n * size],
    })
    const halves = Uint16Array.of(0x3c00, 0xc000, 0x0001, 0x7bff, 0x7c00, 0x7e00)
    const brains = Uint16Array.of(0x3f80, 0xbfc0, 0x7f80, 0x0001)
    const doubles = Float64Array.of(0.1, 1e300, -2)
    const header = { f: entry('F64', 3, 0, 8), h: entry('F16', 6, 24, 2), b: entry('BF16', 4, 36, 2) }
    const data = Buffer.concat([bytesOf(doubles), bytesOf(halves), bytesOf(brains)])
    const { tensors } = await readSafetensors(fileOf(header, data))
    assert.deepEqual([...tensors.h.data], [1, -2, 2 ** -24, 65504, Infinity, Number.NaN])
    assert.deepEqual([...tensors.b.data], [1, -1.5, Infinity, 2 ** -133])
    assert.deepEqual([...tensors.f.data], [Math.fround(0.1), Infinity, -2])
    assert.ok(Object.is(halfToFloat(0x8000), -0))
    assert.equal(halfToFloat(0x03ff), 1023 * 2 ** -24)
  })

  it('conversions in several pieces', async () => {
    const n = 600_001
    const values = Uint16Array.from({ length: n }, (_, i) => i % 0x7c00)
    const bytes = fileOf({ h: { dtype: 'F16', shape: [n], data_offsets: [0, 2 * n] } }, bytesOf(values))
    const file = path.join(folder, 'half.safetensors')
    await writeFile(file, bytes)
    for (const source of [file, bytes]) {
      const { data } = (await readSafetensors(source)).tensors.h
      assert.ok((data as Float32Array).every((v, i) => v === halfToFloat(values[i])))
    }
  })

  it('headers that do not fit the file are refused', async () => {
    const f32 = (shape: unknown, begin: unknown, end: unknown) => ({ dtype: 'F32', shape, data_offsets: [begin, end] })
    await bad(new Uint8Array(0), /0 bytes/)
    await bad(new Uint8Array(7), /7 bytes/)
    await bad(new Uint8Array(8).fill(255), /header's length, 18446744073709551615/)
    await bad(Uint8Array.of(2, 0, 0, 0, 0, 0, 0, 0, 123), /header's length, 2,/)
    await bad(fileOf('{"a"'), /not JSON/)
    await bad(fileOf('[]'), /not a JSON object/)
    await bad(fileOf('null'), /not a JSON object/)
    await bad(fileOf(' {}'), /not a JSON object/)
    await bad(Uint8Array.of(4, 0, 0, 0, 0, 0, 0, 0, 0x7b, 0x22, 0xff, 0x7d), /not JSON/)
    await bad(fileOf({ a: 1 }), /'a' is not an object/)
    await bad(fileOf({ a: { dtype: 'F33', shape: [1], data_offsets: [0, 4] } }, 4), /dtype of 'a' is 'F33'/)
    await bad(fileOf({ a: { dtype: 'toString', shape: [1], data_offsets: [0, 4] } }, 4), /dtype of 'a'/)
    await bad(fileOf({ a: f32([-1], 0, 4) }, 4), /shape of 'a'/)
    await bad(fileOf({ a: f32([1.5], 0, 6) }, 6), /shape of 'a'/)
    await bad(fileOf({ a: f32(1, 0, 4) }, 4), /shape of 'a'/)
    await bad(fileOf({ a: f32([1], '0', 4) }, 4), /data_offsets of 'a'/)
    await bad(fileOf({ a: f32([1], 4, 0) }, 4), /data_offsets of 'a'/)
    await bad(fileOf({ a: { dtype: 'F32', shape: [1], data_offsets: [0, 4, 4] } }, 4), /data_offsets of 'a'/)
    await bad(fileOf({ a: f32([2], 0, 4) }, 4), /needs 8 bytes, not 4/)
    await bad(fileOf({ a: f32([2 ** 31, 2 ** 31, 2 ** 31], 0, 4) }, 4), /needs .* bytes, not 4/)
    await bad(fileOf({ a: f32([2 ** 52], 0, 2 ** 54) }, 4), /data_offsets of 'a'/)
    await bad(fileOf({ a: f32([2 ** 50], 0, 2 ** 52) }, 4), /need 4503599627370496 bytes/)
    await bad(fileOf({ a: f32([2], 0, 8) }, 4), /need 8 bytes of data, but it has 4/)
    await bad(fileOf({ a: f32([1], 0, 4) }, 8), /need 4 bytes of data, but it has 8/)
    await bad(fileOf({ a: f32([1], 4, 8) }, 8), /bytes 0 to 4/)
    await bad(fileOf({ a: f32([2], 0, 8), b: f32([1], 4, 8) }, 8), /'b' overlaps/)
    await bad(fileOf({ a: f32([1], 0, 4), b: f32([1], 8, 12) }, 12), /bytes 4 to 8/)
    await bad(fileOf({ __metadata__: { a: 1 } }), /__metadata__/)
    await bad(fileOf({ __metadata__: 'x' }), /__metadata__/)
    const entry = JSON.stringify(f32([1], 0, 4))
    await bad(fileOf(`{"a":${entry},"a":${entry}}`, 4), /'a' twice/)
    await bad(fileOf(`{"a":${entry},"\\u0061":${entry}}`, 4), /'a' twice/)
    await bad(fileOf('{"__metadata__":{"k":"{\\"x\\":1","k":"2"}}'), /'k' twice/)
  })

  it('a header that would unfold to much memory is refused', async () => {
    await bad(fileOf(`{"a":[${'{},'.repeat(1_000_000)}0]}`), /unfolds/)
    await bad(fileOf(`{"a":${'['.repeat(1_000_000)}`), /nested more than 64 deep/)
  })

  it('every truncation is refused', async () => {
    const file = path.join(folder, 'whole.safetensors')
    await writeSafetensors(file, sample, { note: 'x' })
    const bytes = await readFile(file)
    for (let length = 0; length < bytes.length; length++) await bad(bytes.subarray(0, length), /./)
    await bad(Buffer.concat([bytes, Buffer.alloc(1)]), /./)
  })

  it('random changes are read or refused, and never take more memory than the file', async () => {
    const file = path.join(folder, 'mutate.safetensors')
    await writeSafetensors(file, sample, { note: 'x' })
    const original = await readFile(file)
    const random = new Random(11)
    const pick = (n: number) => Math.floor(random.uniform() * n)
    const snippets = ['"', '{', '}', '[', ']', ',', ':', '9', '-', 'e9', '0', 'null', '\\', 'F64', 'BF16'].map((s) =>
      Buffer.from(s),
    )
    for (let round = 0; round < 4000; round++) {
      let bytes: Buffer = Buffer.from(original)
      for (let edits = 1 + pick(3); edits > 0; edits--) {
        const at = random.uniform() < 0.2 ? pick(8) : pick(bytes.length)
        const kind = pick(4)
        if (kind === 0) bytes[at] = pick(256)
        else if (kind === 1) bytes[at] ^= 1 << pick(8)
        else if (kind === 2) bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + pick(20))])
        else snippets[pick(snippets.length)].copy(bytes, at)
        if (bytes.length === 0) bytes = Buffer.alloc(1)
      }
      try {
        const { tensors } = await readSafetensors(bytes)
        const size = Object.values(tensors).reduce((sum, { data }) => sum + data.byteLength, 0)
        assert.ok(size <= 2 * bytes.length, `${size} bytes of tensors from ${bytes.length}`)
      } catch (error) {
        assert.ok(error instanceof DiffusionError && error.code === 'bad-file', String(error))
      }
    }
  })

  it('files that can not be read', async () => {
    await assert.rejects(readSafetensors(path.join(folder, 'none.safetensors')), { code: 'not-found' })
    await assert.rejects(readSafetensors(folder), { name: 'DiffusionError', code: /^(bad-file|io)$/ })
    await assert.rejects(readSafetensors(7 as unknown as string), { code: 'invalid-argument' })
    if (process.platform !== 'win32') await assert.rejects(readSafetensors('/dev/zero'), { code: 'bad-file' })
  })

  it('tensors that can not be written', async () => {
    const file = path.join(folder, 'never.safetensors')
    const rejects = (tensor: object, code: string, name = 'a') =>
      assert.rejects(writeSafetensors(file, { [name]: tensor as StoredTensor }), { name: 'DiffusionError', code })
    const data = Float32Array.of(1)
    await rejects({ dtype: 'BF16', shape: [1], data }, 'unsupported')
    await rejects({ dtype: 'F16', shape: [1], data: Float64Array.of(1) }, 'invalid-argument')
    await rejects({ dtype: 'I64', shape: [1], data }, 'invalid-argument')
    await rejects({ dtype: 'F32', shape: [2], data }, 'invalid-argument')
    await rejects({ dtype: 'F32', shape: [-1, -1], data }, 'invalid-argument')
    await rejects({ dtype: 'F32', shape: [1], data }, 'invalid-argument', '__metadata__')
    await assert.rejects(writeSafetensors(file, {}, { a: 1 as unknown as string }), { code: 'invalid-argument' })
    await assert.rejects(readFile(file), { code: 'ENOENT' })
  })

  it('a folder that does not exist can not be written to', async () => {
    const file = path.join(folder, 'missing', 'a.safetensors')
    await assert.rejects(writeSafetensors(file, sample), { name: 'DiffusionError', code: 'io', received: file })
  })

  it('a full disk keeps the previous file', async function () {
    const disk = path.join(folder, 'disk')
    spawnSync('mkdir', [disk])
    if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', disk]).status !== 0) {
      console.log('      (skipped: a small file system can only be mounted by root)')
      this.skip()
    }
    try {
      const file = path.join(disk, 'model.safetensors')
      await writeSafetensors(file, sample)
      const large = { a: { dtype: 'F32', shape: [50_000], data: new Float32Array(50_000) } } as const
      await assert.rejects(writeSafetensors(file, large), { code: 'io', message: /disk is full/ })
      assert.equal(Object.keys((await readSafetensors(file)).tensors).length, Object.keys(sample).length)
      assert.deepEqual(await readdir(disk), ['model.safetensors'])
    } finally {
      spawnSync('umount', [disk])
    }
  })
})
