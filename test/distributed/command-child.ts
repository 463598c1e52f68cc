// The `ddpm` command of a rank, for whose number {rank} stands in its arguments. Rank 1 gets SIGTERM when the file STOP_AT has an image.
import { statSync } from 'node:fs'

const rank = process.env.OMPI_COMM_WORLD_RANK ?? process.env.PMI_RANK
const { STOP_AT } = process.env
process.argv.splice(2, process.argv.length, ...process.argv.slice(2).map((text) => text.replaceAll('{rank}', rank!)))
if (STOP_AT !== undefined && rank === '1') {
  const timer = setInterval(() => {
    const { size } = statSync(STOP_AT, { throwIfNoEntry: false }) ?? { size: 0 }
    if (size <= 16_384) return // what it has before the first
    clearInterval(timer)
    process.kill(process.pid, 'SIGTERM')
  }, 1)
}
require('../../lib/cli/main')
