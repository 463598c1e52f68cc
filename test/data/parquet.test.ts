// Parquet files of images: what this test's writer makes, and files of arrow-rs, which nothing here wrote.
import assert from 'node:assert/strict'
import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'
import { readHybrid } from '../../lib/data/parquet/hybrid'
import { blockBytes, readLength, unpackSnappy } from '../../lib/data/parquet/snappy'
import { Dataset, type DatasetOptions, DiffusionError, type DiffusionErrorCode } from '../../lib/index'
import { temporaryFolder } from '../train/support'
import { type Fields, parquet, snappyOf, type TestColumn, type TestParquet } from './parquet-file'

const fixtures = path.join(__dirname, '..', '..', '..', 'test', 'fixtures', 'parquet')

describe('Parquet', () => {
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const write = (name: string, data: Buffer | TestParquet) => {
    writeFileSync(at(name), Buffer.isBuffer(data) ? data : parquet(data))
    return at(name)
  }

  /** In the order of the rows: red of the first pixel, class and caption. */
  async function rows(file: string, o: Partial<DatasetOptions> = {}) {
    const data = await Dataset.open(file, { size: 8, ...o })
    const { images, labels, captions } = await data.batch(0, data.length)
    const size = images.length / data.length
    const all = Array.from({ length: data.length }, (_, g) => ({
      name: data.fileOf(g),
      red: Math.round((images[g * size] + 1) * 127.5),
      className: labels && data.classNames![labels[g]],
      caption: captions?.[g],
    })).sort((a, b) => a.name.localeCompare(b.name, 'en', { numeric: true }))
    const column = <K extends keyof (typeof all)[number]>(key: K) => all.map((row) => row[key])
    return { reds: column('red'), classes: column('className'), captions: column('caption'), data }
  }

  const refused = (
    file: string,
    reason: RegExp,
    o: Partial<DatasetOptions> = {},
    code: DiffusionErrorCode = 'bad-file',
  ) =>
    assert.rejects(rows(file, o), (error) => {
      assert.ok(error instanceof DiffusionError, String(error))
      assert.equal(error.code, code, error.message)
      assert.match(error.message, reason)
      assert.ok(error.message.includes(path.basename(file)) && !error.message.includes('\n'), error.message)
      return true
    })

  /** One colour, of this red. */
  const png = (red: number) =>
    sharp({ create: { width: 8, height: 8, channels: 3, background: { r: red, g: 9, b: 99 } } })
      .png()
      .toBuffer()
  const reds = [10, 20, 20, 30, 40, 50]
  let pngs: Buffer[]
  before(async () => {
    pngs = await Promise.all(reds.map(png))
  })

  const picture = { _type: 'Image' }
  const features = { picture, label: { _type: 'ClassLabel', names: ['cat', 'dog', 'owl'] } }
  const labelled = (o: Partial<TestColumn> = {}): TestColumn[] => [
    { name: 'picture.bytes', values: pngs, ...o },
    { name: 'label', values: [0, 2, 2, 0, 2, 0], ...o },
    { name: 'caption', values: ['a', null, 'b', 'ü', '', 'a'], ...o },
  ]

  for (const codec of ['none', 'snappy', 'gzip'] as const) {
    for (const dictionary of [false, true]) {
      for (const v2 of [false, true]) {
        it(`packed by ${codec}${dictionary ? ', in dictionaries' : ''}, pages of version ${v2 ? 2 : 1}`, async () => {
          const columns = labelled({ codec, dictionary, v2 })
          const file = write('a.parquet', { columns, groupRows: 4, pageRows: 3, features })
          const found = await rows(file, { classes: 'labels' })
          assert.deepEqual(found.reds, reds)
          assert.deepEqual(found.data.classNames, ['cat', 'dog', 'owl'])
          assert.deepEqual(found.classes, ['cat', 'owl', 'owl', 'cat', 'owl', 'cat'])
          assert.deepEqual(found.captions, ['a', '', 'b', 'ü', '', 'a'])
          assert.equal(found.data.unreadable.length, 0)
        })
      }
    }
  }

  describe('of arrow-rs', () => {
    for (const name of ['arrow_plain', 'arrow_zstd_v2']) {
      it(name, async () => {
        const found = await rows(path.join(fixtures, `${name}.parquet`), { classes: 'labels' })
        assert.deepEqual(found.reds, [0, 31, 62, 93])
        assert.deepEqual(found.classes, ['cat', 'dog', 'cat', 'dog'])
        assert.deepEqual(found.captions, ['picture 0', 'picture 1', 'picture 2', 'picture 3'])
      })
    }

    it('arrow_snappy, with an image that lies across blocks', async () => {
      const data = await Dataset.open(path.join(fixtures, 'arrow_snappy.parquet'), { size: 160 })
      const { images } = await data.batch(0, data.length)
      const size = 160 * 160
      const noise = (k: number) => Math.imul(Math.imul(k + 1, 2654435761) ^ (k >> 3), 2246822519) >>> 24
      const expected = Float32Array.from({ length: 3 * size }, (_, i) => noise((i % size) * 3 + Math.floor(i / size)))
      let found = 0
      for (let g = 0; g < data.length; g++) {
        if (!['1', '4'].includes(data.fileOf(g))) continue
        const image = images.subarray(g * 3 * size, (g + 1) * 3 * size)
        assert.deepEqual(
          image.map((v) => Math.round((v + 1) * 127.5)),
          expected,
        )
        found++
      }
      assert.equal(found, 2)
      assert.equal(data.unreadable.length, 0)
    })
  })

  it('plain binary, and labels that are words or numbers without names', async () => {
    const words = { name: 'label', values: ['b', 'a', 'a', 'b', 'b', 'a'] }
    const file = write('words.parquet', { columns: [{ name: 'img', values: pngs }, words] })
    const found = await rows(file, { classes: 'labels' })
    assert.deepEqual([found.reds, found.classes, found.captions[0]], [reds, words.values, undefined])
    const numbers = { name: 'label', values: [10, 9, 9, 10, 9, 9] }
    const numbered = write('numbers.parquet', { columns: [{ name: 'image', values: pngs }, numbers] })
    assert.deepEqual((await rows(numbered, { classes: 'labels' })).data.classNames, ['9', '10'])
    assert.notEqual((await rows(numbered)).data.fingerprint, (await rows(file)).data.fingerprint)
  })

  it('a class label of another name', async () => {
    const columns = [
      { name: 'image', values: pngs },
      { name: 'fine_label', values: [0, 1, 0, 1, 0, 1] },
    ]
    const file = write('fine.parquet', {
      columns,
      features: { fine_label: { _type: 'ClassLabel', names: ['x', 'y'] } },
    })
    assert.deepEqual((await rows(file, { classes: 'labels' })).classes, ['x', 'y', 'x', 'y', 'x', 'y'])
  })

  it('shards are one source, one split by its name', async () => {
    mkdirSync(at('data'))
    const shard = (name: string, from: number, to: number) => {
      const columns = labelled().map((column) => ({ ...column, values: column.values.slice(from, to) }))
      write(path.join('data', name), { columns, features })
    }
    shard('train-00000-of-00002-0123456789abcdef.parquet', 0, 4)
    const lacks = /lacks a file of train: number 1 of 2, counted from 0/
    await refused(at('data'), lacks, {}, 'not-found')
    shard('train-00001-of-00002-0123456789abcdef.parquet', 4, 6)
    const all = await rows(at('data'), { classes: 'labels' })
    assert.deepEqual([all.reds, all.classes.at(-1)], [reds, 'cat'])
    assert.equal(all.data.fileOf(all.data.length).split('/').length, 2)
    shard('test-00000-of-00001.parquet', 0, 2)
    await refused(
      at('data'),
      /has several splits \(test, train\): name one, such as .*data.test/,
      {},
      'invalid-argument',
    )
    assert.deepEqual((await rows(at('data', 'train'))).reds, reds)
    assert.deepEqual((await rows(at('data', 'test'))).reds, reds.slice(0, 2))
  })

  it('of rows without an image that can be read, which are left out', async () => {
    const values = [pngs[0], null, Buffer.from('text'), Buffer.alloc(0), pngs[1].subarray(0, 60), pngs[5]]
    const { data } = await rows(write('some.parquet', { columns: [{ name: 'image.bytes', values }] }))
    const found = data.unreadable.map(({ file, reason }) => `${file}: ${reason}`).sort()
    assert.deepEqual(
      found.map((line) => line[0]),
      ['1', '2', '3', '4'],
    )
    assert.match(found[0], /some\.parquet: row 1 has no bytes/)
    assert.match(found[1], /some\.parquet: 2: it is neither PNG, JPEG/)
  })

  it('are refused with the reason', async () => {
    const columns = labelled({ codec: 'snappy' })
    const good = parquet({ columns, features })
    await refused(write('cut.parquet', good.subarray(0, -9)), /it ends with .* instead of PAR1: it is truncated/)
    await refused(write('short.parquet', good.subarray(0, 7)), /it has 7 bytes: it is truncated/)
    await refused(
      write('magic.parquet', Buffer.concat([Buffer.from('x'), good])),
      /it begins with 'xPAR' instead of PAR1/,
    )
    await refused(
      write('middle.parquet', Buffer.concat([good.subarray(0, 4), good.subarray(90)])),
      /does not lie within it|no whole header|damaged/,
    )
    const [image, label] = columns
    await refused(
      write('column.parquet', { columns: [{ ...label, name: 'y' }] }),
      /it has no column of images, such as 'image' or 'image.bytes' in binary: it has y/,
    )
    await refused(write('list.parquet', { columns: [{ ...image, repeated: true }] }), /it has no column of images/)
    const ofLabels = (...values: (number | null)[]) => ({
      columns: [
        { ...image, values: pngs.slice(0, values.length) },
        { ...label, values },
      ],
    })
    const o = { classes: 'labels' }
    await refused(
      write('range.parquet', { ...ofLabels(0, 3), features }),
      /the label of image 1 is 3, beyond its 3 classes/,
      o,
    )
    await refused(
      write('negative.parquet', { ...ofLabels(0, -1), features: { picture } }),
      /the label of row 1 is '-1', which is out of range/,
      o,
    )
    await refused(write('none.parquet', { ...ofLabels(0, null), features }), /row 1 has no label/, o)
    const zero = (fields: Fields, id: number, int: number): Fields =>
      fields.map(([k, v]) => [k, k === id ? { int } : v])
    const footer = (fields: Fields) => zero(fields, 3, 2 ** 40)
    await refused(write('rows.parquet', { columns, footer }), /it says that it has 1099511627776 rows, in \d+ bytes/)
    await refused(
      write('many.parquet', { columns, footer: (f) => zero(f, 3, 7) }),
      /has 7 rows, and its row groups have 6/,
    )
  })

  it('are refused before what their headers say is allocated', async () => {
    const columns = labelled({ codec: 'snappy' })
    const change = (id: number, int: number) => (fields: Fields) =>
      fields.map(([k, v]) => [k, k === id ? { int } : v] as const)
    await refused(
      write('unpacked.parquet', { columns, features, header: change(2, 2 ** 31 - 1) }),
      /takes \d+ bytes to unpack, more than maxDecodeBytes/,
    )
    await refused(
      write('packed.parquet', { columns, features, header: change(3, 2 ** 31 - 1) }),
      /a page of it does not lie within its column/,
    )
    const inner =
      (int: number) =>
      (fields: Fields): Fields =>
        fields.map(([k, v]) => (k === 5 && 'struct' in v ? [k, { struct: change(1, int)(v.struct) }] : [k, v]))
    await refused(
      write('values.parquet', { columns, features, header: inner(2 ** 31 - 1) }),
      /another number of rows than it says/,
    )
  })

  it('snappy: copies, also of what they make, and blocks that are for themselves', () => {
    // 'abc', then 9 bytes from 3 before: a copy of its own output.
    const out = new Uint8Array(12)
    const data = Buffer.from([12, 2 << 2, 97, 98, 99, (5 << 2) | 1, 3])
    assert.deepEqual(readLength(data), { length: 12, at: 1 })
    assert.ok(unpackSnappy(data, 1, out))
    assert.equal(Buffer.from(out).toString(), 'abcabcabcabc')
    for (const wrong of [
      [12, 2 << 2, 97, 98, 99, (5 << 2) | 1, 4],
      [12, 2 << 2, 97, 98, 99, (6 << 2) | 1, 3],
      [12, 2 << 2, 97, 98, 99],
      [12, 63 << 2],
    ]) {
      assert.equal(unpackSnappy(Buffer.from(wrong), 1, new Uint8Array(12)), undefined, String(wrong))
    }
    const large = Buffer.from(Array.from({ length: 2 * blockBytes + 5 }, (_, i) => (i * i) >> 3))
    const packed = snappyOf(large)
    const whole = new Uint8Array(large.length)
    const { blocks } = unpackSnappy(packed, readLength(packed)!.at, whole)!
    assert.deepEqual(Buffer.from(whole), large)
    const second = new Uint8Array(blockBytes)
    assert.ok(unpackSnappy(packed.subarray(blocks![1], blocks![2]), 0, second))
    assert.deepEqual(Buffer.from(second), large.subarray(blockBytes, 2 * blockBytes))
    // The last two bytes are those 65537 before.
    const far = Buffer.concat([snappyOf(large), Buffer.from([(1 << 2) | 3, 1, 0, 1, 0])])
    const longer = new Uint8Array(large.length + 2)
    assert.deepEqual(unpackSnappy(far, readLength(far)!.at, longer), {})
    assert.deepEqual([...longer.subarray(-2)], [...large.subarray(longer.length - 2 - 65537, longer.length - 65537)])
  })

  it('levels and indices: runs and packed bits of every width', () => {
    for (let width = 0; width <= 32; width++) {
      const limit = 2 ** width
      const values = Array.from({ length: 16 }, (_, i) => (i * 2654435761 + 77) % limit)
      const bits = values
        .map((v) =>
          v
            .toString(2)
            .padStart(width, '0')
            .slice(-width || 32),
        )
        .reverse()
        .join('')
      const packed =
        width === 0
          ? []
          : bits
              .match(/.{8}/g)!
              .map((byte) => Number.parseInt(byte, 2))
              .reverse()
      const run = Array.from({ length: Math.ceil(width / 8) }, (_, b) => Math.floor((limit - 1) / 256 ** b) % 256)
      const bytes = Uint8Array.from([5, ...packed, 6, ...run])
      assert.deepEqual(
        readHybrid(bytes, width, 19),
        Uint32Array.from([...values, limit - 1, limit - 1, limit - 1]),
        `${width} bits`,
      )
      assert.equal(readHybrid(bytes, width, 20), undefined)
      if (width > 0) assert.equal(readHybrid(bytes.subarray(0, -1), width, 19), undefined)
    }
  })

  it('of a page whose snappy blocks need one another', async () => {
    const noise = Buffer.from(Array.from({ length: 200 * 200 * 3 }, (_, k) => Math.imul(k + 1, 2654435761) >>> 24))
    const image = await sharp(noise, { raw: { width: 200, height: 200, channels: 3 } })
      .png({ compressionLevel: 0 })
      .toBuffer()
    const one = (data: Buffer) => snappyOf(data, data.length)
    const columns = [{ name: 'image', values: [...pngs, image], codec: 'snappy', pack: one } as const]
    assert.deepEqual((await rows(write('dependent.parquet', { columns }))).reds.slice(0, 6), reds)
  })
})
