/** Training on two hosts that are far from each other: 20 ms each way, and of a hundred packets one is lost. */
import assert from 'node:assert/strict'
import { setTimeout } from 'node:timers/promises'
import { launch, resultOf } from './launch'
import { TwoHosts, unreachable } from './two-hosts'

interface Result {
  readonly ranks: number
  readonly weights: string
  readonly averages: readonly string[]
  readonly moments: readonly string[]
  readonly losses: readonly number[]
  readonly norms: readonly number[]
  readonly isSame: boolean
}

describe('training on two hosts', () => {
  let hosts: TwoHosts

  before(function () {
    const why = unreachable()
    if (!why) return
    console.log(`      Skipped: ${why}`)
    this.skip()
  })
  beforeEach(async () => {
    hosts = await TwoHosts.open(20, 1)
  })
  afterEach(() => hosts.close())

  for (const shards of ['whole', 'shards']) {
    it(`has the bits of one process, ${shards === 'whole' ? 'without' : 'with'} shards`, async () => {
      const numbersOf = ({ weights, averages, moments, losses, norms }: Result) => ({
        ...{ weights, averages, moments, losses, norms },
      })
      const alone = resultOf<Result>(await launch(1, 'train-child.js', [6, 4]).ended)
      hosts.launch('train-child.js', [6, 4, 'fp32', shards])
      const far = resultOf<Result>((await hosts.ended())[0])
      assert.deepEqual([far.ranks, far.isSame], [2, true])
      assert.deepEqual(numbersOf(far), numbersOf(alone))
    })
  }

  it('ends on both, with an error, where the cable is cut', async () => {
    hosts.launch('failing-child.js', ['endless'], { DDPM_DISTRIBUTED_TIMEOUT: '3' })
    while (![0, 1].every((rank) => hosts.outputOf(rank).includes('step 3'))) await setTimeout(50)
    hosts.cut()
    for (const { code, output } of await hosts.ended()) {
      assert.equal(code, 1, output)
      assert.match(output, /step 3[\s\S]*rank [01] of 2: not all ranks came to it within 3 seconds[\s\S]*rank-failed/)
    }
  })
})
