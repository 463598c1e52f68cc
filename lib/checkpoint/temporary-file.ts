/**
 * Temporary files beside what they will become: `.ddpm-<host>-<boot>-<namespace>-<pid>-<started>-<random>.tmp`, so that a later
 * process knows which of them nobody is writing any more. The name does not hold that of the file, which may have all 255 bytes.
 */
import { createHash, randomBytes } from 'node:crypto'
import { unlinkSync } from 'node:fs'
import { readdir, stat, unlink } from 'node:fs/promises'
import path from 'node:path'
import { mayBeAlive, ownProcess, type ProcessId } from '../process-id'

const pattern = /^\.ddpm-([0-9a-f]{8})-([0-9a-f]{0,8})-(\d*)-(\d+)-(\d*)-[0-9a-f]{16}\.tmp$/
/** Another host's files are taken for abandoned after a week. */
const maxAgeMs = 7 * 24 * 3600 * 1000

const open = new Set<string>()

/** A new name in `folder`. It counts as in use until `forget`. */
export function temporaryFile(folder: string): string {
  const { pid, boot, namespace, started } = ownProcess()
  const parts = [hostTag(), shortBoot(boot), namespace ?? '', pid, started ?? '', randomBytes(8).toString('hex')]
  const file = path.join(folder, `.ddpm-${parts.join('-')}.tmp`)
  open.add(file)
  return file
}

/** It has become what it was for, or has been removed. */
export function forgetTemporary(file: string): void {
  open.delete(file)
}

/** Removes the files that are being written, for a process that ends now. */
export function removeTemporaryFiles(): void {
  for (const file of open) {
    try {
      unlinkSync(file)
    } catch {
      // it may not be there yet, and nothing is left to be told
    }
  }
  open.clear()
}

/** Folders by the writes after which they are looked through again: as many as they had entries, so that it costs little. */
const rests = new Map<string, number>()

/** Removes files of writers that are gone. What can't be removed is left. */
export async function removeAbandoned(folder: string): Promise<void> {
  const rest = rests.get(folder) ?? 0
  if (rest > 0) return void rests.set(folder, rest - 1)
  const names = await readdir(folder).catch(() => []) // what is wrong with the folder shows when the file is opened
  if (rests.size >= 1000) rests.clear()
  rests.set(folder, names.length)
  for (const name of names) {
    if (!name.startsWith('.ddpm-')) continue
    const file = path.join(folder, name)
    if (await isAbandoned(file)) await unlink(file).catch(() => {})
  }
}

async function isAbandoned(file: string): Promise<boolean> {
  const match = pattern.exec(path.basename(file))
  if (!match) return false
  const [, host, boot, namespace, pid, started] = match
  const self = ownProcess()
  if (host !== hostTag()) {
    const { mtimeMs } = await stat(file).catch(() => ({ mtimeMs: Number.NaN }))
    return Date.now() - mtimeMs > maxAgeMs
  }
  const known = (text: string) => (text === '' ? undefined : text)
  const writer: ProcessId = {
    host: self.host,
    boot: boot === shortBoot(self.boot) ? self.boot : known(boot),
    namespace: known(namespace),
    pid: Number(pid),
    started: known(started),
  }
  return !mayBeAlive(writer)
}

function hostTag(): string {
  return createHash('sha256').update(ownProcess().host).digest('hex').slice(0, 8)
}

function shortBoot(boot: string | undefined): string {
  return boot?.slice(0, 8) ?? ''
}
