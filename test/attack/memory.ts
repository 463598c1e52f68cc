/** Commands with little address space (ulimit -v): they do their work, or end with a line that says why. */
import { spawn } from 'node:child_process'
import { rmSync } from 'node:fs'
import path from 'node:path'
import type { Attack, Figures, Part } from './support/attack'
import { type Ended, ended } from './support/ended'
import { checkWhole } from './support/run-folder'
import { makeTiny, type Tiny, tinyTraining } from './support/tiny'

const main = path.join(__dirname, '..', '..', 'lib', 'cli', 'main.js')
const hang = 120_000
/** In MiB. */
const [lowest, highest, coarse, fine] = [700, 2600, 50, 10]

function limited(mib: number, args: readonly string[]): Promise<Ended> {
  const command = `ulimit -c 0; ulimit -v ${1024 * mib}; exec "$0" "$@"`
  const child = spawn('sh', ['-c', command, process.execPath, ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, DDPM_NUM_THREADS: '2' },
  })
  return ended(child, hang)
}

function problemOf({ code, signal, outputs: [, , stderr] }: Ended): string | undefined {
  const last = stderr.trimEnd().split('\n').at(-1) ?? ''
  if (signal) return `${signal}: ${JSON.stringify(stderr.slice(0, 300))}`
  if (code === 0) return undefined
  if (code !== 1 || !/^ddpm \w+: .{8}/.test(last)) return `exit code ${code}: ${JSON.stringify(stderr.slice(-300))}`
  return undefined
}

/** By name, with what is to be whole afterwards. */
function commands(tiny: Tiny, out: string): Record<string, { args: string[]; check?: () => Promise<void> }> {
  const run = path.join(out, 'run')
  const image = path.join(out, 's.png')
  return {
    sample: { args: ['sample', '--model', tiny.model, '--count', '2', '--steps', '2', '--output', image] },
    train: {
      args: ['train', tiny.images, '--out', run, '--steps', '3', ...tinyTraining],
      check: async () =>
        checkWhole(run).catch((error) => (error.code === 'ENOENT' ? undefined : Promise.reject(error))),
    },
  }
}

async function run(attack: Attack): Promise<readonly Figures[]> {
  if (process.platform !== 'linux') {
    attack.log('not run: ulimit -v is enforced on Linux only')
    return []
  }
  const tiny = await makeTiny(path.join(attack.folder, 'tiny'))
  const limits: number[] = []
  for (let mib = lowest; mib <= highest; mib += coarse) limits.push(mib)
  for (let mib = lowest; mib <= highest; mib += fine) if (!limits.includes(mib)) limits.push(mib)
  const tallies = new Map<string, { runs: number; errors: number; successes: number; from?: number }>()
  for (const mib of limits) {
    if (attack.over) break
    // What Node.js itself can't start with says nothing of the library.
    if ((await limited(mib, ['-e', '0'])).code !== 0) {
      attack.log(`${mib} MiB: not run, Node.js itself does not start`)
      continue
    }
    const out = path.join(attack.folder, 'out')
    for (const [name, { args, check }] of Object.entries(commands(tiny, out))) {
      const caseName = `${name} with ${mib} MiB`
      if (!attack.wants(caseName)) continue
      const tally = tallies.get(name) ?? { runs: 0, errors: 0, successes: 0 }
      tallies.set(name, tally)
      const end = await limited(mib, [main, ...args])
      tally.runs++
      const problem = problemOf(end)
      if (problem) attack.fail(caseName, problem)
      else if (end.code === 0) {
        tally.successes++
        tally.from = Math.min(tally.from ?? mib, mib)
      } else tally.errors++
      await check?.().catch((error) => attack.fail(caseName, `afterwards: ${error.message}`))
      rmSync(out, { recursive: true, force: true })
    }
  }
  return [...tallies].map(([command, { runs, errors, successes, from }]) => ({
    command,
    runs,
    'clear errors': errors,
    successes,
    'MiB from which it works': from ?? '',
  }))
}

export const memory: Part = { name: 'memory', share: 2, run }
