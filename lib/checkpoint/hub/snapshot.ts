/** Models of the Hugging Face hub by their names: brought into its cache, which other tools share. */
import { copyFile, rm, stat, symlink } from 'node:fs/promises'
import path from 'node:path'
import { DiffusionError, invalidArgument } from '../../errors'
import { makeFolder } from '../../make-folder'
import { type HubAccess, hubAccess, hubPackage, isOffline, isRevision, reasonOf, statusOf } from './access'
import { cachedSnapshot, modelFolder, writeRef } from './cache'
import { fetchFile, type HubFile } from './fetch-file'
import { type Listed, type Listing, listModel, textWeightsFile, weightsFile } from './listing'

/** Of what is fetched from the hub. */
export interface HubOptions {
  /** Branch, tag or commit of a model of the hub. Default 'main'. */
  readonly revision?: string
  /** Called with each piece of a download: bytes so far, and of the whole where the server says it. Default: none. */
  readonly onDownload?: (event: { readonly received: number; readonly total: number | undefined }) => unknown
}

/** Which files of a model are read: configurations, a tokenizer's, and the weights of one variant. */
const folders = [
  ...['', 'unet', 'unet_ema', 'scheduler', 'vae', 'vqvae', 'text_encoder', 'bert', 'tokenizer'],
  ...['first_stage', 'cond_stage'], // the layout of our own
]
const configuration = /^(model_index|(scheduler_)?config)\.json$/
const ofTokenizer = /^(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json$|^(merges|vocab)\.txt$/

/**
 * The folder of a model's snapshot in the cache, after what it lacks was fetched: by HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_CACHE,
 * and with HF_HUB_OFFLINE what is there. Throws `not-found`, `io`, `bad-file` where what came is not what the hub lists, and
 * `unsupported` where @huggingface/hub is not installed.
 */
export async function hubSnapshot(name: string, variant: string | undefined, o: HubOptions = {}): Promise<string> {
  const { revision = 'main', onDownload } = o
  if (!isRevision(revision)) throw invalidArgument('revision', 'a branch, a tag or a commit', revision)
  const folder = modelFolder(name)
  const cached = await cachedSnapshot(folder, revision)
  if (isOffline()) {
    if (cached && (await isThere(cached))) return cached
    throw notFound(name, `${revision} is not in the cache (${folder}), and HF_HUB_OFFLINE is set`)
  }
  const access = await hubAccess()
  const { endpoint, token } = access
  const { commit, files } = await list(name, revision, access)
  const wanted = chosen(files, variant)
  const total = wanted.reduce((sum, { size }) => sum + size, 0)
  const snapshot = path.join(folder, 'snapshots', commit)
  let done = 0
  for (const { path: inner, size, oid } of wanted) {
    const url = `${endpoint}/${name}/resolve/${commit}/${inner}`
    const file = { url, name: `${name}/${inner}`, size, oid }
    await bring(file, path.join(folder, 'blobs', oid), path.join(snapshot, inner), token, (bytes) => {
      onDownload?.({ received: done + bytes, total })
    })
    done += size
  }
  await makeFolder(path.dirname(path.join(folder, 'refs', revision)))
  await writeRef(folder, revision, commit)
  return snapshot
}

/** A blob has its hash for a name, so that one that is there is right; a snapshot's files are links to blobs. */
async function bring(
  file: HubFile,
  blob: string,
  link: string,
  token: string | undefined,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const there = await stat(blob).catch(() => undefined)
  if (there?.size !== file.size) {
    await makeFolder(path.dirname(blob))
    await fetchFile(file, blob, token, onBytes)
  }
  if ((await stat(link).catch(() => undefined))?.size === file.size) return
  await makeFolder(path.dirname(link))
  await rm(link, { force: true })
  try {
    await symlink(path.relative(path.dirname(link), blob), link)
  } catch {
    await copyFile(blob, link) // a file system without links
  }
}

/** Those of `variant`, and of two forms safetensors; other files of a repository are left where they are. */
function chosen(files: readonly Listed[], variant: string | undefined): Listed[] {
  const at = files.flatMap((file) => {
    const { dir, base } = path.posix.parse(file.path)
    if (!folders.includes(dir)) return []
    const [, itsVariant, form] =
      (dir === 'text_encoder' || dir === 'bert' ? textWeightsFile : weightsFile).exec(base) ?? []
    return [{ file, dir, base, itsVariant, form }]
  })
  const weights = at.filter(({ form, itsVariant }) => form !== undefined && itsVariant === variant)
  const inSafetensors = (dir: string) => weights.some((w) => w.dir === dir && w.form === 'safetensors')
  const read = weights.filter(({ dir, form }) => form === 'safetensors' || !inSafetensors(dir))
  const configurations = at.filter(
    ({ base, dir, form }) => form === undefined && (dir === 'tokenizer' ? ofTokenizer : configuration).test(base),
  )
  return [...configurations, ...read].map(({ file }) => file)
}

async function list(name: string, revision: string, access: HubAccess): Promise<Listing> {
  const { endpoint, token } = access
  await hubPackage(`${name} is no folder here, and models of the hub need the package @huggingface/hub`)
  try {
    return await listModel(name, revision, access)
  } catch (cause) {
    const status = statusOf(cause)
    const hint = token ? '' : ' (one that is private or gated needs HF_TOKEN)'
    if (status === 404) throw notFound(name, `${endpoint} has none, or no ${revision} of it${hint}`, cause)
    const text = `cannot ask ${endpoint} for ${name}: ${reasonOf(cause)}${status === 401 || status === 403 ? hint : ''}`
    throw new DiffusionError('io', `${text}; HF_HUB_OFFLINE=1 takes what is in the cache`, {
      argument: 'path',
      received: name,
      cause,
    })
  }
}

function notFound(name: string, problem: string, cause?: unknown): DiffusionError {
  const message = `no model ${name}: there is no such folder, and of the hub ${problem}`
  return new DiffusionError('not-found', message, { argument: 'path', received: name, cause })
}

async function isThere(folder: string): Promise<boolean> {
  return (await stat(folder).catch(() => undefined))?.isDirectory() === true
}
