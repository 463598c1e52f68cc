// A short form of `npm run attack`: every part for some seconds, on the same cases each time as far as they come.
import assert from 'node:assert/strict'
import { calls } from './calls'
import { exits } from './exits'
import { files } from './files'
import { kills } from './kills'
import { locks } from './locks'
import { native } from './native'
import { stress } from './stress'
import { Attack, type Part } from './support/attack'

/** Each with its seconds. */
const parts: readonly (readonly [Part, number])[] = [
  [files, 3],
  [calls, 3],
  [kills, 3],
  [locks, 2],
  [native, 2],
  [exits, 2],
  [stress, 3],
]

describe('attack', () => {
  for (const [part, seconds] of parts) {
    it(`${part.name}: ${seconds} s`, async () => {
      const lines: string[] = []
      using attack = new Attack({
        part: part.name,
        seed: 1,
        milliseconds: 1000 * seconds,
        log: (line) => lines.push(line),
      })
      await part.run(attack)
      for (const line of lines) if (line.includes('not run')) console.log(`      ${line}`)
      assert.deepEqual(attack.failures, [])
    }).timeout(300_000)
  }
})
