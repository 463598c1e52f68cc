/** Processes that end in the middle of a step: with their own exit code, and without a word. */
import { spawn } from 'node:child_process'
import path from 'node:path'
import { testedBackends } from '../support/devices'
import type { Attack, Figures, Part } from './support/attack'

const exitCode = 7
const hang = 60_000
const ways = ['process.exit', 'exit in a handler', 'exit after a close', 'an exit handler that computes']

function endOf(backend: string, how: string, milliseconds: number): Promise<string | undefined> {
  const child = spawn(process.execPath, [path.join(__dirname, 'exit-child.js'), backend, how, String(milliseconds)], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let stderr = ''
  child.stderr.on('data', (data) => {
    stderr += data
  })
  const timer = setTimeout(() => child.kill('SIGKILL'), hang)
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code, signal) => {
      clearTimeout(timer)
      const clean = code === exitCode && signal === null && stderr === ''
      resolve(clean ? undefined : `${signal ?? `exit code ${code}`} in place of ${exitCode} ${stderr.slice(0, 300)}`)
    })
  })
}

async function run(attack: Attack): Promise<readonly Figures[]> {
  const counts = new Map<string, { exits: number; clean: number }>()
  for (let round = 0; round < 1000; round++) {
    for (const backend of ['reference', ...testedBackends]) {
      if (attack.over) break
      const how = ways[round % ways.length]
      const name = `${backend}, ${how}, ${round}`
      if (!attack.wants(name)) continue
      const tally = counts.get(backend) ?? { exits: 0, clean: 0 }
      counts.set(backend, tally)
      const problem = await endOf(backend, how, 40 * attack.random(name).uniform())
      tally.exits++
      if (problem) attack.fail(name, problem)
      else tally.clean++
    }
  }
  return [...counts].map(([backend, { exits, clean }]) => ({ backend, exits, clean }))
}

export const exits: Part = { name: 'exits', share: 1, run }
