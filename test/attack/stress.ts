/** Much at once, for long: nothing breaks, and nothing is held that was given back. */
import { spawn } from 'node:child_process'
import path from 'node:path'
import type { Attack, Figures, Part } from './support/attack'
import { ended } from './support/ended'

/** Of stress-child.ts. */
export const scenes = ['aborts and disposals', 'evictions', 're-entrancy', 'several models', 'workers']
export const backends = ['cpu', 'cuda-host']
/**
 * Bytes an iteration. The allocator and the collector go up and down by some megabytes, which counts for less the more iterations
 * there are. A leaked bank of the small model would be 0.4 MB.
 */
const leak = 16 * 1024
const noise = 48 * 2 ** 20

/** Has the C library give freed memory back at once, so that what is held is what is used; else it keeps hundreds of MB. */
const returning = { MALLOC_ARENA_MAX: '1', MALLOC_MMAP_THRESHOLD_: '65536', MALLOC_TRIM_THRESHOLD_: '65536' }

export interface Measured {
  readonly iterations: number
  /** Bytes that the process holds more, by iteration since the warm-up. */
  readonly growth: number
  /** Bytes on the device that nobody gave back. */
  readonly device: number
}

async function start(scene: string, backend: string, seconds: number, seed: number): Promise<Measured | string> {
  const args = ['--expose-gc', path.join(__dirname, 'stress-child.js'), scene, backend, String(seconds), String(seed)]
  const child = spawn(process.execPath, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...returning },
  })
  const { code, signal, outputs } = await ended(child, 1000 * seconds + 180_000)
  const [, stdout, stderr] = outputs
  return code === 0 && stdout && !stderr
    ? JSON.parse(stdout)
    : `${signal ?? `exit code ${code}`} ${stderr.slice(0, 600)}`
}

async function run(attack: Attack): Promise<readonly Figures[]> {
  const figures: Figures[] = []
  // On cuda-host an iteration may take minutes.
  const cases = backends.flatMap((backend) => attack.shuffled(scenes.map((scene) => ({ backend, scene }))))
  for (const [i, { backend, scene }] of cases.entries()) {
    const name = `${scene}, ${backend}`
    if (!attack.wants(name)) continue
    if (attack.over) {
      attack.log(`${name}: no time`)
      continue
    }
    const seconds = Math.max(1, attack.remaining / 1000 / (cases.length - i))
    const measured = await start(scene, backend, seconds, Math.floor(attack.random(name).uniform() * 2 ** 32))
    if (typeof measured === 'string') {
      attack.fail(name, measured)
      continue
    }
    const { iterations, growth, device } = measured
    if (device !== 0) attack.fail(name, `${device} bytes on the device are not given back`)
    if (growth > leak + noise / iterations)
      attack.fail(name, `${Math.round(growth)} bytes an iteration are not given back (${iterations} iterations)`)
    figures.push({
      scene: name,
      iterations,
      'KiB leaked an iteration': (growth / 1024).toFixed(1),
      'bytes on the device': device,
    })
  }
  return figures
}

export const stress: Part = { name: 'stress', share: 5, run }
