/** What the file system refused, as a DiffusionError. */
import { DiffusionError } from './errors'

/** In plain words where there are any. */
const reasons: Readonly<Record<string, string>> = {
  ENOSPC: 'the disk is full',
  EDQUOT: "the disk's quota is used up",
  EFBIG: 'the file would be larger than the limit for files',
  EROFS: 'the file system is read-only',
  EACCES: 'permission denied',
  EPERM: 'operation not permitted',
  EEXIST: 'it is there already',
  EISDIR: 'it is a folder',
  ENOTDIR: 'a part of its path is a file, not a folder',
  ENOENT: 'there is no such file or folder',
  ELOOP: 'its symbolic links form a loop',
  ENAMETOOLONG: 'the name is too long',
  EMFILE: 'too many files are open in this process',
  ENFILE: 'too many files are open on this machine',
  EIO: 'input/output error',
  ENOMEM: 'the system is out of memory',
  ESTALE: 'the network file system has lost it',
  EPIPE: 'its reader has gone',
}

/** The system's code of an error, such as 'ENOSPC', wherever it is among the causes. */
export function systemCode(error: unknown): string | undefined {
  for (let e = error, depth = 0; e instanceof Error && depth < 8; e = e.cause, depth++) {
    const { code, errno } = e as NodeJS.ErrnoException
    if (typeof code === 'string' && (errno !== undefined || Object.hasOwn(reasons, code))) return code
  }
  return undefined
}

export function reasonOf(error: unknown): string {
  const code = systemCode(error)
  if (code !== undefined && Object.hasOwn(reasons, code)) return reasons[code]
  return error instanceof Error ? error.message : String(error)
}

/** `io`: "cannot write a.png: the disk is full (the old file is unchanged)". A DiffusionError is returned as it is. */
export function ioError(
  what: string,
  cause: unknown,
  o: { path: string; kept?: string; argument?: string },
): DiffusionError {
  if (cause instanceof DiffusionError) return cause
  const message = `${what}: ${reasonOf(cause)}${o.kept ? ` (${o.kept})` : ''}`
  return new DiffusionError('io', message, { argument: o.argument ?? 'path', received: o.path, cause })
}
