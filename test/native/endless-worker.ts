/** A worker that always has a step under way: it reports that it has begun and is then terminated by worker.test.ts. */
import { parentPort } from 'node:worker_threads'
import { Graph } from '../../lib/graph'
import { type NativeBuffer, native } from '../../lib/native'

const device = native.openDevice('cpu', 0, 2)
const graph = new Graph()
const channels = 32
const elements = channels * channels * 9
let y = graph.input('x', [2, 32, 32, channels])
for (let i = 0; i < 60; i++) {
  const w = graph.parameter({ name: `w${i}`, shape: [channels, channels, 3, 3], offset: i * elements })
  y = graph.conv2d(y, w, undefined, { stride: 1, padding: [1, 1, 1, 1] })
}
const program = graph.native.compile(device, { y: y.id }, {})
const bindings: Record<string, NativeBuffer> = {
  x: device.allocate(2 * 1024 * channels),
  y: device.allocate(2 * 1024 * channels),
  weights: device.allocate(60 * elements),
}

async function run(): Promise<void> {
  for (;;) {
    program.run(bindings) // the next one waits while this one runs
    await program.run(bindings)
    await bindings.y.read()
    parentPort?.postMessage('ran')
  }
}

void run()
