/** `ddpm train` under a launcher: what one process computes, in one run folder. */
import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { listCheckpoints } from '../../lib/train/checkpoint-folder'
import { heldOutOf, readMetrics, stepsOf, temporaryFolder, tinyFlags, writeImages } from '../train/support'
import { endAll, type Launched, launch, unlaunchable } from './launch'

const cli = path.join(__dirname, '..', '..', 'lib', 'cli', 'main.js')

/** The process that is a rank of what mpirun started. */
function processOf({ pid }: Launched, rank: number): number {
  const childrenOf = (parent: number | string): string[] => {
    const children = readFileSync(`/proc/${parent}/task/${parent}/children`, 'utf8').trim().split(' ').filter(Boolean)
    return children.flatMap((child) => [child, ...childrenOf(child)]) // MPICH has a proxy between
  }
  const found = childrenOf(pid).find((child) => {
    const environment = readFileSync(`/proc/${child}/environ`, 'utf8').split('\0')
    return ['OMPI_COMM_WORLD_RANK', 'PMI_RANK'].some((name) => environment.includes(`${name}=${rank}`))
  })
  return Number(found)
}

describe('ddpm train by ranks', function () {
  this.timeout(120_000)
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)

  before(async function () {
    if (unlaunchable) {
      console.log(`      Skipped: ${unlaunchable}`)
      this.skip()
    }
    await writeImages(at('photos'), 30)
  })

  afterEach(endAll)

  const flags = [...tinyFlags, '--checkpoint-every', '2', '--keep', '10', '--batch', '2']
  const start = (ranks: number, out: string, ...args: (string | number)[]) =>
    launch(ranks, cli, ['train', at('photos'), '--out', at(out), ...flags, ...args])
  const train = async (...args: Parameters<typeof start>) => {
    const { code, output } = await start(...args).ended
    assert.equal(code, 0, output)
    return output
  }

  async function lastOf(out: string): Promise<{ folder: string; step: number }> {
    const [folder] = await listCheckpoints(at(out)) // newest first
    return { folder, step: Number(path.basename(folder).replace('step-', '')) }
  }

  /** Weights, averages and moments of the last checkpoint; the losses of all steps. */
  async function stateOf(out: string) {
    const last = await lastOf(out)
    const names = readdirSync(last.folder).filter((name) => name.endsWith('.safetensors'))
    const files = Object.fromEntries(names.map((name) => [name, readFileSync(path.join(last.folder, name), 'base64')]))
    const losses = stepsOf(at(out)).map(({ step, loss, gradNorm }) => ({ step, loss, gradNorm }))
    return { step: last.step, files, losses, held: heldOutOf(at(out)) }
  }

  const held = ['--validation', '0.2', '--validation-every', 2, '--validation-count', 5]

  it('has the bits of one process on two and on three', async () => {
    await train(1, 'one', '--steps', 4, '--accumulate', 6, ...held)
    const expected = await stateOf('one')
    assert.deepEqual([expected.step, expected.held.length], [4, 2])
    for (const [ranks, accumulate, ...more] of [
      [2, 3],
      [3, 2, '--shard-optimizer'],
    ] as const) {
      const output = await train(ranks, `on-${ranks}`, '--steps', 4, '--accumulate', accumulate, ...held, ...more)
      assert.deepEqual(await stateOf(`on-${ranks}`), expected)
      assert.equal(output.match(/done: step 4/g)?.length, 1, 'one of them tells')
    }
  })

  it('goes on with another number of processes', async () => {
    await train(3, 'resumed', '--steps', 2, '--accumulate', 2, ...held, '--shard-optimizer')
    await train(2, 'resumed', '--steps', 3, '--resume', ...held)
    await train(1, 'resumed', '--steps', 4, '--resume', ...held)
    assert.deepEqual(await stateOf('resumed'), await stateOf('one'))
    const { code, output } = await start(4, 'resumed', '--steps', 5, '--resume', ...held).ended
    assert.notEqual(code, 0)
    assert.match(output, /6 batches of a step are not to be divided among 4 processes/)
  })

  async function untilStep(out: string, step: number, running: Launched): Promise<void> {
    let isOver = false
    running.ended.then(() => {
      isOver = true
    })
    const file = at(out, 'metrics.jsonl')
    while (!existsSync(file) || readFileSync(file, 'utf8').split('\n').length <= step) {
      assert.ok(!isOver, 'it ended')
      await setTimeout(20)
    }
  }

  async function stoppedWhole(running: Launched): Promise<void> {
    const { output } = await running.ended
    const { step, losses } = await stateOf('asked')
    assert.match(output, new RegExp(`checkpoint .*step-0*${step}\n`)) // MPICH's launcher may lose what comes after it
    assert.doesNotMatch(output, /Debugger listening/) // Node's own answer to SIGUSR1
    assert.deepEqual(
      losses.map((line) => line.step),
      losses.map((_, i) => i + 1),
    )
    assert.equal(losses.at(-1)!.step, step)
  }

  it('ends on all after the same step, and saves, where one that does not lead is asked to', async () => {
    const running = start(3, 'asked', '--steps', 100_000)
    await untilStep('asked', 3, running)
    process.kill(processOf(running, 2), 'SIGTERM')
    await stoppedWhole(running)
    // What Slurm sends the launcher before the time is up; and it goes on.
    const again = start(3, 'asked', '--steps', 100_000, '--resume')
    await untilStep('asked', (await lastOf('asked')).step + 2, again)
    process.kill(again.pid, 'SIGUSR1')
    await stoppedWhole(again)
  })

  it('a rank that is killed, whichever, ends all, and the checkpoint is whole', async () => {
    const ranks = [0, 1, 2]
    for (const rank of ranks) {
      const { step } = rank === 0 ? { step: 0 } : await lastOf('killed')
      const running = start(3, 'killed', '--steps', 100_000, ...(step > 0 ? ['--resume'] : []))
      await untilStep('killed', step + 3, running)
      const others = ranks.filter((other) => other !== rank).map((other) => processOf(running, other))
      process.kill(processOf(running, rank), 'SIGKILL')
      const killed = performance.now()
      assert.notEqual((await running.ended).code, 0)
      while (others.some((other) => existsSync(`/proc/${other}`))) await setTimeout(20) // which the launcher ends
      assert.ok(performance.now() - killed < 10_000, 'within 10 seconds') // a promise, of which it takes a tenth
      assert.ok((await lastOf('killed')).step > step)
    }
    const before = await lastOf('killed')
    await train(3, 'killed', '--steps', before.step + 1, '--resume')
    assert.equal((await stateOf('killed')).step, before.step + 1)
  })

  it('goes on where one process had computed alone', async () => {
    await train(1, 'alone', '--steps', 2, '--accumulate', 6, '--distributed', 'off', ...held)
    await train(2, 'alone', '--steps', 4, '--resume', ...held)
    assert.deepEqual(await stateOf('alone'), await stateOf('one'))
  })

  it('with --distributed off each trains what it would alone, and tells', async () => {
    const some = [...flags, '--steps', '2', ...held.map(String)]
    const { code, output } = await launch(2, 'off-child.js', [at('photos'), at('off'), ...some]).ended
    assert.equal(code, 0, output)
    assert.equal(output.match(/done: step 2/g)?.length, 2, output)
    assert.deepEqual(await stateOf('off-0'), await stateOf('off-1'))
  })

  it('draws and compares the samples of one process, also where it was stopped meanwhile', async () => {
    const fidsOf = (out: string) =>
      readMetrics(at(out))
        .filter((line) => 'fid' in line)
        .map(({ time, ...rest }) => rest)
    for (const [ranks, out, mode] of [
      [1, 'fid-1', 'whole'],
      [2, 'fid-2', 'whole'],
      [3, 'fid-3', 'stopped'],
    ] as const) {
      const { code, output } = await launch(ranks, 'fid-child.js', [at('photos'), at(out), mode]).ended
      assert.equal(code, 0, output)
      assert.equal(fidsOf(out).length, 2)
      assert.deepEqual(fidsOf(out), fidsOf('fid-1'))
    }
  })

  it('waits for the one that leads, as long as that takes to open', async () => {
    const env = { DDPM_DISTRIBUTED_TIMEOUT: '3' }
    const { code, output } = await launch(2, 'slow-child.js', [at('photos'), at('slow')], env).ended
    assert.equal(code, 0, output)
  })

  it('but not for one that hangs', async () => {
    const env = { DDPM_DISTRIBUTED_TIMEOUT: '2' }
    const { code, output } = await launch(2, 'slow-child.js', [at('photos'), at('hangs'), 'hangs'], env).ended
    assert.notEqual(code, 0)
    assert.match(output, /rank 1 of 2: not all ranks came to it within 2 seconds/)
  })

  it('options that differ are told by rank and name', async () => {
    const { code, output } = await launch(2, 'options-child.js', [at('photos'), at('differ')]).ended
    assert.notEqual(code, 0)
    assert.match(output, /rank 1 has lr 0\.002, rank 0 has 0\.001/)
    assert.ok(!existsSync(at('differ', 'metrics.jsonl')))
  })
})
