/** One training a run folder: a file `lock` that names the process, removed when it ends. */
import { randomUUID } from 'node:crypto'
import { readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { DiffusionError } from '../errors'

interface Owner {
  readonly token: string
  readonly pid: number
  readonly host: string
  /** When the process started, where the system tells: a pid alone may belong to another process by now. */
  readonly started?: string
}

/** An owner that has not finished writing its lock file gets this long. */
const writingGraceMs = 10_000

export class RunLock {
  readonly #file: string
  readonly #owner: Owner

  private constructor(file: string, owner: Owner) {
    this.#file = file
    this.#owner = owner
  }

  /** Takes the lock of `folder`; one that a dead process left is taken over. Throws `busy`. */
  static acquire(folder: string): RunLock {
    const file = path.join(folder, 'lock')
    const owner: Owner = {
      token: randomUUID(),
      pid: process.pid,
      host: os.hostname(),
      started: processStart(process.pid),
    }
    for (let attempt = 0; attempt < 5; attempt++) {
      try {
        writeFileSync(file, JSON.stringify(owner), { flag: 'wx' })
        return new RunLock(file, owner)
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
      }
      const other = readOwner(file)
      if (other === 'gone') continue
      if (other === 'writing' || isAlive(other)) throw locked(folder, file, other)
      takeAway(file, other)
    }
    throw locked(folder, file, 'writing')
  }

  release(): void {
    const owner = readOwner(this.#file)
    if (typeof owner === 'object' && owner.token === this.#owner.token) rmSync(this.#file, { force: true })
  }
}

function readOwner(file: string): Owner | 'gone' | 'writing' {
  try {
    const text = readFileSync(file, 'utf8')
    try {
      const owner = JSON.parse(text)
      if (Number.isInteger(owner?.pid) && typeof owner.token === 'string') return owner
    } catch {
      // handled below: half a file
    }
    const age = Date.now() - statSync(file).mtimeMs
    return age < writingGraceMs ? 'writing' : { token: '', pid: 0, host: os.hostname() }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 'gone'
    throw error
  }
}

/** A process on another host can't be asked, so it counts as alive. */
function isAlive(owner: Owner): boolean {
  if (owner.host !== os.hostname()) return true
  if (owner.pid <= 0) return false
  try {
    process.kill(owner.pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
  const started = processStart(owner.pid)
  return owner.started === undefined || started === undefined || owner.started === started
}

/** Field 22 of /proc/<pid>/stat (after the name, which may hold spaces); undefined where there is no /proc. */
function processStart(pid: number): string | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return text.slice(text.lastIndexOf(')') + 2).split(' ')[19]
  } catch {
    return undefined
  }
}

/** Removes a stale lock, unless another process has replaced it in the meantime. */
function takeAway(file: string, stale: Owner): void {
  const aside = `${file}.stale-${randomUUID()}`
  try {
    renameSync(file, aside)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw error
  }
  const moved = readOwner(aside)
  if (typeof moved === 'object' && moved.token === stale.token) rmSync(aside, { force: true })
  else renameSync(aside, file)
}

function locked(folder: string, file: string, owner: Owner | 'writing'): DiffusionError {
  const by = typeof owner === 'object' ? `process ${owner.pid} on ${owner.host}` : 'another process'
  const hint = `if that process is gone, delete ${file}`
  return new DiffusionError('busy', `${folder} is in use by another training (${by}; ${hint})`, {
    argument: 'out',
    expected: 'a run folder that no other training is using',
    received: folder,
  })
}
