/** Hostile files of training images. */
import { gzipSync } from 'node:zlib'
import { cifar, idx, npy, tar, zipped } from '../../data/files'
import { type Fields, parquet, snappyOf, type TestColumn, type TestParquet } from '../../data/parquet-file'
import { dataSnippets, png } from '../../fuzz/seeds'
import { type Corpus, file, seed } from '../support/input'

const images = npy('|u1', [2, 4, 4], new Uint8Array(32))
const statistics = zipped({
  ...{ 'mu.npy': npy('<f8', [2], new Float64Array(2)), 'sigma.npy': npy('<f8', [2, 2], new Float64Array(4)) },
  'features.npy': npy('<f4', [3, 2], new Float32Array(6)),
})
const bomb = (reader: string, name: string, fileName: string, bytes: () => Uint8Array | string) =>
  file(`data: ${name}`, [reader], fileName, bytes)

/** A .npy whose header says any shape of any type. */
const shaped = (shape: readonly number[], type = '|u1') => npy(type, shape, new Uint8Array(64))

const shapes = [
  [2 ** 53],
  [2 ** 26, 2 ** 27, 1],
  [64, 1, 1],
  [1, 1, 64],
  [0, 4, 4],
  [1, 64, 1, 1],
  [2 ** 31, 2 ** 31, 0],
  Array(5000).fill(1),
]

const pictures = (o: Partial<TestColumn> = {}, values: readonly (Buffer | null)[] = [png, png, null]): TestColumn => ({
  name: 'image.bytes',
  values,
  ...o,
})
const parquetBomb = (name: string, o: () => TestParquet) =>
  bomb('parquet', `parquet ${name}`, 'x.parquet', () => parquet(o()))

/** The field of this number says something else; `inner` is the number of the struct that it is in. */
const lies =
  (id: number, int: number, inner?: number) =>
  (fields: Fields): Fields =>
    fields.map(([k, v]) => {
      if (inner === undefined) return [k, k === id ? { int } : v]
      return k === inner && 'struct' in v ? [k, { struct: lies(id, int)(v.struct) }] : [k, v]
    })

const zeros = (bytes: number) => Buffer.alloc(bytes)
/** One zero, and copies of it, as long as a tag of Snappy's goes. */
const snappyZeros = (bytes: number) => {
  const copy = (length: number) => Buffer.from([((length - 1) << 2) | 2, 1, 0])
  const rest = (bytes - 1) % 64
  return Buffer.concat([
    snappyOf(zeros(bytes)).subarray(0, 4), // the length, of four bytes
    Buffer.from([0, 0]),
    Buffer.alloc(3 * Math.floor((bytes - 1) / 64), copy(64)),
    rest > 0 ? copy(rest) : zeros(0),
  ])
}

/** Headers that say what is not so, and pages that unfold. */
const parquetBombs = [
  ...[2 ** 31 - 1, 2 ** 28, 2 ** 26, 2 ** 53].flatMap((size) => [
    ...[undefined, { codec: 'snappy' }, { codec: 'gzip' }].map((o, i) =>
      parquetBomb(`page of ${size} unpacked, ${i}`, () => ({
        columns: [pictures(o as Partial<TestColumn>)],
        header: lies(2, size),
      })),
    ),
    parquetBomb(`page of ${size} packed`, () => ({ columns: [pictures()], header: lies(3, size) })),
    parquetBomb(`page of ${size} rows`, () => ({ columns: [pictures()], header: lies(1, size, 5) })),
    parquetBomb(`dictionary of ${size}`, () => ({
      columns: [pictures({ dictionary: true })],
      header: lies(1, size, 7),
    })),
    parquetBomb(`levels of ${size}`, () => ({ columns: [pictures({ v2: true })], header: lies(5, size, 8) })),
    parquetBomb(`${size} rows`, () => ({ columns: [pictures()], footer: lies(3, size) })),
  ]),
  parquetBomb('of zeros in gzip', () => ({
    columns: [pictures({ codec: 'gzip' }, [zeros(2 ** 27), zeros(2 ** 27)])],
    pageRows: 1,
  })),
  parquetBomb('of zeros in many pages', () => ({
    columns: [
      pictures(
        { codec: 'gzip' },
        Array.from({ length: 40 }, (_, i) => zeros(2 ** 22 + i)),
      ),
    ],
    pageRows: 1,
  })),
  parquetBomb('of zeros in snappy', () => ({
    columns: [pictures({ codec: 'snappy', pack: (data) => snappyZeros(data.length) }, [zeros(2 ** 24)])],
  })),
  parquetBomb('of captions of zeros', () => ({
    columns: [pictures(), { name: 'text', codec: 'gzip', values: [zeros(2 ** 27), zeros(2 ** 26), null] }],
  })),
  parquetBomb('of captions of the same zeros', () => ({
    columns: [
      pictures({}, Array(9000).fill(null)),
      { name: 'text', codec: 'gzip', values: Array.from({ length: 9000 }, (_, i) => zeros(5000 + i)) },
    ],
  })),
  parquetBomb('of rows without an image', () => ({ columns: [pictures({}, Array(10_000).fill(null))], pageRows: 1 })),
  parquetBomb('of row groups', () => ({ columns: [pictures({}, Array(10_000).fill(null))], groupRows: 1 })),
  parquetBomb('of columns', () => ({
    columns: [pictures(), ...Array.from({ length: 30_000 }, (_, i) => ({ name: `x${i}`, values: [1, 2, 3] }))],
  })),
  parquetBomb('nested deeply', () => ({ columns: [pictures(), { name: 'x.'.repeat(5000), values: [1, 2, 3] }] })),
  parquetBomb('with a footer of empty structs', () => ({
    columns: [pictures()],
    footer: (fields) => [...fields, [9, { list: Array(2 ** 20).fill({ struct: [] }) }]],
  })),
  parquetBomb('with a page header of empty structs', () => ({
    columns: [pictures()],
    header: (fields) => [...fields, [20, { list: Array(2 ** 18).fill({ struct: [] }) }]],
  })),
  parquetBomb('with a schema in a circle', () => ({
    columns: [pictures()],
    footer: (fields) =>
      fields.map(([k, v]) => [k, k === 2 ? { list: Array(100).fill({ struct: [[5, { int: 2 ** 30 }]] }) } : v]),
  })),
  parquetBomb('with features that are no object', () => ({
    columns: [pictures()],
    features: [['['.repeat(1000), { _type: 3 }]],
  })),
]

