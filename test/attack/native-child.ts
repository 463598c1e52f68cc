/** Hostile calls or random graphs, from one number after the other; says on descriptor 3 which it is at. */
import { writeSync } from 'node:fs'
import { Random } from '../support/random'
import { hostileCalls } from './support/hostile-calls'
import { randomGraph } from './support/random-graphs'

const attacks: Readonly<Record<string, (backend: string, random: Random) => Promise<number>>> = {
  'hostile calls': hostileCalls,
  'random graphs': randomGraph,
}

async function main([kind, backend, first, count]: string[]): Promise<void> {
  let accepted = 0
  for (let n = Number(first); n < Number(first) + Number(count); n++) {
    writeSync(3, `${n}\n`)
    accepted += await attacks[kind](backend, new Random(n))
  }
  writeSync(3, `done ${accepted}\n`)
}

main(process.argv.slice(2)).catch((error) => {
  process.stderr.write(`${error.stack}\n`)
  process.exit(9)
})
