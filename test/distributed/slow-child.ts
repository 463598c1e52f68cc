// A rank of a training that goes on from step 1, and whose leader is long in opening.
import { setTimeout } from 'node:timers/promises'
import { Trainer } from '../../lib/index'
import { tinyTraining } from '../train/support'

const [data, out] = process.argv.slice(2)

async function main(): Promise<void> {
  await new Trainer(tinyTraining(data, out, { steps: 1, validationEvery: 5 })).run()
  const resumed = new Trainer({ data, out, resume: true, steps: 2 })
  await resumed.run({ onStart: () => setTimeout(5000) })
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
