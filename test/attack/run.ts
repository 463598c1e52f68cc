/**
 * npm run attack -- --minutes 30: attacks the library and prints what came of it. Options: --only part,part; --seed N;
 * --case NAME, one case of one part, as a failure's line has it. Exit code 1 where anything failed.
 */
import { parseArgs } from 'node:util'
import { calls } from './calls'
import { exits } from './exits'
import { files } from './files'
import { kills } from './kills'
import { locks } from './locks'
import { memory } from './memory'
import { native } from './native'
import { stress } from './stress'
import { Attack, type Failure, type Part } from './support/attack'
import { groupBy } from './support/group'
import { printTable } from './support/table'

const parts: readonly Part[] = [files, calls, kills, locks, native, exits, memory, stress]

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      minutes: { type: 'string', default: '5' },
      only: { type: 'string' },
      seed: { type: 'string', default: '1' },
      case: { type: 'string' },
    },
  })
  const names = values.only?.split(',') ?? parts.map(({ name }) => name)
  const unknown = names.filter((name) => !parts.some((part) => part.name === name))
  if (unknown.length > 0 || !(Number(values.minutes) > 0) || !Number.isSafeInteger(Number(values.seed))) {
    console.error(
      `usage: npm run attack -- [--minutes M] [--only ${parts.map(({ name }) => name).join()}] [--seed N] [--case NAME]`,
    )
    return 2
  }
  const chosen = parts.filter(({ name }) => names.includes(name))
  const shares = chosen.reduce((sum, { share }) => sum + share, 0)
  const failures: Failure[] = []
  for (const part of chosen) {
    const milliseconds = (60_000 * Number(values.minutes) * part.share) / shares
    const log = (line: string) => console.log(`${part.name}: ${line}`)
    log(`${(milliseconds / 60_000).toFixed(1)} minutes, seed ${values.seed}`)
    using attack = new Attack({ part: part.name, seed: Number(values.seed), milliseconds, only: values.case, log })
    const start = Date.now()
    try {
      printTable(part.name, await part.run(attack))
    } catch (error) {
      attack.fail('the part itself', `${(error as Error).stack}`)
    }
    log(`${attack.failures.length} failures, ${((Date.now() - start) / 1000).toFixed(0)} s`)
    failures.push(...attack.failures)
  }
  printFailures(failures)
  console.log(`\n${failures.length} failures in all`)
  return failures.length > 0 ? 1 : 0
}

/** Three of each kind: what differs in numbers and names alone is of one kind. */
function printFailures(failures: readonly Failure[]): void {
  const kinds = groupBy(failures, ({ problem }) => problem.replace(/[0-9a-f]*\d[0-9a-f]*|\/\S+/g, '').slice(0, 100))
  for (const alike of kinds) {
    for (const { name, problem, reproduce } of alike.slice(0, 3)) console.log(`\n${name}: ${problem}\n  ${reproduce}`)
    if (alike.length > 3) console.log(`\n  ... and ${alike.length - 3} more of this kind`)
  }
}

main().then((code) => {
  process.exitCode = code
})
