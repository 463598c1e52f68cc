/**
 * Runs a program of cuDNN's plans on cuda-host while a worker builds another's, which lasts as long as the file named by the
 * argument exists; prints what happened in order, as JSON. DDPM_FAKE_CUDNN_LOG is where the stand-in says that a build waits.
 */
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { libraryAlgo } from '../support/fake-cudnn'
import { compileGraph } from '../support/run-graph'

const [slow = ''] = process.argv.slice(2)
const log = process.env.DDPM_FAKE_CUDNN_LOG!

const compile = (size: number) =>
  compileGraph(
    'cuda-host',
    (g) => {
      const [x, w] = [g.input('x', [1, size, size, 4]), g.input('w', [8, 3, 3, 4])]
      return { y: g.conv2d(x, w, undefined, { stride: 1, padding: [1, 1, 1, 1] }) }
    },
    { forceAlgo: libraryAlgo },
  )

async function main(): Promise<void> {
  const events: string[] = []
  const program = compile(4)
  const run = async (what: string) => {
    await program.run({ x: new Float32Array(4 * 4 * 4).fill(1), w: new Float32Array(8 * 9 * 4).fill(1) })
    events.push(what)
  }
  await run('ran')
  writeFileSync(slow, '')
  const worker = new Worker(__filename, { workerData: { size: 5 } })
  const built = new Promise<void>((resolve, reject) => {
    worker.once('message', () => {
      events.push('built')
      resolve()
    })
    worker.once('error', reject)
  })
  while (!existsSync(log) || !readFileSync(log, 'utf8').includes('a build waits')) await sleep(10)
  events.push('builds')
  await run('ran meanwhile')
  rmSync(slow)
  await built
  await run('ran again')
  process.stdout.write(JSON.stringify(events))
}

if (isMainThread) void main()
else {
  compile((workerData as { size: number }).size)
  parentPort!.postMessage('built')
}
