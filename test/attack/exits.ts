/** Processes that end in the middle of a step: with their own exit code, and without a word. */
import { spawn } from 'node:child_process'
import path from 'node:path'
import { testedBackends } from '../support/devices'
import type { Attack, Figures, Part } from './support/attack'
import { ended } from './support/ended'

const script = path.join(__dirname, '..', 'native', 'exit-child.js')
const exitCode = 7
const hang = 60_000
const works = ['train', 'sample', 'compile', 'copy']
const ways = [
  'exit',
  'reallyExit',
  'exit in a handler of exit',
  'exit in a handler of a signal',
  'exit after a close',
  'work in a handler of exit',
  'exit in a microtask',
  'an exception',
  'exit with a worker at work',
]

async function endOf(backend: string, work: string, way: string, milliseconds: number): Promise<string | undefined> {
  const child = spawn(process.execPath, [script, backend, work, way, String(milliseconds)], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const { code, signal, outputs } = await ended(child, hang)
  if (code === exitCode && signal === null && outputs[2] === '') return undefined
  return `${signal ?? `exit code ${code}`} in place of ${exitCode} ${outputs[2].slice(0, 300)}`
}

async function run(attack: Attack): Promise<readonly Figures[]> {
  const counts = new Map<string, { exits: number; clean: number }>()
  for (let round = 0; round < 1000; round++) {
    for (const backend of ['reference', ...testedBackends]) {
      if (attack.over) break
      const [work, way] = [works[Math.floor(round / ways.length) % works.length], ways[round % ways.length]]
      const name = `${backend}, ${work}, ${way}, ${round}`
      if (!attack.wants(name)) continue
      const tally = counts.get(backend) ?? { exits: 0, clean: 0 }
      counts.set(backend, tally)
      const problem = await endOf(backend, work, way, 200 * attack.random(name).uniform())
      tally.exits++
      if (problem) attack.fail(name, problem)
      else tally.clean++
    }
  }
  return [...counts].map(([backend, { exits, clean }]) => ({ backend, exits, clean }))
}

export const exits: Part = { name: 'exits', share: 1, run }
