import assert from 'node:assert/strict'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { DiffusionError } from '../../lib/errors'
import { RunLock } from '../../lib/train/run-lock'
import { temporaryFolder } from './support'

describe('run lock', () => {
  const folder = temporaryFolder()
  const file = path.join(folder, 'lock')
  const busy = (error: unknown) => error instanceof DiffusionError && error.code === 'busy'
  const left = (owner: object) => writeFileSync(file, JSON.stringify({ token: 't', host: os.hostname(), ...owner }))

  afterEach(() => assert.deepEqual(readdirSync(folder), []))

  it('is held once, and given back', () => {
    const lock = RunLock.acquire(folder)
    assert.throws(() => RunLock.acquire(folder), busy)
    lock.release()
    RunLock.acquire(folder).release()
    assert.ok(!existsSync(file))
  })

  it('takes over the lock of a process that is gone', () => {
    left({ pid: 2 ** 22 + 1 }) // above Linux' largest pid
    RunLock.acquire(folder).release()
  })

  it('takes over the lock of a process whose pid another one has now', function () {
    if (!existsSync('/proc/self/stat')) this.skip()
    left({ pid: process.ppid, started: '1' })
    RunLock.acquire(folder).release()
  })

  it('respects a live process and another host', () => {
    for (const owner of [{ pid: process.ppid }, { pid: 1, host: 'elsewhere' }]) {
      left(owner)
      assert.throws(() => RunLock.acquire(folder), busy)
    }
    left({ pid: 2 ** 22 + 1 })
    RunLock.acquire(folder).release()
  })

  it('waits for nobody who died while writing it', () => {
    writeFileSync(file, '{"tok')
    assert.throws(() => RunLock.acquire(folder), busy) // may still be writing
    utimesSync(file, 0, 0)
    RunLock.acquire(folder).release()
  })

  it('leaves a lock alone that is no longer its own', () => {
    const lock = RunLock.acquire(folder)
    left({ pid: process.ppid })
    lock.release()
    assert.ok(existsSync(file))
    left({ pid: 2 ** 22 + 1 })
    RunLock.acquire(folder).release()
  })

  it('survives holders and takers that are killed', () => {
    const script = `
      const fs = require('node:fs')
      const fail = (name) => { const own = fs[name]; fs[name] = (...args) => name === process.argv[1] ? process.kill(process.pid, 'SIGKILL') : own(...args) }
      for (const name of ['linkSync', 'renameSync', 'fsyncSync', 'rmSync']) fail(name)
      require(${JSON.stringify(require.resolve('../../lib/train/run-lock'))}).RunLock.acquire(${JSON.stringify(folder)})
      process.kill(process.pid, 'SIGKILL')`
    const die = (where: string) => assert.equal(spawnSync(process.execPath, ['-e', script, where]).signal, 'SIGKILL')
    for (const where of [
      'fsyncSync',
      'linkSync',
      'rmSync',
      'nowhere',
      'renameSync',
      'renameSync',
      'rmSync',
      'renameSync',
    ])
      die(where)
    assert.ok(readdirSync(folder).length > 1)
    const lock = RunLock.acquire(folder)
    assert.equal(JSON.parse(readFileSync(file, 'utf8')).pid, process.pid)
    assert.throws(() => RunLock.acquire(folder), busy)
    lock.release()
    for (const name of readdirSync(folder)) {
      assert.match(name, /^\.ddpm-.*\.tmp$/) // the next writer's to remove
      rmSync(path.join(folder, name))
    }
  })

  it('respects a taker that has not renamed its lock yet', () => {
    left({ pid: 2 ** 22 + 1 })
    const next = path.join(folder, `lock.${createHash('sha256').update('t').digest('hex').slice(0, 16)}`)
    writeFileSync(next, JSON.stringify({ token: 'n', host: os.hostname(), pid: process.ppid }))
    assert.throws(() => RunLock.acquire(folder), busy)
    writeFileSync(next, JSON.stringify({ token: 'n', host: os.hostname(), pid: 2 ** 22 + 1 }))
    RunLock.acquire(folder).release()
  })

  it('says io where it can not be made, and leaves nothing', () => {
    const script = `const { RunLock } = require(${JSON.stringify(require.resolve('../../lib/train/run-lock'))})
      try { RunLock.acquire(${JSON.stringify(folder)}) } catch ({ code, message }) { console.log(code, message) }`
    const { stdout } = spawnSync('bash', ['-c', 'ulimit -f 0; exec "$0" -e "$1"', process.execPath, script], {
      encoding: 'utf8',
    })
    assert.match(stdout, /^io cannot lock .*: the file would be larger than the limit for files/)
  })

  it('has one holder of many that want it at once, also of one that was left behind', async function () {
    this.timeout(120_000)
    const script = `
      const fs = require('node:fs'), path = require('node:path')
      const spin = (ms) => { const end = performance.now() + ms; while (performance.now() < end); }
      for (const name of ['linkSync', 'renameSync', 'rmSync', 'lstatSync']) {
        const own = fs[name]
        fs[name] = (...args) => { spin(2 * Math.random()); try { return own(...args) } finally { spin(Math.random()) } }
      }
      const { RunLock } = require(${JSON.stringify(require.resolve('../../lib/train/run-lock'))})
      process.on('message', (folder) => {
        let answer = 'busy', lock
        try { lock = RunLock.acquire(folder) } catch (error) { if (error.code !== 'busy') answer = String(error) }
        if (lock) {
          answer = 'held'
          const held = path.join(folder, 'held')
          try { fs.closeSync(fs.openSync(held, 'wx')); spin(3); fs.unlinkSync(held) } catch { answer = 'two' }
          lock.release()
        }
        process.send(answer)
      })`
    const stdio = ['ignore', 'ignore', 'inherit', 'ipc'] as const
    const children = Array.from({ length: 5 }, () => spawn(process.execPath, ['-e', script], { stdio: [...stdio] }))
    const answer = (child: ChildProcess, folder: string) =>
      new Promise<string>((resolve) => {
        child.once('message', resolve)
        child.send(folder)
      })
    const base = mkdtempSync(path.join(os.tmpdir(), 'ddpm-lock-'))
    const stale = (token: string) => JSON.stringify({ token, host: os.hostname(), pid: 2 ** 22 + 1 })
    try {
      for (let round = 0; round < 24; round++) {
        const own = path.join(base, String(round))
        mkdirSync(own)
        if (round % 3 < 2) writeFileSync(path.join(own, 'lock'), round % 3 === 0 ? stale('t') : '')
        if (round % 3 === 1) utimesSync(path.join(own, 'lock'), 0, 0)
        if (round % 6 === 0) {
          const next = createHash('sha256').update('t').digest('hex').slice(0, 16)
          writeFileSync(path.join(own, `lock.${next}`), stale('n'))
        }
        const answers = await Promise.all(children.map((child) => answer(child, own)))
        assert.ok(answers.includes('held'), answers.join(' '))
        assert.ok(
          answers.every((a) => a === 'held' || a === 'busy'),
          answers.join(' '),
        )
        assert.deepEqual(readdirSync(own), [])
      }
    } finally {
      for (const child of children) child.disconnect()
      rmSync(base, { recursive: true })
    }
  })
})
