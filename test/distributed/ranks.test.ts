/** Which batches are whose, and who waits for whom: without a launcher. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { setTimeout } from 'node:timers/promises'
import type { TrainingData } from '../../lib/data/training-data'
import { DiffusionError } from '../../lib/errors'
import { Ranks } from '../../lib/trainer/ranks'
import { factsOf } from '../../lib/trainer/together'
import { World } from '../../lib/world'

describe('ranks', () => {
  /** Two in this process, who come to each gathering together. */
  function two(seconds = 600) {
    let waiting: { numbers: readonly number[]; resolve: (all: number[][]) => void }[] = []
    const counts = [0, 0]
    const ranks = [0, 1].map((rank) => {
      const gather = (numbers: readonly number[]) =>
        new Promise<number[][]>((resolve) => {
          counts[rank]++
          waiting[rank] = { numbers, resolve }
          if (Object.keys(waiting).length < 2) return
          const all = waiting
          waiting = []
          for (const each of all) each.resolve(all.map((other) => [...other.numbers]))
        })
      return new Ranks({ rank, size: 2, seconds, gather } as unknown as World)
    })
    return { ranks, counts }
  }

  it('wait for one that takes long, and hear of it meanwhile', async () => {
    const { ranks, counts } = two(0.04) // a beat is 10 ms
    const [slow, quick] = await Promise.all(
      ranks.map((each) => each.together(async () => (each.leads ? await setTimeout(200, 'slow') : 'quick'))),
    )
    assert.deepEqual([slow, quick], ['slow', 'quick'])
    assert.ok(counts[0] >= 3 && counts[0] === counts[1], String(counts))
  })

  it('end together where one is aborted, and alone where one fails', async () => {
    const aborted = new DiffusionError('aborted', 'enough')
    const ended = await Promise.allSettled(
      two().ranks.map((each) =>
        each.together(async () => {
          if (!each.leads) throw aborted
        }),
      ),
    )
    const reasons = ended.map((each) => (each.status === 'rejected' ? each.reason : undefined))
    assert.equal(reasons[1], aborted)
    assert.deepEqual([reasons[0].code, reasons[0].message], ['aborted', 'rank 1 was aborted'])
    const [leader] = two().ranks
    await assert.rejects(
      leader.together(() => Promise.reject(new Error('no such luck'))),
      /no such luck/,
    )
  })

  it('share the batches of a step in order', () => {
    const [, ranks] = two().ranks
    assert.deepEqual(ranks.share(6), { own: 3, first: 3 })
    assert.deepEqual(
      [0, 1, 2, 3].map((k) => ranks.batchAt(5, k, 6)),
      [33, 34, 35, 39],
    )
    assert.throws(() => ranks.share(5), { code: 'invalid-argument', argument: 'accumulate' })
  })

  it('have the same version, byte order and data before them', () => {
    const data = { length: 3, fingerprint: 'f' } as TrainingData
    const { version } = JSON.parse(readFileSync(path.join(__dirname, '..', '..', '..', 'package.json'), 'utf8'))
    assert.deepEqual(factsOf({ lr: 1e-3, steps: 2 }, { data, heldOut: undefined }), {
      ...{ lr: 1e-3, steps: 2, 'ddpm-native': version, endianness: 'LE', node: process.versions.modules },
      ...{ data: '3 images, f', validation: undefined },
    })
  })

  it("are none with 'off', whatever a launcher says", () => {
    const { PMI_SIZE } = process.env
    process.env.PMI_SIZE = '2'
    const listeners = process.listenerCount('exit') // one more where a world was joined
    try {
      assert.equal(World.of('off'), undefined)
      assert.equal(process.listenerCount('exit'), listeners)
    } finally {
      if (PMI_SIZE === undefined) delete process.env.PMI_SIZE
      else process.env.PMI_SIZE = PMI_SIZE
    }
  })
})
