/** Ends in the middle of a step: node exit-child.js BACKEND HOW MILLISECONDS. */
import { Graph } from '../../lib/graph'
import { type NativeBuffer, native } from '../../lib/native'

export const exitCode = 7

const [backend, how, milliseconds] = process.argv.slice(2)

const ends: Readonly<Record<string, () => void>> = {
  'process.exit': () => process.exit(exitCode),
  'exit in a handler': () => {
    process.on('SIGTERM', () => process.exit(exitCode))
    process.kill(process.pid, 'SIGTERM')
  },
  'exit after a close': () => {
    device.close()
    process.exit(exitCode)
  },
  'an exit handler that computes': () => {
    process.on('exit', () => {
      try {
        program.run(bindings).catch(() => {})
      } catch {
        // The device is closed by then.
      }
    })
    process.exit(exitCode)
  },
}

const device = native.openDevice(backend, 0, 2)
const graph = new Graph()
const channels = 32
const elements = channels * channels * 9
let y = graph.input('x', [2, 16, 16, channels])
for (let i = 0; i < 30; i++) {
  const w = graph.parameter({ name: `w${i}`, shape: [channels, channels, 3, 3], offset: i * elements })
  y = graph.conv2d(y, w, undefined, { stride: 1, padding: [1, 1, 1, 1] })
}
const program = graph.native.compile(device, { y: y.id }, {})
const bindings: Record<string, NativeBuffer> = {
  x: device.allocate(2 * 256 * channels),
  y: device.allocate(2 * 256 * channels),
  weights: device.allocate(30 * elements),
}

async function run(): Promise<void> {
  for (;;) {
    // The next one waits while this one runs.
    await Promise.all([program.run(bindings), program.run(bindings), bindings.y.read()])
  }
}

run().catch(() => {})
setTimeout(ends[how], Number(milliseconds))
