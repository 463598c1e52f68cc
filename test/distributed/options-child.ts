// A rank of a training whose rate depends on the rank.
import { Trainer, world } from '../../lib/index'
import { tinyTraining } from '../train/support'

const [data, out] = process.argv.slice(2)

new Trainer(tinyTraining(data, out, { lr: 0.001 * (1 + world.rank) })).run().catch((error) => {
  console.error(error)
  process.exit(1)
})
