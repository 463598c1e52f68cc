/** Which batches are whose, and who waits for whom: without a launcher. */
import assert from 'node:assert/strict'
import { Ranks } from '../../lib/trainer/ranks'
import { World } from '../../lib/world'

describe('ranks', () => {
  /** One of two, whose gathers note whether they were patient. */
  function ranksOf(rank: number) {
    const patient: boolean[] = []
    const gather = async (numbers: readonly number[], o: { patient?: boolean } = {}) => {
      patient.push(o.patient === true)
      return [numbers, numbers]
    }
    const gatherTexts = async (text: string, o: { patient?: boolean } = {}) => {
      patient.push(o.patient === true)
      return [text || '{"value":1}', text]
    }
    return { ranks: new Ranks({ rank, size: 2, gather, gatherTexts } as unknown as World), patient }
  }

  it('wait for the one that leads however long, which waits for none of them so', async () => {
    for (const rank of [0, 1]) {
      const { ranks, patient } = ranksOf(rank)
      assert.equal(await ranks.any(false, false), false)
      assert.equal(await ranks.any(true, true), true)
      assert.equal(await ranks.ofLeader(1), 1)
      assert.deepEqual(patient, rank === 0 ? [false, false, false] : [false, true, true])
    }
  })

  it('share the batches of a step in order', () => {
    const { ranks } = ranksOf(1)
    assert.deepEqual(ranks.share(6), { own: 3, first: 3 })
    assert.deepEqual(
      [0, 1, 2, 3].map((k) => ranks.batchAt(5, k, 6)),
      [33, 34, 35, 39],
    )
    assert.throws(() => ranks.share(5), { code: 'invalid-argument', argument: 'accumulate' })
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