export const dataCorpus: Corpus = {
  bombs: [
    ...parquetBombs,
    ...shapes.map((shape, i) => bomb('npy', `npy shape ${i}`, 'x.npy', () => shaped(shape))),
    bomb('npy', 'npy of one line of pixels', 'x.npy', () => npy('|u1', [1, 2 ** 24, 1], new Uint8Array(2 ** 24))),
    bomb('npy', 'npy of the largest image', 'x.npy', () => npy('|u1', [1, 4096, 4096], new Uint8Array(2 ** 24))),
    bomb('npz', 'npz of zeros', 'x.npz', () =>
      zipped({ 'x.npy': npy('|u1', [2 ** 16, 32, 64], new Uint8Array(2 ** 27)) }),
    ),
    bomb('npz', 'npz of labels', 'x.npz', () =>
      zipped({
        'x.npy': npy('|u1', [2 ** 22, 1, 1], new Uint8Array(2 ** 22)),
        'y.npy': npy('|u1', [2 ** 22], new Uint8Array(2 ** 22)),
      }),
    ),
    bomb('statistics', 'statistics of zeros', 'x.npz', () =>
      zipped({
        'mu.npy': npy('<f8', [4096], new Uint8Array(2 ** 15)),
        'sigma.npy': npy('<f8', [4096, 4096], new Uint8Array(2 ** 27)),
      }),
    ),
    bomb('statistics', 'statistics with features of zeros', 'x.npz', () =>
      zipped({
        ...{ 'mu.npy': npy('<f8', [1], new Uint8Array(8)), 'sigma.npy': npy('<f8', [1, 1], new Uint8Array(8)) },
        'features.npy': npy('<f4', [2 ** 25, 1], new Uint8Array(2 ** 27)),
      }),
    ),
    bomb('idx', 'idx of zeros', 'x-idx3-ubyte.gz', () => gzipSync(idx([2 ** 16, 32, 32], new Uint8Array(2 ** 26)))),
    bomb('idx', 'idx of zeros many times', 'x-idx3-ubyte.gz', () => {
      const packed = gzipSync(idx([2, 4, 4], new Uint8Array(32)))
      return Buffer.concat(Array.from({ length: 10_000 }, () => packed))
    }),
    bomb('cifar', 'cifar of zeros', 'x.bin', () => new Uint8Array(3073 * 20_000)),
    bomb('tar', 'tar of empty files', 'x.tar', () =>
      Buffer.concat(Array.from({ length: 100_000 }, () => tar({ 'a.txt': '' }).subarray(0, 512))),
    ),
    bomb('tar', 'tar of long names', 'x.tar', () =>
      tar(Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`${'n/'.repeat(20_000)}${i}.png`, png]))),
    ),
    bomb('tar', 'tar of zeros', 'x.tar', () => new Uint8Array(2 ** 26)),
    bomb('tar', 'tar with a damaged header', 'x.tar', () => {
      const damaged = tar({ 'a.png': '' })
      damaged.write('2', 156)
      return damaged
    }),
    bomb('manifest', 'csv of commas', 'x.csv', () => `file${','.repeat(3e7)}\n`),
    bomb('manifest', 'csv of quotes', 'x.csv', () => `file\n"${'""'.repeat(1e7)}`),
    bomb('manifest', 'csv of devices', 'x.csv', () => 'file\n/dev/zero\n/dev/stdin\n.\n'),
    bomb('manifest', 'jsonl deep', 'x.jsonl', () => `{"file":${'['.repeat(2e6)}`),
    bomb('manifest', 'jsonl of lines', 'x.jsonl', () => '\n'.repeat(3e7)),
  ],
  seeds: [
    seed('npy', ['npy'], 'x.npy', images),
    seed('npz', ['npz'], 'x.npz', zipped({ 'x.npy': images, 'y.npy': npy('|u1', [2], Uint8Array.of(0, 1)) })),
    seed('statistics', ['statistics'], 'x.npz', statistics),
    seed('cifar', ['cifar'], 'x.bin', cifar([[1], [2]])),
    seed('idx', ['idx'], 'x-idx3-ubyte', idx([2, 4, 4], new Uint8Array(32))),
    seed('idx.gz', ['idx'], 'x-idx3-ubyte.gz', gzipSync(idx([2, 4, 4], new Uint8Array(32)))),
    seed('tar', ['tar'], 'x.tar', tar({ 'a.png': png, 'a.cls': '1', 'b.png': png, 'b.json': '{"label": 2}' })),
    ...[{}, { codec: 'snappy', dictionary: true }, { codec: 'gzip', v2: true }].map((o, i) =>
      seed(`parquet ${i}`, ['parquet'], 'x.parquet', parquet({ columns: [pictures(o as Partial<TestColumn>)] })),
    ),
    seed('csv', ['manifest'], 'x.csv', Buffer.from('file,label\n/dev/null,"a"\n')),
  ],
  snippets: dataSnippets,
}
