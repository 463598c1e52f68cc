/** Child processes, until they have ended: by themselves, or because they hang. */
import type { ChildProcess } from 'node:child_process'
import type { Readable } from 'node:stream'

export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  /** What came out of each file descriptor; '' of one that is no pipe. */
  readonly outputs: readonly string[]
  /** It was ended, as it took more than its time. */
  readonly hung: boolean
}

/** Collects its output and ends it after `milliseconds` by `signal`. Rejects where it could not be started. */
export function ended(child: ChildProcess, milliseconds: number, signal: NodeJS.Signals = 'SIGKILL'): Promise<Ended> {
  const outputs = child.stdio.map(() => '')
  for (const [fd, stream] of child.stdio.entries()) {
    if (fd === 0) continue
    ;(stream as Readable | null)?.on('data', (data) => {
      outputs[fd] += data
    })
  }
  let hung = false
  const timer = setTimeout(() => {
    hung = true
    child.kill(signal)
  }, milliseconds)
  return new Promise((resolve, reject) => {
    child.once('error', (error) => {
      clearTimeout(timer)
      reject(error)
    })
    child.once('close', (code, signal) => {
      clearTimeout(timer)
      resolve({ code, signal, outputs, hung })
    })
  })
}
