/** Which process something belongs to, and whether that one still runs. */
import { readFileSync, readlinkSync } from 'node:fs'
import os from 'node:os'

export interface ProcessId {
  readonly pid: number
  readonly host: string
  /** When it started, in ticks since the machine did: a pid alone may belong to another process by now. Linux only, as are those below. */
  readonly started?: string
  /** The machine's start. */
  readonly boot?: string
  /** Of the pid, which means something within its own only: each life of a container has another. */
  readonly namespace?: string
  /** Of the host's name, which containers may share with their machine. */
  readonly hostNamespace?: string
}

let own: ProcessId | undefined

export function ownProcess(): ProcessId {
  own ??= {
    pid: process.pid,
    host: os.hostname(),
    started: processStart(process.pid),
    boot: quietly(() => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()),
    namespace: quietly(() => readlinkSync('/proc/self/ns/pid').replace(/\D/g, '')),
    hostNamespace: quietly(() => readlinkSync('/proc/self/ns/uts').replace(/\D/g, '')),
  }
  return own
}

/**
 * A process that can't be asked, on another host or in another container, counts as alive. One in a container of this name on this
 * machine is from an earlier life of this container, unless the name is not the container's own.
 */
export function mayBeAlive(process: ProcessId): boolean {
  const self = ownProcess()
  if (process.host !== self.host) return true
  if (differ(process.boot, self.boot)) return false
  if (differ(process.namespace, self.namespace)) return !differ(process.hostNamespace, self.hostNamespace)
  return isRunning(process.pid) && !differ(process.started, processStart(process.pid))
}

function isRunning(pid: number): boolean {
  if (!Number.isSafeInteger(pid) || pid <= 0) return false
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** Unknown ones do not differ. */
function differ(a: string | undefined, b: string | undefined): boolean {
  return a !== undefined && b !== undefined && a !== b
}

/** Field 22 of /proc/<pid>/stat (after the name, which may hold spaces). */
function processStart(pid: number): string | undefined {
  return quietly(() => {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return text.slice(text.lastIndexOf(')') + 2).split(' ')[19]
  })
}

function quietly<T>(read: () => T): T | undefined {
  try {
    return read()
  } catch {
    return undefined
  }
}
