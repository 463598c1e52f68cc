// Each way in which a training is asked to stop: it saves, and its exit code says what happened.
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, existsSync, openSync, readdirSync, statSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { listCheckpoints, openCheckpoint } from '../../lib/train/checkpoint'
import { cli, type Ended, ended, readMetrics, startCli, temporaryFolder, tinyFlags, writeImages } from './support'

const endless = ['--steps', '1000000', '--checkpoint-every', '1000000', '--json']

describe('a training that is asked to stop', function () {
  this.timeout(120_000)
  const folder = temporaryFolder()
  const data = path.join(folder, 'images')
  let runs = 0
  let run: string
  before(() => writeImages(data, 8))
  beforeEach(() => {
    run = path.join(folder, `run${runs++}`)
  })

  const start = (...flags: string[]) => startCli(['train', data, '--out', run, ...tinyFlags, ...flags])

  async function saved(): Promise<void> {
    const { state } = await openCheckpoint(run)
    assert.ok(state.step > 0)
    assert.equal(state.step, readMetrics(run).length)
    assert.ok(!existsSync(path.join(run, 'lock')))
  }

  /** Calls `act` once `text` has been printed on stdout. */
  function at(child: ChildProcess, text: string, act: () => void): Promise<Ended> {
    let done = false
    return ended(child, (stdout) => {
      if (done || !stdout.includes(text)) return
      done = true
      act()
    })
  }

  for (const name of ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGTERM', 'SIGUSR1', 'SIGUSR2', 'SIGPIPE', 'SIGXCPU'] as const) {
    it(`by ${name}`, async () => {
      const child = start(...endless)
      const { code, stdout, stderr } = await at(child, '"event":"step"', () => child.kill(name))
      assert.equal(code, 128 + os.constants.signals[name], stderr)
      await saved()
      const done = JSON.parse(stdout.trimEnd().split('\n').at(-1)!)
      assert.deepEqual([done.event, done.stopped], ['done', 'signal'])
      assert.equal(stderr, `${name}: stopping after this step, and saving\n`)
    })
  }

  it('by signals that come twice, as from a terminal and a wrapper', async () => {
    const child = start(...endless)
    const { code, stderr } = await at(child, '"event":"step"', () => {
      child.kill('SIGINT')
      setTimeout(() => child.kill('SIGINT'), 5)
      setTimeout(() => child.kill('SIGTERM'), 10)
    })
    assert.equal(code, 130, stderr)
    await saved()
  })

  it('by signals that come until it has ended', async () => {
    const child = start(...endless)
    const { code, stderr } = await at(child, '"event":"step"', () => {
      const again = setInterval(() => child.kill('SIGTERM'), 1)
      child.once('exit', () => clearInterval(again))
    })
    assert.equal(code, 143, stderr)
    await saved()
  })

  describe('in a long step', () => {
    const stepOf = (batches: number) => ['--accumulate', String(batches), ...endless]
    const started = '"event":"start"'

    /** Each so long after the answer to the one before that it is not taken for the same. */
    function later(child: ChildProcess, [next, ...rest]: readonly NodeJS.Signals[]): void {
      child.stderr!.once('data', () => {
        const send = () => {
          child.kill(next)
          if (rest.length > 0) later(child, rest)
        }
        setTimeout(send, 2100)
      })
    }

    it('by a second signal, which changes nothing', async () => {
      const child = start(...stepOf(2500))
      const { code, stderr } = await at(child, started, () => {
        child.kill('SIGTERM')
        later(child, ['SIGINT'])
      })
      assert.equal(code, 143, stderr)
      assert.match(stderr, /SIGTERM: stopping.*\nSIGINT: still finishing the step or saving; once more to quit/)
      await saved()
    })

    it('by a third one, which ends it at once', async () => {
      const child = start(...stepOf(40_000)) // more than any machine does until the third
      const { code, stderr } = await at(child, started, () => {
        child.kill('SIGINT')
        later(child, ['SIGINT', 'SIGINT'])
      })
      assert.equal(code, 130, stderr)
      assert.equal((await listCheckpoints(run)).length, 0)
    })
  })

  for (const name of ['stdout', 'stderr'] as const) {
    it(`by the end of the reader of its ${name}`, async () => {
      // Nothing is written to stderr but warnings, skipped files and, in lines for people, checkpoints.
      const flags = name === 'stdout' ? endless : ['--steps', '1000000', '--checkpoint-every', '5', '--keep', '1000']
      const child = start(...flags)
      child[name]!.once('data', () => child[name]!.destroy())
      child[name === 'stdout' ? 'stderr' : 'stdout']!.resume()
      const code = await new Promise((resolve) => child.once('exit', resolve))
      assert.equal(code, 141)
      await saved()
    })

    it(`by a full disk for its ${name}`, async () => {
      const flags = name === 'stdout' ? endless : ['--steps', '1000000', '--checkpoint-every', '5', '--keep', '1000']
      const full = openSync('/dev/full', 'w')
      try {
        const stdio: ('ignore' | number)[] = name === 'stdout' ? ['ignore', full, 'ignore'] : ['ignore', 'ignore', full]
        const args = [cli, 'train', data, '--out', run, ...tinyFlags, ...flags]
        const child = spawn(process.execPath, args, { stdio, env: { ...process.env, DDPM_NUM_THREADS: '1' } })
        assert.equal(await new Promise((resolve) => child.once('exit', resolve)), 1)
      } finally {
        closeSync(full)
      }
      await saved()
    })
  }

  it('by the end of its terminal', async function () {
    const script = path.join(__dirname, '..', '..', '..', 'test', 'train', 'hang_up.py')
    const args = [script, process.execPath, cli, 'train', data, '--out', run, ...tinyFlags, '--steps', '1000000']
    const child = spawn('python3', args, { stdio: ['ignore', 'pipe', 'inherit'] })
    let output = ''
    child.stdout.on('data', (chunk) => {
      output += chunk
    })
    const error = await new Promise((resolve) => {
      child.once('error', resolve)
      child.once('close', () => resolve(undefined))
    })
    if (error) {
      console.log('      not shown: there is no python3')
      return this.skip()
    }
    assert.match(output, /^(129|1)\n$/) // SIGHUP, unless a write has found out first
    await saved()
  })

  it('by a signal, while nobody reads its output', async () => {
    const child = start(...endless, '--batch', '1')
    child.stderr!.resume()
    await new Promise((resolve) => child.stdout!.once('readable', resolve)) // and then it is read no more: it fills up
    const metrics = path.join(run, 'metrics.jsonl')
    while (!existsSync(metrics) || statSync(metrics).size < 200_000)
      await new Promise((resolve) => setTimeout(resolve, 20))
    child.kill('SIGTERM')
    assert.equal(await new Promise((resolve) => child.once('exit', resolve)), 143)
    await saved()
  })

  it('before it has begun', async () => {
    const child = start(...endless)
    const { code, stderr } = await at(child, '"event":"start"', () => child.kill('SIGTERM'))
    assert.equal(code, 143, stderr)
    assert.deepEqual(
      readdirSync(run).filter((name) => name.startsWith('.') || name.startsWith('lock')),
      [],
    )
  })
})
