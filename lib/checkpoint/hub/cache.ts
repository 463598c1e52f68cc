/** The cache that all tools of the hub share: models--OWNER--NAME/ with blobs/, snapshots/COMMIT/ and refs/. */
import { readFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { atomicWrite } from '../atomic-write'

/** HF_HOME, by default ~/.cache/huggingface. */
function home(): string {
  const { HF_HOME, XDG_CACHE_HOME } = process.env
  return HF_HOME || path.join(XDG_CACHE_HOME || path.join(os.homedir(), '.cache'), 'huggingface')
}

/** The folder of a model in the cache: in HF_HUB_CACHE, by default HF_HOME's hub. */
export function modelFolder(name: string): string {
  const { HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE } = process.env
  const cache = HF_HUB_CACHE || HUGGINGFACE_HUB_CACHE || path.join(home(), 'hub')
  return path.join(cache, `models--${name.replace('/', '--')}`)
}

/** HF_TOKEN, or what a login with the hub's tools left. */
export async function accessToken(): Promise<string | undefined> {
  const { HF_TOKEN, HF_TOKEN_PATH } = process.env
  if (HF_TOKEN) return HF_TOKEN.trim()
  const saved = await readFile(HF_TOKEN_PATH || path.join(home(), 'token'), 'utf8').catch(() => '')
  return saved.trim() || undefined
}

export const isCommit = (revision: string) => /^[0-9a-f]{40}$/.test(revision)

/** The snapshot of a branch, tag or commit that was fetched whole before; undefined where there is none. */
export async function cachedSnapshot(folder: string, revision: string): Promise<string | undefined> {
  const named = await readFile(path.join(folder, 'refs', revision), 'utf8').catch(() => '')
  const commit = isCommit(revision) ? revision : named.trim()
  return isCommit(commit) ? path.join(folder, 'snapshots', commit) : undefined
}

export async function writeRef(folder: string, revision: string, commit: string): Promise<void> {
  if (!isCommit(revision)) await atomicWrite(path.join(folder, 'refs', revision), commit)
}
