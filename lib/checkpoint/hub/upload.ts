/** A folder as one commit of a model of the hub, and what is there afterwards compared with what was sent. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { DiffusionError, invalidArgument } from '../../errors'
import {
  credentials,
  type HubAccess,
  hubAccess,
  hubPackage,
  isHubName,
  isOffline,
  isRevision,
  reasonOf,
  statusOf,
} from './access'
import { isCommit } from './cache'
import { type Listing, listModel, weightsFile } from './listing'

export interface UploadOptions {
  /** Branch, which is made where there is none of the name. Default 'main'. */
  readonly revision?: string
  /** Whether a model that is made by this is private. Default: what the hub does, for most owners public. */
  readonly private?: boolean
  /** First line of the commit. Default 'Upload model'. */
  readonly commitMessage?: string
  /** Called as files arrive: bytes so far, and of all that is sent. Default: none. */
  readonly onUpload?: (event: { readonly sent: number; readonly total: number }) => unknown
  /** Ends it, with `aborted`; what arrived before the commit changes nothing. Default: none. */
  readonly signal?: AbortSignal
}

export interface UploadResult {
  /** The commit that has the files; that of before where all of them were there already. */
  readonly commit: string
  /** Its address. */
  readonly url: string
  /** Paths of what was sent. */
  readonly files: readonly string[]
  /** Weights that the commit removes, which were of an earlier model. */
  readonly removed: readonly string[]
}

interface LocalFile {
  readonly path: string
  readonly size: number
  /** Git's SHA-1, and SHA-256: the hub decides by which it lists the file. */
  readonly oids: readonly string[]
}

/** Attempts at what can be repeated without harm. */
const maxAttempts = 4
const pauseMs = 200

/**
 * Sends what differs from what the model has there. `keep`: paths that are left as they are where there are some. Weights in the
 * same places that the folder has not got are removed. Throws `not-configured` without a token, `io`, `aborted`, `bad-file` where
 * the hub lists something else afterwards, and `unsupported` without @huggingface/hub.
 */
export async function uploadFolder(
  name: string,
  folder: string,
  o: UploadOptions & { readonly keep: readonly string[]; readonly variant?: string },
): Promise<UploadResult> {
  const { revision = 'main', commitMessage = 'Upload model', signal } = o
  if (!isHubName(name)) throw invalidArgument('name', "a model's name, such as 'owner/name'", name)
  if (!isRevision(revision) || isCommit(revision)) throw invalidArgument('revision', 'a branch', revision)
  const access = await hubAccess()
  if (isOffline()) throw failed('io', name, 'HF_HUB_OFFLINE is set')
  if (!access.token) {
    throw failed('not-configured', name, 'it needs a token that may write: HF_TOKEN, or the file that a login leaves')
  }
  const { commitIter, createBranch, createRepo } = await hubPackage('pushToHub needs the package @huggingface/hub')
  const repeated = repeating(signal)
  const who = { ...credentials(access), accessToken: access.token, repo: name, fetch: repeated }
  try {
    signal?.throwIfAborted()
    let before = await find(name, revision, access)
    if (!before) {
      if (!(await find(name, 'main', access))) await unlessThere(createRepo({ ...who, private: o.private }))
      if (revision !== 'main') await unlessThere(createBranch({ ...who, branch: revision }))
      before = await find(name, revision, access)
    }
    const there = new Map((before?.files ?? []).map((file) => [file.path, file]))
    const all = (await localFiles(folder)).filter((file) => !(o.keep.includes(file.path) && there.has(file.path)))
    const files = all.filter(({ path, oids }) => !oids.includes(there.get(path)?.oid ?? ''))
    const removed = [...there.keys()].filter((file) => isStale(file, o.variant) && !all.some((f) => f.path === file))
    if (before && files.length === 0 && removed.length === 0) return result(name, access, before.commit, [], [])

    signal?.throwIfAborted() // commitIter only listens to what comes later
    const arrived = progressOf(files, o.onUpload)
    const operations = [
      ...files.map((file) => ({
        operation: 'addOrUpdate' as const,
        path: file.path,
        content: pathToFileURL(path.join(folder, file.path)),
      })),
      ...removed.map((file) => ({ operation: 'delete' as const, path: file })),
    ]
    const fits = ({ files: listed }: Listing) =>
      all.every(({ path, size, oids }) =>
        listed.some((file) => file.path === path && file.size === size && oids.includes(file.oid)),
      ) && !listed.some((file) => removed.includes(file.path))
    const made = await commit().catch(async (error) => {
      // The connection may have broken after the commit was made.
      if (signal?.aborted || statusOf(error) !== undefined) throw error
      const now = await find(name, revision, access)
      if (!now || now.commit === before?.commit || !fits(now)) throw error
      return now.commit
    })
    if (!isCommit(made) || !fits(await listModel(name, made, access))) throw lie(name, made)
    arrived.end()
    return result(
      name,
      access,
      made,
      files.map((file) => file.path),
      removed,
    )

    async function commit(): Promise<string> {
      const parentCommit = before?.commit
      const steps = commitIter({
        ...who,
        operations,
        title: commitMessage,
        branch: revision,
        ...(parentCommit && { parentCommit }),
        abortSignal: signal,
      })
      for (;;) {
        const { done, value } = await steps.next()
        if (done) return value?.commit.oid ?? ''
        if (value.event === 'fileProgress' && value.state === 'uploading') arrived.add(value.path, value.progress)
      }
    }
  } catch (error) {
    if (signal?.aborted) throw new DiffusionError('aborted', 'the upload was aborted', { cause: signal.reason })
    if (error instanceof DiffusionError) throw error
    throw failed('io', name, why(error, access), error)
  }
}

