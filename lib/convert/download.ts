/** Files by their URLs: fetched once into a cache, and asked for again only whether they have changed. */
import { createHash } from 'node:crypto'
import { readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { cacheFolder } from '../cache-folder'
import { atomicWrite } from '../checkpoint/atomic-write'
import { DiffusionError } from '../errors'
import { makeFolder } from '../make-folder'

export interface DownloadOptions {
  /** Called with each piece of a download: bytes so far, and of the whole where the server says it. Default: none. */
  readonly onDownload?: (event: { readonly received: number; readonly total: number | undefined }) => unknown
}

/** A server that sends nothing for so long is given up. */
const stallMs = 60_000

/**
 * The path of the file in the cache: DDPM_CACHE, or ddpm-native in XDG_CACHE_HOME or ~/.cache. Throws `not-found` where the server has
 * no such file, and `io` where it can't be reached, sends less than it says, or nothing for a minute; what was in the cache stays.
 */
export async function download(url: URL, { onDownload }: DownloadOptions = {}): Promise<string> {
  const folder = path.join(cacheFolder(), createHash('sha256').update(url.href).digest('hex').slice(0, 16))
  const file = path.join(folder, path.posix.basename(url.pathname).replace(/[^\w.-]/g, '_') || 'model')
  const tagFile = path.join(folder, '.etag')
  const cached = await isFile(file)
  const tag = cached ? await readFile(tagFile, 'utf8').catch(() => undefined) : undefined
  const stall = new AbortController()
  const kept = cached ? ` (a copy of before is ${file})` : ''
  let timer = setTimeout(() => stall.abort(), stallMs)
  try {
    const response = await fetch(url, { headers: tag ? { 'if-none-match': tag } : {}, signal: stall.signal })
    if (response.status === 304 && cached) {
      await response.body?.cancel()
      return file
    }
    if (!response.ok || !response.body) throw await refused(url, response)
    const length = response.headers.get('content-encoding') ? null : response.headers.get('content-length')
    const total = length === null ? undefined : Number(length)
    const { body } = response
    await makeFolder(folder)
    await atomicWrite(file, async (handle) => {
      let received = 0
      const pieces = body[Symbol.asyncIterator]()
      const next = () =>
        pieces.next().catch((error) => {
          throw stall.signal.aborted ? error : broken(url, `${reasonOf(error)}${kept}`, error)
        })
      for (let at = await next(); !at.done; at = await next()) {
        const piece: Uint8Array = at.value
        clearTimeout(timer)
        timer = setTimeout(() => stall.abort(), stallMs)
        await handle.writeFile(piece)
        received += piece.length
        onDownload?.({ received, total })
      }
      if (total !== undefined && received !== total) throw broken(url, `it ended after ${received} of ${total} bytes`)
    })
    await atomicWrite(tagFile, response.headers.get('etag') ?? '')
    return file
  } catch (error) {
    if (stall.signal.aborted) throw broken(url, `nothing came for ${stallMs / 1000} s${kept}`, error)
    if (error instanceof DiffusionError) throw error
    throw broken(url, `${reasonOf(error)}${kept}`, error)
  } finally {
    clearTimeout(timer)
  }
}

async function refused(url: URL, response: Response): Promise<DiffusionError> {
  await response.body?.cancel()
  const { status, statusText } = response
  const code = status === 404 || status === 410 ? 'not-found' : 'io'
  const message = `cannot download ${shown(url)}: the server says ${status} ${statusText}`
  return new DiffusionError(code, message, { argument: 'path', received: shown(url) })
}

function broken(url: URL, problem: string, cause?: unknown): DiffusionError {
  const message = `cannot download ${shown(url)}: ${problem}`
  return new DiffusionError('io', message, { argument: 'path', received: shown(url), cause })
}

/** Without what may be secret. */
function shown({ origin, pathname }: URL): string {
  return origin + pathname
}

/** fetch says why in the error's cause. */
function reasonOf(error: unknown): string {
  const cause = error instanceof Error ? error.cause : undefined
  if (cause instanceof Error && cause.message) return cause.message
  return error instanceof Error ? error.message : String(error)
}

async function isFile(file: string): Promise<boolean> {
  return (await stat(file).catch(() => undefined))?.isFile() === true
}
