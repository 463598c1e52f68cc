/** What the comparisons have in common: processes, results, the machine. */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import type { Conditions } from './report'

/** Runs a program with as many threads of ours; its last line is JSON. */
export function childJson<T>(file: string, args: readonly string[], threads: number): T {
  const env = { ...process.env, DDPM_NUM_THREADS: String(threads) }
  const out = execFileSync(file, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'], env })
  return JSON.parse(out.trim().split('\n').at(-1)!)
}

export function conditions({
  seconds,
  rounds,
  threads,
}: Pick<Conditions, 'seconds' | 'rounds' | 'threads'>): Conditions {
  return {
    date: new Date().toISOString(),
    cpu: os.cpus()[0].model.trim(),
    memoryBytes: os.totalmem(),
    node: process.version,
    loadAverage: os.loadavg()[0],
    ...{ threads, seconds, rounds },
    machine: childJson(process.execPath, [path.join(__dirname, '..', 'one.js'), 'machine'], threads),
  }
}

export function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** Of two files of float32: the largest difference, and the largest number of the second. */
export function differenceOf(ours: string, theirs: string): { largest: number; of: number } {
  const read = (name: string) => {
    const bytes = new Uint8Array(readFileSync(name))
    return new Float32Array(bytes.buffer, 0, bytes.length / 4)
  }
  const [a, b] = [read(ours), read(theirs)]
  if (a.length !== b.length || a.length === 0) throw new Error(`${theirs}: ${b.length} numbers, not ${a.length}`)
  let [largest, of] = [0, 0]
  for (let i = 0; i < a.length; i++) {
    largest = Math.max(largest, Math.abs(a[i] - b[i])) // a NaN stays
    of = Math.max(of, Math.abs(b[i]))
  }
  return { largest, of }
}
