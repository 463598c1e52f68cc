import assert from 'node:assert/strict'
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { gzipSync } from 'node:zlib'
import { writeNpz } from '../../lib/data/npz'
import { Dataset, type DatasetOptions, DiffusionError, type DiffusionErrorCode } from '../../lib/index'
import { temporaryFolder, writeImages } from '../train/support'
import { cifar, idx, npy, tar, zipped } from './files'

describe('sources of images', () => {
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const write = (name: string, data: Buffer | string) => {
    writeFileSync(at(name), data)
    return at(name)
  }
  type Opened = { images: Float32Array[]; classes: string[]; captions: string[]; data: Dataset }

  /** Items in the file's order, with the names of their classes. */
  async function items(file: string, o: Partial<DatasetOptions> = {}): Promise<Opened> {
    const data = await Dataset.open(file, { size: 4, channels: 1, ...o })
    const { images, labels, captions } = await data.batch(0, data.length)
    const size = images.length / data.length
    const all = Array.from({ length: data.length }, (_, g) => ({
      name: data.fileOf(g),
      image: images.subarray(g * size, (g + 1) * size),
      className: labels ? data.classNames![labels[g]] : '',
      caption: captions?.[g] ?? '',
    })).sort((a, b) => a.name.localeCompare(b.name, 'en', { numeric: true }))
    return {
      images: all.map(({ image }) => image),
      classes: all.map(({ className }) => className),
      captions: all.map(({ caption }) => caption),
      data,
    }
  }

  /** One line, with the file and the reason. */
  const refused = (
    file: string,
    reason: RegExp,
    o: Partial<DatasetOptions> = {},
    code: DiffusionErrorCode = 'bad-file',
  ) =>
    assert.rejects(items(file, o), (error) => {
      assert.ok(error instanceof DiffusionError, String(error))
      assert.equal(error.code, code, error.message)
      assert.match(error.message, reason)
      assert.ok(error.message.includes(path.basename(file)) && !error.message.includes('\n'), error.message)
      return true
    })

  const bytes = (n: number) => Uint8Array.from({ length: n }, (_, i) => (i * 37) % 256)
  const signed = (data: ArrayLike<number>) => Float32Array.from(data, (v) => v / 127.5 - 1)

  describe('.npy', () => {
    it('are grey images, or have channels last or first, as the model has', async () => {
      const data = bytes(3 * 16)
      const grey = await items(write('grey.npy', npy('|u1', [3, 4, 4], data)))
      assert.deepEqual(
        grey.images,
        [0, 16, 32].map((from) => signed(data.subarray(from, from + 16))),
      )
      const five = bytes(2 * 80)
      const first = await items(write('first.npy', npy('|u1', [2, 5, 4, 4], five)), { channels: 5 })
      assert.deepEqual(
        first.images,
        [0, 80].map((from) => signed(five.subarray(from, from + 80))),
      )
      const turned = Uint8Array.from(
        { length: 160 },
        (_, i) => five[Math.floor(i / 80) * 80 + (i % 5) * 16 + (Math.floor(i / 5) % 16)],
      )
      assert.deepEqual(
        (await items(write('last.npy', npy('|u1', [2, 4, 4, 5], turned)), { channels: 5 })).images,
        first.images,
      )
      assert.notEqual(first.data.fingerprint, grey.data.fingerprint)
    })

    it('keep 16 bits and floats, whose range must be said', async () => {
      const words = Uint16Array.from({ length: 16 }, (_, i) => i * 4000 + 1)
      assert.deepEqual(
        (await items(write('words.npy', npy('<u2', [1, 4, 4], words)))).images[0],
        Float32Array.from(words, (v) => v / 32767.5 - 1),
      )
      for (const [type, Kind] of [
        ['<f4', Float32Array],
        ['<f8', Float64Array],
      ] as const) {
        const floats = new Kind(16).map((_: number, i: number) => i / 15)
        const file = write('floats.npy', npy(type, [1, 4, 4], floats))
        assert.deepEqual((await items(file, { range: [-1, 1] })).images[0], Float32Array.from(floats))
        assert.deepEqual(
          (await items(file, { range: [0, 1] })).images[0],
          Float32Array.from(floats, (v) => Math.fround((v - 0) / 0.5 - 1)),
        )
        await refused(file, /range must be \[0, 1\] or \[-1, 1\]/, {}, 'invalid-argument')
        floats[3] = -0.5
        await refused(
          write('below.npy', npy(type, [1, 4, 4], floats)),
          /image 0 has numbers outside of the range, 0 to 1/,
          { range: [0, 1] },
          'invalid-argument',
        )
      }
    })

    it('may be of half precision', async () => {
      const halves = Uint16Array.from({ length: 16 }, (_, i) => [0, 0x3400, 0x3800, 0x3c00][i % 4]) // 0, 1/4, 1/2, 1
      const { images } = await items(write('halves.npy', npy('<f2', [1, 4, 4], halves)), { range: [0, 1] })
      assert.deepEqual([...images[0].subarray(0, 4)], [-1, -0.5, 0, 1])
    })

    it('of another size are scaled', async () => {
      const { images } = await items(write('large.npy', npy('|u1', [1, 8, 12], new Uint8Array(96).fill(255))))
      assert.deepEqual(images[0], new Float32Array(16).fill(1))
    })

    it('are refused with the reason', async () => {
      const good = npy('|u1', [2, 4, 4], bytes(32))
      await refused(
        write('cut.npy', good.subarray(0, -1)),
        /shape \[2, 4, 4\] and type 'u1' has 31 bytes: it is truncated/,
      )
      await refused(write('magic.npy', Buffer.concat([Buffer.from('x'), good])), /does not begin as \.npy/)
      await refused(
        write('rank.npy', npy('|u1', [32], bytes(32))),
        /its shape is \[32\]: images are \[n, height, width\]/,
      )
      await refused(write('rank5.npy', npy('|u1', [1, 2, 1, 4, 4], bytes(32))), /its shape is \[1, 2, 1, 4, 4\]/)
      await refused(write('type.npy', npy('<i4', [2, 2, 2], bytes(32))), /its numbers are '<i4'/)
      await refused(write('fortran.npy', npy('|u1', [2, 4, 4], bytes(32), true)), /Fortran's order/)
      await refused(
        write('two.npy', npy('|u1', [2, 4, 4, 2], bytes(64))),
        /neither its last axis nor its second is of 3 channels/,
        { channels: 3 },
      )
      await refused(write('none.npy', npy('|u1', [0, 4, 4], bytes(0))), /has no images/, {}, 'invalid-argument')
    })
  })

  describe('.npz', () => {
    const images = bytes(3 * 16)

    it('of this package and of np.savez_compressed have labels beside the images', async () => {
      await writeNpz(at('own.npz'), {
        arr_0: { data: images, shape: [3, 4, 4, 1] },
        arr_1: { data: BigInt64Array.of(10n, 2n, 10n), shape: [3] },
      })
      const own = await items(at('own.npz'), { classes: 'labels' })
      assert.deepEqual(
        [own.data.classNames, own.classes],
        [
          ['2', '10'],
          ['10', '2', '10'],
        ],
      )
      const packed = zipped({
        'train_labels.npy': npy('|u1', [3, 1], Uint8Array.of(10, 2, 10)),
        'train_images.npy': npy('|u1', [3, 4, 4], images),
        'test_images.npy': npy('|u1', [1, 4, 4], bytes(16)),
      })
      const other = await items(write('packed.npz', packed), { classes: 'labels' })
      assert.deepEqual([other.images, other.classes], [own.images, own.classes])
    })

    it('are refused with the reason', async () => {
      await refused(write('text.npz', 'no archive'), /no zip directory/)
      await refused(
        write('flat.npz', zipped({ 'a.npy': npy('|u1', [4], bytes(4)) })),
        /none of its 1 arrays is of three or four/,
      )
      const labels = npy('<i4', [3], Int32Array.of(0, -1, 0))
      const negative = zipped({ 'x.npy': npy('|u1', [3, 4, 4], images), 'y.npy': labels })
      await refused(write('negative.npz', negative), /label of image 1 is -1, which is out of range/)
      const damaged = zipped({ 'x.npy': npy('|u1', [3, 4, 4], images) })
      damaged.fill(0xff, 36, 60)
      await refused(write('damaged.npz', damaged), /can't be unpacked/)
      const unlabelled = write('unlabelled.npz', zipped({ 'x.npy': npy('|u1', [3, 4, 4], images) }))
      await refused(unlabelled, /has no labels itself/, { classes: 'labels' }, 'invalid-argument')
    })
  })

  describe("CIFAR's", () => {
    const o = { size: 32, channels: 3, classes: 'labels' }

    it('binaries of 10 and of 100 classes, one file or the folder of the batches', async () => {
      const ten = await items(write('data_batch_1.bin', cifar([[3], [9], [0]])), o)
      assert.deepEqual(ten.classes, ['3', '9', '0'])
      assert.equal(ten.data.classNames!.length, 10)
      assert.deepEqual(ten.images[1], signed(Uint8Array.from({ length: 3072 }, (_, p) => (31 + p) % 256)))
      const fine = await items(
        write(
          'train.bin',
          cifar([
            [19, 99],
            [0, 1],
          ]),
        ),
        o,
      )
      assert.deepEqual([fine.classes, fine.data.classNames!.length], [['99', '1'], 100])
      write('data_batch_2.bin', cifar([[7]]))
      write('batches.meta.txt', 'airplane automobile bird cat deer dog frog horse ship truck'.replaceAll(' ', '\n'))
      mkdirSync(at('batches'))
      for (const name of ['data_batch_1.bin', 'data_batch_2.bin', 'batches.meta.txt'])
        cpSync(at(name), at('batches', name))
      const all = await items(at('batches'), o)
      assert.deepEqual(all.classes, ['cat', 'truck', 'airplane', 'horse'])
    })

    it('are refused with the reason', async () => {
      await refused(
        write('cut.bin', cifar([[3], [9]]).subarray(1)),
        /6145 bytes are no whole number of images.*truncated/,
        o,
      )
      await refused(write('label.bin', cifar([[3], [10]])), /label of image 1 is 10, beyond its 10 classes/, o)
      await refused(
        at('data_batch_1.bin'),
        /images of 3 channels, 32x32, not of 1/,
        { ...o, channels: 1 },
        'invalid-argument',
      )
    })
  })

  describe("MNIST's", () => {
    const images = idx([3, 4, 4], bytes(48))
    const labels = idx([3], [7, 0, 7])
    const o = { classes: 'labels' }

    it('idx files, gzipped or not, with the labels beside them', async () => {
      write('train-labels-idx1-ubyte', labels)
      const plain = await items(write('train-images-idx3-ubyte', images), o)
      assert.deepEqual(
        [plain.classes, plain.data.classNames],
        [
          ['7', '0', '7'],
          ['0', '7'],
        ],
      )
      assert.deepEqual(plain.images[2], signed(bytes(48).subarray(32)))
      write('t10k-labels-idx1-ubyte.gz', gzipSync(labels))
      const packed = await items(write('t10k-images-idx3-ubyte.gz', gzipSync(images)), o)
      assert.deepEqual([packed.images, packed.classes], [plain.images, plain.classes])
      assert.equal(packed.data.fingerprint, plain.data.fingerprint)
    })

    it('are refused with the reason', async () => {
      await refused(
        write('cut-idx3-ubyte', images.subarray(0, -2)),
        /shape is \[3, 4, 4\], but 46 bytes follow: it is truncated/,
      )
      await refused(write('magic-idx3-ubyte', Buffer.concat([Buffer.from([0, 1]), images])), /magic number/)
      await refused(write('rank-idx3-ubyte', labels), /its shape is \[3\]: images are/)
      await refused(write('cut-idx3-ubyte.gz', gzipSync(images).subarray(0, -9)), /it is truncated/)
      write('a-labels-idx1-ubyte', idx([2], [1, 2]))
      await assert.rejects(
        items(write('a-images-idx3-ubyte', images)),
        /a-labels-idx1-ubyte.*its shape is \[2\], and there are 3 images/,
      )
    })
  })

  describe('tar archives', () => {
    let png: Buffer[]
    before(async () => {
      await writeImages(at('pictures'), 3)
      png = [0, 1, 2].map((i) => readFileSync(at('pictures', `000${i}.png`)))
    })
    const o = { channels: 3, size: 8 }

    it("of WebDataset's form, with classes, captions and long names", async () => {
      const long = `${'deep/'.repeat(30)}c`
      const files = {
        'a.png': png[0],
        'a.cls': '12\n',
        'a.txt': 'a disc',
        './b.png': png[1],
        'b.json': '{"label": 3, "caption": "another"}',
        [`${long}.png`]: png[2],
        [`${long}.cls`]: '3',
        'notes.md': 'not of a sample',
      }
      const all = await items(write('shard.tar', tar(files)), { ...o, classes: 'labels' })
      assert.deepEqual(
        [all.data.classNames, all.classes],
        [
          ['3', '12'],
          ['12', '3', '3'],
        ],
      )
      assert.deepEqual(all.captions, ['a disc', 'another', ''])
      const images = await items(at('pictures'), o)
      assert.deepEqual(all.images, images.images)
      const folders = await items(write('folders.tar', tar({ 'x/a.png': png[0], 'y/a.png': png[1] })), {
        ...o,
        classes: 'folders',
      })
      assert.deepEqual(folders.classes, ['x', 'y'])
    })

    it('beside images or folders are no data set', async () => {
      await writeImages(at('both', 'deep'), 2)
      cpSync(at('shard.tar'), at('both', 'shard.tar'))
      assert.deepEqual((await items(at('both'), o)).data.length, 2)
    })

    it('name what is damaged in them, and go on', async () => {
      const { data } = await items(
        write('some.tar', tar({ 'a.png': png[0], 'b.png': png[1].subarray(0, 60), 'c.png': 'text', 'd.cls': '1' })),
        o,
      )
      assert.deepEqual(data.unreadable.map(({ file }) => file).sort(), ['b.png', 'c.png', 'd'])
    })

    it('are refused with the reason', async () => {
      const good = tar({ 'a.png': png[0], 'a.cls': '1', 'b.png': png[1], 'b.cls': '0' })
      await refused(
        write('cut.tar', good.subarray(0, 600)),
        /'a\.png' of \d+ bytes does not end within it: it is truncated/,
        o,
      )
      await refused(write('endless.tar', good.subarray(0, -1024)), /it ends without an end: it is truncated/, o)
      await refused(write('packed.tar', gzipSync(good)), /wrong sum: it is damaged, or packed|truncated|damaged/, o)
      const other = Buffer.from(good)
      other[3] ^= 1
      await refused(write('sum.tar', other), /wrong sum/, o)
      await refused(
        write('range.tar', tar({ 'a.png': png[0], 'a.cls': '-1' })),
        /the label in 'a\.cls' is '-1', which is out of range/,
        o,
      )
      await refused(write('json.tar', tar({ 'a.png': png[0], 'a.json': '[' })), /'a\.json' is no JSON object/, o)
      await refused(write('twice.tar', tar({ 'a.png': png[0], 'a.jpg': png[1] })), /'a' has two images/, o)
      await refused(write('empty.tar', tar({ 'a.txt': 'x' })), /has no image among its files/, o, 'invalid-argument')
    })
  })

  describe('manifests', () => {
    before(() => writeImages(at('listed'), 3))
    const o = { channels: 3, size: 8 }

    it('are CSV, TSV and JSON lines, with labels and captions', async () => {
      const csv =
        'text,label,file_name\r\n"a ""disc"", red",dog,listed/0000.png\r\n\r\nb,cat,listed/0001.png\r\n"c\nd",cat,"listed/0002.png"'
      const all = await items(write('train.csv', csv), { ...o, classes: 'labels' })
      assert.deepEqual(
        [all.classes, all.captions],
        [
          ['dog', 'cat', 'cat'],
          ['a "disc", red', 'b', 'c\nd'],
        ],
      )
      assert.deepEqual(all.images, (await items(at('listed'), o)).images)
      const tsv = await items(write('train.tsv', 'image\tclass\nlisted/0000.png\t10\nlisted/0001.png\t9\n'), {
        ...o,
        classes: 'labels',
      })
      assert.deepEqual(tsv.data.classNames, ['9', '10'])
      const lines = '{"file_name": "listed/0000.png", "label": 4}\n\n{"label": 0, "file_name": "listed/0002.png"}\n'
      const jsonl = await items(write('train.jsonl', lines), { ...o, classes: 'labels' })
      assert.deepEqual([jsonl.classes, jsonl.data.length], [['4', '0'], 2])
    })

    it('are refused with the line and the reason', async () => {
      const csv = (text: string) => write('bad.csv', text)
      await refused(
        csv('file,label\nlisted/0000.png,a\nlisted/none.png,b\n'),
        /line 3: there is no file .*listed\/none\.png/,
        o,
      )
      await refused(csv('name,label\nlisted/0000.png,a\n'), /its first line names no column of files: file_name/, o)
      await refused(csv('file,label\nlisted/0000.png\n'), /line 2: it has 1 fields, the first line 2/, o)
      await refused(csv('file,label\nlisted/0000.png,a\nlisted/0001.png,\n'), /line 3: it has no label/, o)
      await refused(csv('file\n"listed/0000.png\n'), /line 2: a quote is never closed/, o)
      await refused(csv('file\n"listed/0000.png"x\n'), /line 2: a quote is in the middle/, o)
      await refused(csv('file\n'), /it has no rows/, o)
      await refused(csv(`file${','.repeat(1000)}`), /line 1: it has more than 1000 fields/, o)
      await refused(csv(`file\n"${'""'.repeat(2 ** 20)}"\n`), /line 2: a field has more than 1048576 characters/, o)
      const jsonl = (text: string) => write('bad.jsonl', text)
      await refused(jsonl('{"file_name": "listed/0000.png"}\n{"file_name": \n'), /line 2: it is not JSON/, o)
      await refused(
        jsonl('{"file_name": "listed/0000.png", "label": -1}'),
        /line 1: its label is neither a text nor a number from 0 on/,
        o,
      )
      await refused(jsonl('{"label": 1}'), /line 1: it names no file/, o)
    })
  })

  it('of other kinds are refused by name', async () => {
    await refused(
      write('a.rar', 'x'),
      /is no file of training images: read are a folder, \.npy/,
      {},
      'invalid-argument',
    )
    await refused(at('nowhere.npy'), /there is no such folder/, {}, 'not-found')
  })
})
