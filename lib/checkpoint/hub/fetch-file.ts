/** One file of the hub: fetched piece by piece, gone on with where it broke off, and compared with what the hub lists. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open, rename, rm, stat } from 'node:fs/promises'
import { setTimeout as wait } from 'node:timers/promises'
import { DiffusionError } from '../../errors'

export interface HubFile {
  /** Where it is fetched from. */
  readonly url: string
  /** What it is called in messages. */
  readonly name: string
  /** As the hub lists them. `oid`: SHA-256 of a large file, else git's SHA-1. */
  readonly size: number
  readonly oid: string
}

/** Attempts in a row that bring nothing. */
const maxIdle = 4
/** A server that sends nothing for so long is asked again. */
const stallMs = 30_000
/** Before the second attempt; twice as long before each further one. */
const pauseMs = 200

/**
 * Writes it to `target` when it is whole; until then it is target.incomplete, which a later call goes on with. `onBytes`: how many
 * there are so far. Throws `io` where the server can't be reached or breaks off again and again, `not-found`, and `bad-file` where
 * what came has not the size and hash that were listed; then nothing of it is kept.
 */
export async function fetchFile(
  file: HubFile,
  target: string,
  token: string | undefined,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const part = `${target}.incomplete`
  let problem: unknown
  for (let idle = 0; ; ) {
    const before = await sizeOf(part)
    if (before > 0 && before >= file.size) break
    try {
      await fetchRest(file, part, { from: before, token, onBytes })
    } catch (error) {
      if (error instanceof DiffusionError) throw error
      problem = error
    }
    const now = await sizeOf(part)
    if (now >= file.size) break
    idle = now > before ? 0 : idle + 1
    if (idle === maxIdle) throw broken(file, `it breaks off after ${now} of ${file.size} bytes`, problem)
    await wait(pauseMs * 2 ** idle)
  }
  const hash = await hashOf(file, part)
  if (hash !== file.oid) throw await lie(file, part, `its hash is ${hash}`)
  await rename(part, target)
}

async function fetchRest(
  file: HubFile,
  part: string,
  o: { readonly from: number; readonly token?: string; readonly onBytes: (bytes: number) => void },
): Promise<void> {
  const stall = new AbortController()
  const timer = setTimeout(() => stall.abort(new Error(`nothing came for ${stallMs / 1000} s`)), stallMs)
  try {
    const headers = {
      'accept-encoding': 'identity',
      ...(o.token && { authorization: `Bearer ${o.token}` }), // fetch leaves it out where it is sent on to another host
      ...(o.from > 0 && { range: `bytes=${o.from}-` }),
    }
    const response = await fetch(file.url, { headers, signal: stall.signal })
    if (!response.ok || !response.body) {
      await response.body?.cancel()
      const says = `the server says ${response.status} ${response.statusText}`
      if (response.status === 404) throw new DiffusionError('not-found', `${file.name}: ${says}`, { argument: 'path' })
      if (response.status < 500 && response.status !== 429) throw broken(file, says)
      throw new Error(says)
    }
    const goesOn = response.status === 206 && response.headers.get('content-range')?.startsWith(`bytes ${o.from}-`)
    let have = goesOn ? o.from : 0
    const handle = await open(part, goesOn ? 'a' : 'w')
    try {
      for await (const piece of response.body) {
        timer.refresh()
        have += piece.length
        if (have > file.size) throw await lie(file, part, 'more is sent')
        await handle.writeFile(piece)
        o.onBytes(have)
      }
    } finally {
      await handle.close()
    }
  } finally {
    clearTimeout(timer)
  }
}

/** Of large files SHA-256, else that of a git blob. */
async function hashOf({ oid, size }: HubFile, part: string): Promise<string> {
  const hash = oid.length === 64 ? createHash('sha256') : createHash('sha1').update(`blob ${size}\0`)
  for await (const piece of createReadStream(part)) hash.update(piece)
  return hash.digest('hex')
}

async function lie(file: HubFile, part: string, problem: string): Promise<DiffusionError> {
  await rm(part, { force: true })
  const message = `${file.name} is not what the hub lists (${file.size} bytes, ${file.oid}): ${problem}; it was not kept`
  return new DiffusionError('bad-file', message, { argument: 'path', expected: file.oid, received: problem })
}

function broken(file: HubFile, problem: string, cause?: unknown): DiffusionError {
  const reason = cause instanceof Error ? `: ${(cause.cause as Error | undefined)?.message || cause.message}` : ''
  const message = `cannot download ${file.name}: ${problem}${reason}; what came is kept, and a further call goes on with it`
  return new DiffusionError('io', message, { argument: 'path', cause })
}

async function sizeOf(file: string): Promise<number> {
  return (await stat(file).catch(() => undefined))?.size ?? 0
}
