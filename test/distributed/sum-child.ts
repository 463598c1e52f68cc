// A rank of a program that adds up a bank over all ranks, run some times: sum-child.js MODE DISTRIBUTED DEVICE. Prints, as JSON, which sums
// were right and how the program was launched.
import { Device, type DeviceName } from '../../lib/device'
import { Graph } from '../../lib/graph'
import { type Distributed, World } from '../../lib/world'

const [mode, distributed = 'nccl', name = 'cuda-host'] = process.argv.slice(2)
/** Two equal parts of two ranks; parts of which the last is shorter; fewer parts than three ranks; with two nodes of each rank's batches. */
const cases = [
  { count: 32768, share: 1 },
  { count: 32771, share: 1 },
  { count: 20000, share: 1 },
  { count: 32771, share: 3 },
]
const runs = 4

async function main(): Promise<void> {
  const device = Device.open(name as DeviceName)
  const world = World.of(distributed as Distributed, device)!
  const { rank, size } = world
  const results: { right: number; launches: object; sent: number }[] = []
  for (const { count, share } of cases) {
    const g = new Graph()
    g.sumRanks({ count, rank, ranks: size, share, keepsParts: false })
    const program = g.native.compile(device.native, { squares: g.gradSumSquares(count).id }, {})
    const bound = Object.fromEntries(
      Object.entries(program.memory().bound).map(([bank, bytes]) => [bank, device.allocate(bytes / 4)]),
    )
    const banks = Object.keys(bound).filter((bank) => bank !== 'squares')
    const all = (await world.gather([banks.length * (rank + 1)])).reduce((sum, [n]) => sum + n, 0)
    const before = world.bytesSent
    let right = 0
    for (let run = 0; run < runs; run++) {
      // Small integers, whose sums are exact in any order.
      const numbers = Float32Array.from({ length: count }, (_, i) => (i + run) % 13)
      for (const bank of banks) bound[bank].write(numbers.map((n) => n * (rank + 1)))
      if (mode === 'gone' && rank === size - 1 && run === 2) process.kill(process.pid, 'SIGKILL')
      await program.run(bound)
      const sum = await bound.grads.read()
      if (sum.every((value, i) => value === numbers[i] * all)) right += 1
    }
    results.push({ right, launches: program.launches(), sent: world.bytesSent - before })
  }
  const texts = await world.gatherTexts(`rank ${rank}`.repeat(rank + 1))
  await world.barrier()
  console.log(JSON.stringify({ rank, size, library: world.library, results, texts }))
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
