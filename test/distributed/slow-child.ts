// A rank of a training that goes on from step 1, and whose leader is long in opening; 'hangs': it does not come back.
import { setTimeout } from 'node:timers/promises'
import { Trainer } from '../../lib/index'
import { tinyTraining } from '../train/support'

const [data, out, mode] = process.argv.slice(2)

async function main(): Promise<void> {
  await new Trainer(tinyTraining(data, out, { steps: 1, validationEvery: 5 })).run()
  const resumed = new Trainer({ data, out, resume: true, steps: 2 })
  const hang = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 60_000)
  await resumed.run({ onStart: () => (mode === 'hangs' ? hang() : setTimeout(5000)) })
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