/** Undefined where there is no such model or revision. */
async function find(name: string, revision: string, access: HubAccess): Promise<Listing | undefined> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await listModel(name, revision, access)
    } catch (error) {
      const status = statusOf(error)
      if (status === 404) return undefined
      // A model that is not there is 401 to some who ask for it.
      if (attempt === maxAttempts || (status !== undefined && status < 500)) throw error
      await wait(pauseMs * 2 ** attempt)
    }
  }
}

async function unlessThere(made: Promise<unknown>): Promise<void> {
  await made.catch((error) => {
    if (statusOf(error) !== 409) throw error
  })
}

/** Of weights that lie where the model's are: what others would take for them. */
function isStale(file: string, variant: string | undefined): boolean {
  const { dir, base } = path.posix.parse(file)
  const match = weightsFile.exec(base)
  return dir === 'unet' && match !== null && match[1] === variant
}

async function localFiles(folder: string): Promise<LocalFile[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  const files = entries.filter((entry) => entry.isFile()).map((entry) => path.join(entry.parentPath, entry.name))
  return Promise.all(
    files.sort().map(async (file) => {
      const sha256 = createHash('sha256')
      let size = 0
      for await (const piece of createReadStream(file)) {
        sha256.update(piece)
        size += piece.length
      }
      const git = createHash('sha1').update(`blob ${size}\0`)
      for await (const piece of createReadStream(file)) git.update(piece)
      const inner = path.relative(folder, file).split(path.sep).join('/')
      return { path: inner, size, oids: [git.digest('hex'), sha256.digest('hex')] }
    }),
  )
}

function progressOf(files: readonly LocalFile[], onUpload: UploadOptions['onUpload']) {
  const total = files.reduce((sum, { size }) => sum + size, 0)
  const shares = new Map<string, number>()
  let last = -1
  const tell = (sent: number) => {
    if (sent > last) onUpload?.({ sent, total })
    last = Math.max(last, sent)
  }
  return {
    add: (file: string, share: number) => {
      shares.set(file, Math.min(1, Math.max(0, share)))
      tell(Math.round(files.reduce((sum, { path, size }) => sum + size * (shares.get(path) ?? 0), 0)))
    },
    end: () => tell(total),
  }
}

/** fetch that is asked again where a connection breaks or the server is out of order; not for the commit, which would be a second. */
function repeating(signal: AbortSignal | undefined): typeof fetch {
  return async (input, init) => {
    const isCommitment = init?.method === 'POST' && /\/commit\/[^/]*$/.test(new URL(String(input)).pathname)
    for (let attempt = 1; ; attempt++) {
      const isLast = isCommitment || attempt === maxAttempts
      try {
        const response = await fetch(input, { ...init, signal: init?.signal ?? signal })
        if (isLast || (response.status < 500 && response.status !== 429)) return response
        await response.body?.cancel()
      } catch (error) {
        if (isLast || signal?.aborted || init?.signal?.aborted) throw error
      }
      await wait(pauseMs * 2 ** attempt, undefined, { signal })
    }
  }
}

function result(
  name: string,
  { endpoint }: HubAccess,
  commit: string,
  files: string[],
  removed: string[],
): UploadResult {
  return { commit, url: `${endpoint}/${name}/tree/${commit}`, files, removed }
}

function why(error: unknown, { endpoint }: HubAccess): string {
  const status = statusOf(error)
  const says = `${endpoint}: ${reasonOf(error)}`
  if (status === 401 || status === 403) return `${says}; the token must be one that may write there`
  if (status === 412) return `${says}; it was changed meanwhile, and a further call begins with what it is now`
  return `${says}; nothing was changed but what a further call needs not send again`
}

function lie(name: string, commit: string): DiffusionError {
  const message = `${name} is not what was sent: the hub lists other sizes or hashes for the commit ${commit}`
  return new DiffusionError('bad-file', message, { argument: 'name', received: name })
}

function failed(code: 'io' | 'not-configured', name: string, problem: string, cause?: unknown): DiffusionError {
  return new DiffusionError(code, `cannot upload ${name}: ${problem}`, { argument: 'name', received: name, cause })
}
