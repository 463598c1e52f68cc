/** Hostile files of training images. */
import { gzipSync } from 'node:zlib'
import { cifar, idx, npy, tar, zipped } from '../../data/files'
import { dataSnippets, png } from '../../fuzz/seeds'
import { type Corpus, file, seed } from '../support/input'

const images = npy('|u1', [2, 4, 4], new Uint8Array(32))
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

export const dataCorpus: Corpus = {
  bombs: [
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
    seed('cifar', ['cifar'], 'x.bin', cifar([[1], [2]])),
    seed('idx', ['idx'], 'x-idx3-ubyte', idx([2, 4, 4], new Uint8Array(32))),
    seed('idx.gz', ['idx'], 'x-idx3-ubyte.gz', gzipSync(idx([2, 4, 4], new Uint8Array(32)))),
    seed('tar', ['tar'], 'x.tar', tar({ 'a.png': png, 'a.cls': '1', 'b.png': png, 'b.json': '{"label": 2}' })),
    seed('csv', ['manifest'], 'x.csv', Buffer.from('file,label\n/dev/null,"a"\n')),
  ],
  snippets: dataSnippets,
}
