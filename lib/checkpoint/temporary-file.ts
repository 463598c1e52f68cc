/**
 * Temporary files beside what they will become: `.ddpm-<host>-<boot>-<namespace>-<pid>-<started>-<random>.tmp`, so that a later
 * process knows which of them nobody is writing any more. The name does not hold that of the file, which may have all 255 bytes.
 */
import { createHash, randomBytes } from 'node:crypto'
import { unlinkSync } from 'node:fs'
import { readdir, stat, unlink } from 'node:fs/promises'
import path from 'node:path'
import { mayBeAlive, ownProcess } from '../process-id'

const pattern = /^\.ddpm-([0-9a-f]{8})-([0-9a-f]{0,8})-(\d*)-(\d+)-(\d*)-[0-9a-f]{16}\.tmp$/
/** Files of another host or container are taken for abandoned after a week. */
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

/** removeAbandoned, now and then. */
export async function tidy(folder: string): Promise<void> {
  const rest = rests.get(folder) ?? 0
  if (rest > 0) return void rests.set(folder, rest - 1)
  if (rests.size >= 1000) rests.clear()
  rests.set(folder, await removeAbandoned(folder))
}

/** Removes the files of writers that are gone. What can't be removed is left. Returns the number of entries that there are. */
export async function removeAbandoned(folder: string): Promise<number> {
  const names = await readdir(folder).catch(() => []) // what is wrong with the folder shows when it is written to
  for (const name of names) {
    const file = path.join(folder, name)
    if (await isAbandoned(file)) await unlink(file).catch(() => {})
  }
  return names.length
}

async function isAbandoned(file: string): Promise<boolean> {
  const match = pattern.exec(path.basename(file))
  if (!match) return false
  const [, host, boot, namespace, pid, started] = match
  const self = ownProcess()
  const known = (text: string) => (text === '' ? undefined : text)
  if (host === hostTag() && (namespace === (self.namespace ?? '') || boot !== shortBoot(self.boot))) {
    const sameBoot = boot === shortBoot(self.boot) ? self.boot : known(boot)
    return !mayBeAlive({ host: self.host, boot: sameBoot, pid: Number(pid), started: known(started) })
  }
  // Nobody here can ask.
  const { mtimeMs } = await stat(file).catch(() => ({ mtimeMs: Number.NaN }))
  return Date.now() - mtimeMs > maxAgeMs
}

function hostTag(): string {
  return createHash('sha256').update(ownProcess().host).digest('hex').slice(0, 8)
}

function shortBoot(boot: string | undefined): string {
  return boot?.slice(0, 8) ?? ''
}
