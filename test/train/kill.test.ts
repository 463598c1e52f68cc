// What survives when a training process ends in the middle: killed, terminated, or with a full disk.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { readSafetensors } from '../../lib/checkpoint/safetensors'
import { listCheckpoints, openCheckpoint, readTrainingState } from '../../lib/train/checkpoint'
import { ended, numbers, readMetrics, runCli, startCli, temporaryFolder, tinyFlags, writeImages } from './support'

describe('a training process', function () {
  this.timeout(120_000)
  const folder = temporaryFolder()
  const data = path.join(folder, 'images')
  before(() => writeImages(data, 200))

  const start = (run: string, ...flags: string[]) => startCli(['train', data, '--out', run, ...tinyFlags, ...flags])
  const resume = (run: string, ...flags: string[]) => startCli(['train', '--resume', '--out', run, ...flags])

  /** Every file of every checkpoint that can be seen. */
  async function checkAll(run: string): Promise<number> {
    const folders = await listCheckpoints(run)
    for (const folder of folders) await readTrainingState(await openCheckpoint(folder))
    return folders.length
  }

  it('killed three times at random moments leaves readable checkpoints only, and resumes to the bit', async () => {
    const run = path.join(folder, 'killed')
    const often = ['--checkpoint-every', '2', '--keep', '3', '--json', '--steps', '400']
    for (let kill = 0; kill < 3; kill++) {
      const child =
        kill === 0 ? start(run, ...often) : startCli(['train', data, '--out', run, '--resume', ...tinyFlags, ...often])
      // Some checkpoints in, then a random part of the time that a few steps with theirs take.
      const checkpoints = 1 + Math.floor(Math.random() * 3)
      let armed = false
      const { signal, stderr } = await ended(child, (stdout) => {
        if (armed || (stdout.match(/"event":"checkpoint"/g) ?? []).length < checkpoints) return
        armed = true
        setTimeout(() => child.kill('SIGKILL'), Math.random() * 60)
      })
      assert.equal(signal, 'SIGKILL', stderr)
      await checkAll(run)
    }
    assert.ok((await checkAll(run)) > 0)

    // From the same checkpoint, once in one go and once stopped cleanly on the way.
    const straight = path.join(folder, 'straight')
    cpSync(run, straight, { recursive: true })
    const { step } = (await openCheckpoint(run)).state
    const last = String(step + 14)
    const { code, stderr } = await ended(resume(straight, '--steps', last))
    assert.equal(code, 0, stderr)
    const child = resume(run, '--steps', last, '--json')
    let asked = false
    const stopped = await ended(child, (stdout) => {
      if (asked || (stdout.match(/"event":"step"/g) ?? []).length < 4) return
      asked = true
      child.kill('SIGTERM')
    })
    assert.equal(stopped.code, 143, stopped.stderr)
    assert.equal((await ended(resume(run, '--steps', last))).code, 0)
    assert.deepEqual(numbers(readMetrics(run)), numbers(readMetrics(straight)))
    assert.equal(readMetrics(run).length, step + 14)
  })

  it('on a full disk ends with one line, and the previous checkpoint still opens', async function () {
    const run = path.join(folder, 'small')
    const first = path.join(folder, 'first')
    assert.equal((await ended(start(first, '--steps', '1'))).code, 0)
    const size = folderSize(path.join(first, 'checkpoints'))
    mkdirSync(run)
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${Math.round(1.6 * size)}`, 'tmpfs', run], { stdio: 'pipe' })
    } catch (error) {
      console.log(`      not shown: no file system of limited size can be mounted (${(error as Error).message.trim()})`)
      return this.skip()
    }
    try {
      const { code, stderr } = await ended(start(run, '--steps', '4', '--checkpoint-every', '2'))
      assert.equal(code, 1)
      assert.match(
        stderr.trimEnd().split('\n').at(-1)!,
        /^ddpm train: cannot write the checkpoint .*step-00000004 \(kept: step-00000002\): the disk is full$/,
      )
      assert.deepEqual(
        (await listCheckpoints(run)).map((f) => path.basename(f)),
        ['step-00000002'],
      )
      await checkAll(run)
      const names = readdirSync(path.join(run, 'checkpoints')).sort()
      assert.deepEqual(names, ['latest', 'step-00000002'])
    } finally {
      execFileSync('umount', [run])
    }
  })

  function folderSize(folder: string): number {
    return readdirSync(folder, { recursive: true, encoding: 'utf8' })
      .map((name) => statSync(path.join(folder, name)))
      .reduce((sum, stats) => sum + (stats.isFile() ? stats.size : 0), 0)
  }

  it('finds a damaged checkpoint, and says how to go on', async () => {
    const run = path.join(folder, 'truncated')
    assert.equal((await ended(start(run, '--steps', '2'))).code, 0)
    const file = path.join((await listCheckpoints(run))[0], 'optimizer.safetensors')
    const bytes = readFileSync(file)
    writeFileSync(file, bytes.subarray(0, bytes.length - 100))
    await assert.rejects(async () => readSafetensors(file), /./)
    const { code, stderr } = await runCli(['train', '--resume', '--out', run, '--steps', '3'])
    assert.equal(code, 1)
    assert.match(stderr.trimEnd().split('\n').at(-1)!, /^ddpm train: .*optimizer\.safetensors/)
  })
})
