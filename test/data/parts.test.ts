// Parts are put together a piece at a time, and what ends early leaves nothing.
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { type NpyArray, writeNpz } from '../../lib/data/npz'
import { mergeParts, openParts } from '../../lib/data/parts/merge-parts'
import { partArray, partName } from '../../lib/data/parts/part-file'
import { DiffusionError } from '../../lib/errors'
import { temporaryFolder } from '../train/support'

describe('parts of .npz files', () => {
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const size = 2 ** 20
  /** More than a piece. */
  const counts = [20, 17, 3]
  const files = counts.map((_, i) => partName(at('s.npz'), { index: i + 1, total: counts.length }))

  /** Zeros with their numbers. */
  const images = (first: number, count: number): NpyArray => {
    const data = new Uint8Array(count * size)
    for (let i = 0; i < count; i++) data[i * size] = first + i
    return { data, shape: [count, size] }
  }
  const labels = (first: number, count: number): NpyArray => ({
    data: BigInt64Array.from({ length: count }, (_, i) => BigInt(first + i)),
    shape: [count],
  })

  before(async () => {
    let first = 0
    for (const [i, count] of counts.entries()) {
      const header = { shard: { index: i + 1, total: counts.length }, first, count, whole: { seed: '1' } }
      const arrays = { arr_0: images(first, count), arr_1: labels(first, count), part: partArray(header) }
      await writeNpz(files[i], arrays)
      first += count
    }
  })

  it('have names that sort as they are counted', () => {
    const names = [1, 2, 10].map((index) => partName('a/b.c/s.npz', { index, total: 10 }))
    assert.deepEqual(names, ['a/b.c/s-01-of-10.npz', 'a/b.c/s-02-of-10.npz', 'a/b.c/s-10-of-10.npz'])
    assert.equal(partName('a.b/s', { index: 1, total: 2 }), 'a.b/s-1-of-2')
  })

  it('become the file of all, with progress to its end', async () => {
    const seen: number[] = []
    let total = 0
    const parts = await openParts(files)
    const onProgress = (event: { done: number; total: number }) => {
      seen.push(event.done)
      total = event.total
    }
    await mergeParts(parts, at('merged.npz'), { onProgress })
    await writeNpz(at('whole.npz'), { arr_0: images(0, 40), arr_1: labels(0, 40) })
    assert.ok(readFileSync(at('merged.npz')).equals(readFileSync(at('whole.npz'))))
    assert.equal(total, 2 * (40 * size + 40 * 8))
    assert.equal(seen.at(-1), total)
    assert.deepEqual(
      seen,
      seen.toSorted((a, b) => a - b),
    )
  })

  for (const [when, after] of [
    ['they are checked', 0],
    ['they are written', 0.7],
  ] as const) {
    it(`leave nothing where it is ended while ${when}`, async () => {
      const before = readdirSync(folder)
      const controller = new AbortController()
      const onProgress = ({ done, total }: { done: number; total: number }) =>
        done > after * total && controller.abort()
      await assert.rejects(
        mergeParts(await openParts(files), at('aborted.npz'), { signal: controller.signal, onProgress }),
        (error) => error instanceof DiffusionError && error.code === 'aborted',
      )
      assert.deepEqual(readdirSync(folder), before)
    })
  }

  it('are refused where they do not join', async () => {
    const header = { shard: { index: 2, total: 2 }, first: 21, count: 3, whole: { seed: '1' } }
    await writeNpz(at('b.npz'), { arr_0: images(21, 3), arr_1: labels(21, 3), part: partArray(header) })
    const first = { ...header, shard: { index: 1, total: 2 }, first: 0, count: 20 }
    await writeNpz(at('a.npz'), { arr_0: images(0, 20), arr_1: labels(0, 20), part: partArray(first) })
    await assert.rejects(
      openParts([at('a.npz'), at('b.npz')]),
      /b\.npz begins with image 21, and .*a\.npz ends before 20/,
    )
    await writeNpz(at('c.npz'), { arr_0: images(0, 20), part: partArray({ ...first, count: 19 }) })
    await assert.rejects(
      openParts([at('c.npz')]),
      /c\.npz is not a part .*'arr_0' is of shape \[20, 1048576\], and the part of 19/,
    )
    await writeNpz(at('d.npz'), { arr_0: images(20, 3), part: partArray({ ...header, first: 20 }) })
    await assert.rejects(
      openParts([at('a.npz'), at('d.npz')]),
      /are not parts of one whole: 'arr_0' u1 \[1048576\] and 'arr_0'/,
    )
  })
})
