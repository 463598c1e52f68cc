/** What this process takes, by Linux. */
import { readFileSync } from 'node:fs'

export interface ProcessMemory {
  /** VmRSS: now. */
  readonly residentBytes: number
  /** VmHWM: at most so far; unlike getrusage's maxrss without what the parent had when it forked. */
  readonly peakBytes: number
}

export function processMemory(): ProcessMemory {
  const status = readFileSync('/proc/self/status', 'utf8')
  const bytes = (name: string) => 1024 * Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1])
  const residentBytes = bytes('VmRSS')
  // The kernel adds the two up at different times.
  return { residentBytes, peakBytes: Math.max(residentBytes, bytes('VmHWM')) }
}
