// A rank of a program of two linear layers, each as large as a piece of the bank, whose gradients are added up over all ranks.
import { Device, type DeviceName } from '../../lib/device'
import { Graph, type Value } from '../../lib/graph'
import { World } from '../../lib/world'

const [name = 'cuda-host'] = process.argv.slice(2)
const [layers, width] = [2, 1024]
const count = layers * width * width

async function main(): Promise<void> {
  const device = Device.open(name as DeviceName)
  const { rank, size: ranks } = World.of('nccl', device)!
  const g = new Graph()
  let y: Value = g.input('x', [1, 1, 1, width])
  for (let i = 0; i < layers; i++) {
    y = g.linear(y, g.parameter({ name: `w${i}`, shape: [width, width], offset: i * width * width }))
  }
  const error = g.loss(y, g.input('target', y.dims), { type: 'l2' })
  g.backward(g.weightedSum(error, g.input('scale', error.dims)))
  g.sumRanks({ count, rank, ranks, share: 1, keepsParts: false })
  const program = g.native.compile(device.native, { squares: g.gradSumSquares(count).id }, {})
  const bound = Object.fromEntries(
    Object.entries(program.memory().bound).map(([bank, bytes]) => [bank, device.allocate(bytes / 4)]),
  )
  for (const bank of Object.values(bound)) bank.write(new Float32Array(bank.elements).fill(1 / 1024))
  await program.run(bound)
  console.log(JSON.stringify(program.launches()))
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
