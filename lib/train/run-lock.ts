/**
 * One training a run folder: a file `lock` that names the process, removed when it ends.
 *
 * A lock L whose process is gone is never removed, only succeeded. Its successor is made under a name that follows from L's token,
 * by link(2), which only one process can do and which makes a complete file. Who made it and then still finds L in `lock` holds the
 * folder, and renames its file onto `lock`. So no two can hold it: up to that rename the name is taken, and who gets the name
 * after it finds another lock in `lock`, as no token comes twice. A successor that died before its rename is succeeded likewise.
 * (Whoever deletes `lock` by hand must know that its process is gone.)
 */
import { createHash, randomUUID } from 'node:crypto'
import {
  closeSync,
  fsyncSync,
  linkSync,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { forgetTemporary, temporaryFile } from '../checkpoint/temporary-file'
import { DiffusionError } from '../errors'
import { ioError, systemCode } from '../file-errors'
import { mayBeAlive, ownProcess, type ProcessId } from '../process-id'

interface Owner extends ProcessId {
  readonly token: string
}

/** What is in a lock's file. */
interface Found {
  /** The token; of half a file, what tells it from another one. */
  readonly id: string
  /** Undefined for half a file: where links can't be made it is there before it is written, and a full disk may leave it so. */
  readonly owner?: Owner
  readonly alive: boolean
}

/** An owner that has not finished writing its lock file gets this long. */
const writingGraceMs = 10_000
/** Each further one means that another process has come first meanwhile. */
const attempts = 100

export class RunLock {
  readonly #folder: string
  readonly #owner: Owner

  private constructor(folder: string, owner: Owner) {
    this.#folder = folder
    this.#owner = owner
  }

  /** Takes the lock of `folder`; one that a dead process left is taken over. Throws `busy`, and `io`. */
  static acquire(folder: string): RunLock {
    const owner: Owner = { token: randomUUID(), ...ownProcess() }
    const own = temporaryFile(folder)
    try {
      writeWhole(own, owner)
      for (let attempt = 0; attempt < attempts; attempt++) {
        if (!take(folder, own)) continue
        removeOutdated(folder)
        return new RunLock(folder, owner)
      }
      throw locked(folder, undefined)
    } catch (error) {
      throw ioError(`cannot lock ${folder}`, error, { path: folder, argument: 'out' })
    } finally {
      rmSync(own, { force: true })
      forgetTemporary(own)
    }
  }

  /** `folder`: where it is now. A lock that can't be removed is one of a dead process soon. */
  release(folder = this.#folder): void {
    const file = path.join(folder, 'lock')
    for (let tries = 0; tries < 2; tries++) {
      try {
        if (find(file)?.id === this.#owner.token) rmSync(file, { force: true })
        return
      } catch {
        // what the training did is done
      }
    }
  }
}

/** One attempt. False where others have changed something under way. Throws `busy`. */
function take(folder: string, own: string): boolean {
  const file = path.join(folder, 'lock')
  if (make(file, own)) return true
  const first = find(file)
  if (!first) return false
  for (let last: Found = first; ; ) {
    if (last.alive) throw locked(folder, last.owner)
    const next = path.join(folder, successorName(last.id))
    if (make(next, own)) {
      const holds = find(file)?.id === first.id
      try {
        if (holds) renameSync(next, file)
      } finally {
        rmSync(next, { force: true }) // not there any more if it has been renamed
      }
      return holds
    }
    const found = find(next)
    if (!found) return false
    last = found
  }
}

function successorName(id: string): string {
  return `lock.${createHash('sha256').update(id).digest('hex').slice(0, 16)}` // a file's token may hold anything
}

function writeWhole(file: string, owner: Owner): void {
  const fd = openSync(file, 'wx')
  try {
    writeFileSync(fd, JSON.stringify(owner))
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}

/** Gives the file `own` the name `file` as well, unless that is taken. */
function make(file: string, own: string): boolean {
  try {
    linkSync(own, file)
    return true
  } catch (error) {
    const code = systemCode(error) ?? ''
    // A network file system may have done it, lost its answer, and been asked again.
    if (code === 'EEXIST') return lstatSync(own).nlink === 2
    if (!['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK'].includes(code)) throw error
  }
  const contents = readFileSync(own)
  // Whoever slept for long while writing may have been taken for dead.
  return makeWithoutLinks(file, contents) && readFileSync(file).equals(contents)
}

/** On file systems without links (FAT, some network shares) the file is there a moment before its contents. */
function makeWithoutLinks(file: string, contents: Buffer): boolean {
  let fd: number
  try {
    fd = openSync(file, 'wx')
  } catch (error) {
    if (systemCode(error) === 'EEXIST') return false
    throw error
  }
  try {
    writeFileSync(fd, contents)
    fsyncSync(fd)
    return true
  } catch (error) {
    rmSync(file, { force: true })
    throw error
  } finally {
    closeSync(fd)
  }
}

/** Undefined where there is none. */
function find(file: string): Found | undefined {
  try {
    const stats = lstatSync(file)
    const { ino, mtimeMs, size } = stats
    if (!stats.isFile()) throw new Error(`${file} is not a file; delete it`)
    const owner = size < 65_536 ? parse(readFileSync(file, 'utf8')) : undefined
    if (owner) return { id: owner.token, owner, alive: mayBeAlive(owner) }
    return { id: `half ${ino} ${mtimeMs}`, alive: Math.abs(Date.now() - mtimeMs) < writingGraceMs }
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined
    throw error
  }
}

function parse(text: string): Owner | undefined {
  try {
    const owner = JSON.parse(text)
    const whole = Number.isInteger(owner?.pid) && typeof owner.token === 'string' && typeof owner.host === 'string'
    return whole ? owner : undefined
  } catch {
    return undefined
  }
}

/** Successors that nobody will look for again, now that another lock is in `lock`. What can't be removed does no harm. */
function removeOutdated(folder: string): void {
  try {
    for (const name of readdirSync(folder)) {
      if (/^lock\.[0-9a-f]{16}$/.test(name)) rmSync(path.join(folder, name), { force: true })
    }
  } catch {
    // the next holder's
  }
}

function locked(folder: string, owner: Owner | undefined): DiffusionError {
  const by = owner ? `process ${owner.pid} on ${owner.host}` : 'another process'
  const hint = `if that process is gone, delete ${path.join(folder, 'lock')}`
  return new DiffusionError('busy', `${folder} is in use by another training (${by}; ${hint})`, {
    argument: 'out',
    expected: 'a run folder that no other training is using',
    received: folder,
  })
}
