/** What the hub says that a model has. */
import { credentials, type HubAccess, hubPackage } from './access'
import { isCommit } from './cache'

/** A network's weights: [1] the variant, [2] the form. */
export const weightsFile =
  /^diffusion_pytorch_model(?:\.([\w-]+?))?(?:-\d+-of-\d+)?\.(safetensors|bin)(?:\.index\.json)?$/
/** The same of a text encoder, which is a model of transformers. */
export const textWeightsFile =
  /^(?:pytorch_)?model(?:\.([\w-]+?))?(?:-\d+-of-\d+)?\.(safetensors|bin)(?:\.index\.json)?$/

export interface Listed {
  readonly path: string
  readonly size: number
  /** SHA-256 of a large file, else git's SHA-1. */
  readonly oid: string
}

export interface Listing {
  readonly commit: string
  readonly files: readonly Listed[]
}

/** The files of a revision. Throws what @huggingface/hub and fetch throw, and an Error for an answer that can't be used. */
export async function listModel(name: string, revision: string, access: HubAccess): Promise<Listing> {
  const { listFiles, modelInfo } = await hubPackage(`models of the hub, such as ${name}, need a package`)
  const who = credentials(access)
  const { sha } = await modelInfo({ ...who, name, revision, additionalFields: ['sha'] })
  const files: Listed[] = []
  for await (const { type, path, size, oid, lfs } of listFiles({
    ...who,
    repo: name,
    revision: sha,
    recursive: true,
  })) {
    if (type === 'file') files.push({ path, size: lfs?.size ?? size, oid: lfs?.oid ?? oid ?? '' })
  }
  const bad = files.find(({ oid, size }) => !/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(oid) || !Number.isSafeInteger(size))
  if (!isCommit(sha) || bad) throw new Error(`it lists no commit, or a file without size and hash (${bad?.path})`)
  return { commit: sha, files }
}
