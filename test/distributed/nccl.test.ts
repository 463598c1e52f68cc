/** NCCL as a library of ranks, executed on cuda-host by a stand-in (test/fake-nccl) that is strict about how it is used. */
import assert from 'node:assert/strict'
import { readFileSync, rmSync } from 'node:fs'
import path from 'node:path'
import { reportIn, StandIn } from '../support/fake-cudart'
import { fakeNccl } from '../support/fake-nccl'
import { temporaryFolder } from '../train/support'
import { type Ended, endAll, launch, launchByEnvironment, resultOf, unlaunchable } from './launch'

/** Of sum-child: numbers, and nodes that a rank's batches are. */
const cases = [
  { count: 32768, nodes: 1 },
  { count: 32771, nodes: 1 },
  { count: 20000, nodes: 1 },
  { count: 32771, nodes: 2 },
]
const runs = 4

interface Sums {
  rank: number
  size: number
  library: string
  results: { right: number; launches: object; sent: number }[]
  texts: string[]
}

interface Trained {
  weights: string
  ema: string
  losses: number[]
  norms: number[]
  isSame: boolean
  sent: number
  parameters: number
}

describe('NCCL, by a stand-in', () => {
  const log = path.join(temporaryFolder(), 'log')
  const env = { DDPM_HOST_NCCL: fakeNccl, DDPM_FAKE_NCCL_LOG: log }
  const sum = (ranks: number, mode = 'fine', more: Record<string, string> = {}) =>
    launchByEnvironment(ranks, 'sum-child.js', [mode], () => ({ ...env, ...more }))
  /** Lines of a rank. */
  const logged = (rank: number) =>
    readFileSync(log, 'utf8')
      .split('\n')
      .filter((line) => line.startsWith(`rank ${rank}: `))
      .map((line) => line.slice(8))

  beforeEach(() => rmSync(log, { force: true }))
  afterEach(endAll)

  for (const ranks of [2, 3]) {
    it(`${ranks} processes that the environment tells of one another add up in recorded programs`, async () => {
      const results = (await sum(ranks)).map((ended) => resultOf<Sums>(ended))
      for (const [rank, result] of results.entries()) {
        assert.deepEqual([result.rank, result.size, result.library], [rank, ranks, `NCCL 2.23.4 in ${fakeNccl}`])
        assert.deepEqual(
          result.texts,
          Array.from({ length: ranks }, (_, r) => `rank ${r}`.repeat(r + 1)),
        )
        for (const [i, { right, launches }] of result.results.entries()) {
          assert.equal(right, runs, `${cases[i].count} numbers of rank ${rank}`)
          assert.deepEqual(launches, { direct: 1, recorded: 1, replayed: runs - 1 })
        }
      }
      // Each rank's part from all, and the sum of it to all: where a rank has one node, as a ring would.
      for (const [i, { count, nodes }] of cases.entries()) {
        const sent = results.reduce((all, { results: r }) => all + r[i].sent, 0)
        assert.equal(sent, runs * (nodes + 1) * (ranks - 1) * count * 4)
      }
      const own = logged(0)
      if (ranks === 2) {
        const step = ['send 65536 1, recv 65536 1', 'allgather 65536']
        assert.deepEqual(own.slice(1, 2 * runs + 1), Array.from({ length: runs }, () => step).flat())
      }
      assert.ok(own.includes('broadcast 65536 0, broadcast 14464 1'), own.join('\n'))
      assert.equal(own.at(-1), 'left')
    })
  }

  it('adds up a gradient before the next one is computed', async () => {
    for (const ended of await launchByEnvironment(2, 'order-child.js', [], () => ({
      ...env,
      DDPM_HOST_LAUNCHES: '1',
    }))) {
      assert.deepEqual(resultOf(ended), { direct: 1, recorded: 0, replayed: 0 })
      const launched = ended.output.match(/(?<=launch .*)(weightProduct|AddElements)/g)
      assert.deepEqual(launched, ['weightProduct', 'AddElements', 'weightProduct', 'AddElements'])
    }
  })

  describe('trains what one process trains', () => {
    const args = [2, 2, 'fp32']
    const check = (alone: Trained, { weights, ema, losses, norms, isSame }: Trained) => {
      assert.ok(isSame, 'all ranks have the same weights')
      const { weights: w, ema: e, losses: l, norms: n } = alone
      assert.deepEqual({ weights, ema, losses, norms }, { weights: w, ema: e, losses: l, norms: n })
    }
    let alone: Trained

    before(async function () {
      this.timeout(120_000)
      const [ended] = await launchByEnvironment(1, 'train-child.js', [...args, 'whole', 'off', 'cuda-host'])
      alone = resultOf<Trained>(ended)
      assert.equal(alone.losses.length, 4)
    })

    it('told by the environment', async () => {
      const [first] = await launchByEnvironment(2, 'train-child.js', [...args, 'whole', 'nccl', 'cuda-host'], () => env)
      check(alone, resultOf<Trained>(first))
    })

    it('under mpirun, whose library takes the id, with a shared optimizer', async function () {
      if (unlaunchable) {
        console.log(`      Skipped: ${unlaunchable}`)
        this.skip()
      }
      check(
        alone,
        resultOf<Trained>(await launch(2, 'train-child.js', [...args, 'shards', 'nccl', 'cuda-host'], env).ended),
      )
    })
  })

  describe('on the stand-in for the CUDA runtime', () => {
    const folder = temporaryFolder()
    const reportOf = (rank: number) => path.join(folder, `report-${rank}`)
    let standIn: StandIn

    before(function () {
      standIn = StandIn.make(this)
    })
    after(() => standIn?.remove())
    const start = (script: string, ...args: (string | number)[]) =>
      launchByEnvironment(2, script, args, (rank) => ({
        ...standIn.environment(reportOf(rank)),
        ...{ FAKE_NCCL_CUDART: standIn.library, DDPM_NCCL: fakeNccl, DDPM_FAKE_NCCL_LOG: log },
      }))

    it('a sum is a branch of the CUDA graph that waits for what it adds up, and is waited for', async () => {
      const results = (await start('sum-child.js', 'fine', 'nccl', 'cuda')).map((ended) => resultOf<Sums>(ended))
      const step = ['send 65536 1, recv 65536 1', 'allgather 65536']
      assert.deepEqual(logged(0).slice(1, 2 * runs + 1), Array.from({ length: runs }, () => step).flat())
      for (const [rank, result] of results.entries()) {
        for (const { launches } of result.results)
          assert.deepEqual(launches, { direct: 1, recorded: 1, replayed: runs - 1 })
        const { counts } = reportIn(reportOf(rank))
        // Once as it is and once into a graph: the branch waits for the rest, and the rest for the branch.
        assert.deepEqual(
          [counts['wait for an event'], counts['branches of a capture'], counts['invalidated capture'] ?? 0],
          [4 * cases.length, cases.length, 0],
        )
      }
    })
  })

  const failed = (all: readonly Ended[], text: RegExp) => {
    for (const { code, output } of all) {
      assert.equal(code, 1, output)
      assert.match(output, text)
    }
  }

  it('a rank that is gone ends the others in time', async () => {
    const all = await sum(3, 'gone', { DDPM_DISTRIBUTED_TIMEOUT: '1' })
    failed(all.slice(0, 2), /not all ranks came to it within 1 seconds \(rank \d of 3\)[\s\S]*rank-failed/)
    assert.ok(logged(0).includes('aborted') && logged(1).includes('aborted'))
  })

  it('and so does an error that NCCL finds', async () => {
    failed(
      await sum(2, 'fine', { DDPM_FAKE_NCCL: 'lost=5' }),
      /remote process exited or there was a network[\s\S]*rank-failed/,
    )
  })

  for (const [what, more, text] of [
    ['switched off', { DDPM_HOST_NCCL: 'off' }, /no NCCL: switched off[\s\S]*device-unavailable/],
    ['nowhere', { DDPM_HOST_NCCL: '/nowhere' }, /no NCCL: \/nowhere\/libnccl\.so\.2: cannot open/],
    [
      'too old',
      { DDPM_FAKE_NCCL: 'version=21305' },
      /has NCCL 2\.13\.5, and the declarations here are those of NCCL 2\.14/,
    ],
    ['not to be begun', { DDPM_FAKE_NCCL: 'init-fails' }, /ncclCommInitRankConfig: unhandled system error/],
  ] as const) {
    it(`says what is wrong with a library that is ${what}`, async () => {
      failed(await sum(1, 'fine', more), text)
    })
  }
})
