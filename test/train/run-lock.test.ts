import assert from 'node:assert/strict'
import { existsSync, readdirSync, utimesSync, writeFileSync } from 'node:fs'
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
})
