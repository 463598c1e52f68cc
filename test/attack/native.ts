/** Hostile calls of the addon and graphs that lie, in processes of their own: whatever they throw, none ends. */
import { spawn } from 'node:child_process'
import path from 'node:path'
import { testedBackends } from '../support/devices'
import type { Attack, Figures, Part } from './support/attack'
import { ended } from './support/ended'

const script = path.join(__dirname, 'native-child.js')
const kinds = ['hostile calls', 'random graphs']
/** Of one process. */
const count = 50
const hang = 120_000
/** Of address space: what is asked for beyond it is an error, not the machine's memory. */
const limitKiB = 8 * 2 ** 20

interface Outcome {
  /** The number that it was at; undefined where it came to its end. */
  readonly at?: number
  readonly how: string
  /** Calls that were accepted, runs that ended well. */
  readonly accepted: number
}

async function start(kind: string, backend: string, first: number, count: number): Promise<Outcome> {
  const command = `ulimit -v ${limitKiB}; exec "$0" "$@"`
  const child = spawn('sh', ['-c', command, process.execPath, script, kind, backend, String(first), String(count)], {
    stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
  })
  const { code, signal, hung, outputs } = await ended(child, hang)
  const [, , stderr, numbers] = outputs
  const [last, accepted] = numbers.trimEnd().split('\n').at(-1)!.split(' ')
  if (code === 0 && last === 'done') return { how: 'done', accepted: Number(accepted) }
  const how = hung ? `busy after ${hang / 1000} s` : `ended by ${signal ?? `exit code ${code}`}`
  const at = last === 'done' ? first : Number(last)
  return { at, accepted: 0, how: `${how} ${stderr.slice(0, 400).trim()}` }
}

async function run(attack: Attack): Promise<readonly Figures[]> {
  const backends = ['reference', ...testedBackends]
  const base = Math.floor(attack.random('first').uniform() * 2 ** 30)
  const done = new Map<string, { sequences: number; accepted: number }>()
  for (let round = 0; !attack.over && round < 1e5; round++) {
    for (const backend of backends) {
      for (const kind of kinds) {
        if (attack.over) break
        const first = base + round * count
        const key = `${kind}, ${backend}`
        // A case is one number of a process' numbers.
        const wanted = Array.from({ length: count }, (_, i) => first + i).filter((n) => attack.wants(`${key} ${n}`))
        if (wanted.length === 0) continue
        const { at, how, accepted } = await start(kind, backend, wanted[0], wanted.length)
        if (at !== undefined) attack.fail(`${key} ${at}`, how)
        const tally = done.get(key) ?? { sequences: 0, accepted: 0 }
        done.set(key, tally)
        tally.sequences += at === undefined ? wanted.length : at - wanted[0] + 1
        tally.accepted += accepted
      }
    }
    attack.log(`round ${round}`)
  }
  return [...done].map(([what, tally]) => ({ what, ...tally }))
}

export const native: Part = { name: 'native', share: 3, run }
