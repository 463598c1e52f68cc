import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { withSource } from '../../lib/checkpoint/source'
import { readArrays } from '../../lib/data/npy'
import { writeNpz } from '../../lib/data/npz'
import { temporaryFolder } from '../train/support'

/** By the standard library: zipfile checks the CRCs, and the header of an array is a Python literal. */
const standardLibrary = `
import ast, json, struct, sys, zipfile
found = {}
with zipfile.ZipFile(sys.argv[1]) as archive:
    assert archive.testzip() is None
    for info in archive.infolist():
        assert info.compress_type == zipfile.ZIP_STORED
        data = archive.read(info)
        assert data[:8] == b"\\x93NUMPY\\x01\\x00"
        (length,) = struct.unpack("<H", data[8:10])
        assert (10 + length) % 64 == 0 and data[10 + length - 1 : 10 + length] == b"\\n"
        header = ast.literal_eval(data[10 : 10 + length].decode())
        body = data[10 + length :]
        values = list(body) if header["descr"] == "|u1" else [v for (v,) in struct.iter_unpack("<q", body)]
        found[info.filename] = [header["descr"], header["fortran_order"], list(header["shape"]), values]
print(json.dumps(found))`

/** As guided-diffusion's evaluator does. */
const numpy = `
import json, sys, numpy
arrays = numpy.load(sys.argv[1])
print(json.dumps({n: [str(arrays[n].dtype), list(arrays[n].shape), arrays[n].ravel().tolist()] for n in arrays.files}))`

describe('.npz files', () => {
  const folder = temporaryFolder()
  const file = path.join(folder, 'samples.npz')
  const pixels = Uint8Array.from({ length: 2 * 3 * 5 * 3 }, (_, i) => (i * 37) % 256)
  const arrays = {
    arr_0: { data: pixels, shape: [2, 3, 5, 3] },
    arr_1: { data: BigInt64Array.of(-1n, 2n ** 40n), shape: [2] },
  }
  /** As those of more than 4 GiB are. */
  const file64 = path.join(folder, 'samples64.npz')
  before(async () => {
    await writeNpz(file, arrays)
    await writeNpz(file64, arrays, { zip64: true })
  })

  for (const [what, name] of [
    ['', file],
    [', with zip64', file64],
  ]) {
    it(`are read by the standard library of Python${what}`, function () {
      const { error, status, stdout, stderr } = spawnSync('python3', ['-c', standardLibrary, name], {
        encoding: 'utf8',
      })
      if (error) {
        console.log('      (skipped: there is no python3)')
        return this.skip()
      }
      assert.equal(status, 0, stderr)
      assert.deepEqual(JSON.parse(stdout), {
        'arr_0.npy': ['|u1', false, [2, 3, 5, 3], [...pixels]],
        'arr_1.npy': ['<i8', false, [2], [-1, 2 ** 40]],
      })
    })

    it(`are read by numpy${what}`, function () {
      const python = (script: string) => spawnSync('python3', ['-c', script, name], { encoding: 'utf8' })
      if (python('import numpy').status !== 0) {
        console.log('      (skipped: python3 has no numpy)')
        return this.skip()
      }
      const { status, stdout, stderr } = python(numpy)
      assert.equal(status, 0, stderr)
      assert.deepEqual(JSON.parse(stdout), {
        arr_0: ['uint8', [2, 3, 5, 3], [...pixels]],
        arr_1: ['int64', [2], [-1, 2 ** 40]],
      })
    })
  }

  it('have the same arrays with zip64', async () => {
    const shapes = (name: string) =>
      withSource(name, '.npz', async (source) =>
        [...(await readArrays(source))].map(([array, { shape, type }]) => [array, shape, type]),
      )
    assert.deepEqual(await shapes(file64), await shapes(file))
    assert.ok(!readFileSync(file64).equals(readFileSync(file)))
  })

  it('are the same bytes for the same arrays', async () => {
    const again = path.join(folder, 'again.npz')
    await writeNpz(again, arrays)
    assert.ok(readFileSync(again).equals(readFileSync(file)))
  })
})
