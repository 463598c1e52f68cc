/** What a process holds in memory, as Linux tells it. */
import { readFileSync, writeFileSync } from 'node:fs'

export interface Resident {
  /** Bytes now, and at most since the process began or `forgetPeak`. */
  readonly now: number
  readonly peak: number
}

/** Undefined where there is no /proc, or no such process any more. */
export function resident(pid: number | 'self'): Resident | undefined {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    const bytes = (name: string) => 1024 * Number(new RegExp(`${name}:\\s+(\\d+) kB`).exec(status)![1])
    return { now: bytes('VmRSS'), peak: bytes('VmHWM') }
  } catch {
    return undefined
  }
}

/** Sets this process's peak to what it holds now (proc(5), clear_refs). False where that can't be done. */
export function forgetPeak(): boolean {
  try {
    writeFileSync('/proc/self/clear_refs', '5')
    return true
  } catch {
    return false
  }
}

export const MiB = 2 ** 20
