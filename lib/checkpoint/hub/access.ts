/** Where the hub is, who asks, and what it says when it refuses. */
import { DiffusionError } from '../../errors'
import { accessToken } from './cache'

export interface HubAccess {
  readonly endpoint: string
  readonly token?: string
}

/** HF_ENDPOINT and HF_TOKEN, or the token that a login has left. */
export async function hubAccess(): Promise<HubAccess> {
  const endpoint = (process.env.HF_ENDPOINT || 'https://huggingface.co').replace(/\/+$/, '')
  return { endpoint, token: await accessToken() }
}

/** HF_HUB_OFFLINE. */
export function isOffline(): boolean {
  return /^(1|true|yes|on)$/i.test(process.env.HF_HUB_OFFLINE ?? '')
}

/** As @huggingface/hub takes it. */
export function credentials({ endpoint, token }: HubAccess) {
  return { hubUrl: endpoint, ...(token && { accessToken: token }) }
}

/** The package, which is loaded when it is needed. Throws `unsupported` with `message` where it is not installed. */
export function hubPackage(message: string): Promise<typeof import('@huggingface/hub')> {
  return import('@huggingface/hub').catch((cause) => {
    throw new DiffusionError('unsupported', `${message}: npm install @huggingface/hub`, { cause })
  })
}

/** The status of an answer that says no; undefined of other errors. */
export function statusOf(error: unknown): number | undefined {
  return (error as { statusCode?: number } | undefined)?.statusCode
}

/** fetch says why in the error's cause. */
export function reasonOf(error: unknown): string {
  const { cause, message } = error as Error
  return (cause instanceof Error && cause.message) || message
}

/** 'a branch, a tag or a commit' as it may be in an address. */
export function isRevision(revision: unknown): revision is string {
  return typeof revision === 'string' && /^\w[\w./-]*$/.test(revision) && !revision.includes('..')
}

/** 'google/ddpm-cifar10-32'. */
export function isHubName(name: unknown): boolean {
  return typeof name === 'string' && /^\w[\w.-]*\/\w[\w.-]*$/.test(name) && !/\.\.|--/.test(name)
}
