/** Processes that race for the lock of a run folder: one gets it, or none for the moment, never two, and never nobody for ever. */
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import type { Race } from './lock-child'
import type { Attack, Figures, Part } from './support/attack'

const processes = 6
/** Each kind of lock is raced for this often, with and without delays: 2,000 together. */
const rounds = 200

/** What lies there when they begin. Beyond the time that its writer could still be at work, as after a full disk or a reboot. */
const kinds: Readonly<Record<string, (file: string) => void>> = {
  'no lock': () => {},
  'a stale lock': (file) => {
    writeFileSync(file, JSON.stringify({ token: 'dead', pid: 2 ** 22 + 1, host: os.hostname() }))
  },
  'a torn lock': (file) => old(file, '{"tok'),
  'an empty lock': (file) => old(file, ''),
  'a lock of zeros': (file) => old(file, '\0'.repeat(100)),
}

function old(file: string, text: string): void {
  writeFileSync(file, text)
  utimesSync(file, 1, 1)
}

async function ask(child: ChildProcess, message: Race | 'release'): Promise<string> {
  const answer = once(child, 'message')
  child.send(message)
  return (await answer)[0]
}

async function raceFor(attack: Attack, children: readonly ChildProcess[], name: string, kind: string, delay: number) {
  const random = attack.random(name)
  const folder = path.join(attack.folder, 'run')
  mkdirSync(folder)
  try {
    kinds[kind](path.join(folder, 'lock'))
    const at = Date.now() + 4
    const race = (child: ChildProcess) => {
      return ask(child, { folder, at, delay, seed: Math.floor(random.uniform() * 2 ** 32) })
    }
    const answers = await Promise.all(children.map(race))
    const held = answers.filter((answer) => answer === 'held').length
    const other = answers.find((answer) => answer !== 'held' && answer !== 'busy')
    if (held > 1) attack.fail(name, `${held} processes hold the lock at once`)
    if (other) attack.fail(name, other)
    await Promise.all(children.map((child) => ask(child, 'release')))
    // Whoever comes next, alone, must get it: nothing of the race is in the way.
    const next = await ask(children[0], { folder, at: 0, delay: 0, seed: 0 })
    if (next !== 'held') attack.fail(name, `nobody gets the lock after the race: ${next}`)
    await ask(children[0], 'release')
    const left = readdirSync(folder)
    if (left.length > 0) attack.fail(name, `after the last release there are ${left.join(', ')}`)
    return held
  } finally {
    rmSync(folder, { recursive: true })
  }
}

async function run(attack: Attack): Promise<readonly Figures[]> {
  const children = Array.from({ length: processes }, () => fork(path.join(__dirname, 'lock-child.js')))
  try {
    await Promise.all(children.map((child) => once(child, 'message')))
    const tallies = new Map<string, { races: number; two: number; nobody: number }>()
    for (let round = 0; round < rounds && !attack.over; round++) {
      for (const kind of Object.keys(kinds)) {
        for (const delay of [0, 2]) {
          const name = `${kind}${delay > 0 ? ', delayed' : ''} ${round}`
          if (attack.over || !attack.wants(name)) continue
          const held = await raceFor(attack, children, name, kind, delay)
          const key = `${kind}${delay > 0 ? ', delayed' : ''}`
          const tally = tallies.get(key) ?? { races: 0, two: 0, nobody: 0 }
          tallies.set(key, tally)
          tally.races++
          if (held > 1) tally.two++
          if (held === 0) tally.nobody++
        }
      }
    }
    return [...tallies].map(([lock, { races, two, nobody }]) => ({
      lock,
      races,
      'two holders': two,
      'nobody at once': nobody,
    }))
  } finally {
    for (const child of children) child.kill('SIGKILL')
  }
}

export const locks: Part = { name: 'locks', share: 2, run }
