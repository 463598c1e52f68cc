/**
 * Races for a run folder's lock when it is told to: the calls of the file system take their time, so that what lies between two
 * of them is seen. `hold` says that it keeps the lock, `release` gives it back.
 */
import fs from 'node:fs'
import { Random } from '../support/random'

let random = new Random()
let delay = 0

const nothing = new Int32Array(new SharedArrayBuffer(4))
/** Without taking the processor from those that are to do something meanwhile. */
const sleep = (ms: number) => void Atomics.wait(nothing, 0, 0, ms)

/** Before the module that is attacked is loaded: it may take its functions from `fs` when that happens. */
for (const name of [
  'open',
  'write',
  'writeFile',
  'readFile',
  'rename',
  'link',
  'unlink',
  'rm',
  'stat',
  'mkdir',
  'rmdir',
  'utimes',
]) {
  const key = `${name}Sync` as 'openSync'
  const original = fs[key] as (...args: unknown[]) => unknown
  Object.assign(fs, {
    [key]: (...args: unknown[]) => {
      if (delay > 0) sleep(delay * random.uniform())
      const result = original(...args)
      if (delay > 0) sleep(delay * random.uniform())
      return result
    },
  })
}

export interface Race {
  readonly folder: string
  /** Date.now() at which all begin. */
  readonly at: number
  /** At most, before and after each call, in milliseconds. */
  readonly delay: number
  readonly seed: number
}

async function main(): Promise<void> {
  const { RunLock } = await import('../../lib/train/run-lock.js')
  let lock: Awaited<ReturnType<typeof RunLock.acquire>> | undefined
  const race = async (o: Race): Promise<string> => {
    random = new Random(o.seed)
    delay = 0
    sleep(Math.max(0, o.at - Date.now() - 1))
    while (Date.now() < o.at);
    sleep(o.delay * random.uniform())
    delay = o.delay
    try {
      lock = await RunLock.acquire(o.folder)
      return 'held'
    } catch (error) {
      const { code, message } = error as { code?: string; message: string }
      return code === 'busy' ? 'busy' : `${code}: ${message}`
    } finally {
      delay = 0
    }
  }
  process.on('message', async (message: Race | 'release') => {
    if (message !== 'release') return process.send!(await race(message))
    await lock?.release()
    lock = undefined
    process.send!('released')
  })
  process.on('disconnect', () => process.exit())
  process.send!('ready')
}

void main()
