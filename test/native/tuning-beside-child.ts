/**
 * A sampling whose first program is compiled with algorithms chosen by times, which takes as long as the file that is named by the
 * second argument exists: until a plan of the stand-in for cuDNN is built. The first argument says what happens meanwhile. Prints
 * what happened, in order, as JSON.
 */
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { Device } from '../../lib/device'
import { DDPM } from '../../lib/index'
import { native } from '../../lib/native'
import { compileGraph } from '../support/run-graph'

const [meanwhile, slow] = process.argv.slice(2)
const log = process.env.DDPM_FAKE_CUDNN_LOG!
const events: string[] = []
const print = () => process.stdout.write(JSON.stringify(events))

async function main(): Promise<void> {
  const unetConfig = { inChannels: 1, outChannels: 1, modelChannels: 32, channelMult: [1], numResBlocks: 1 }
  const ddpm = new DDPM({
    unetConfig: { ...unetConfig, imageSize: 4, attentionResolutions: [] },
    ...{ imageSize: 4, channels: 1, timesteps: 50, seed: 3, device: 'cuda-host' },
  })
  const other = compileGraph('cuda-host', (g) => ({ y: g.silu(g.input('x', [1, 1, 1, 4])) }))
  writeFileSync(slow, '')
  const sampling = ddpm.sample({ batchSize: 1, steps: 2, seed: 1 }).then(
    () => events.push('sampled'),
    (error: { code: string }) => events.push(error.code),
  )
  while (!existsSync(log) || !readFileSync(log, 'utf8').includes('a build waits')) await sleep(10)
  events.push('builds')
  if (meanwhile === 'run') {
    await other.run({ x: new Float32Array(4) })
    events.push('ran')
  } else if (meanwhile === 'dispose') {
    ddpm.dispose()
  } else {
    // Whoever closes a device waits for the build, and for no more than that.
    const later = `setTimeout(() => require('node:fs').rmSync(${JSON.stringify(slow)}), 300)`
    const { Worker } = await import('node:worker_threads')
    const worker = new Worker(later, { eval: true })
    await new Promise((resolve) => worker.once('online', resolve))
    if (meanwhile === 'close') Device.open('cuda-host').native.close()
    if (meanwhile === 'closeDevices') native.closeDevices()
    if (meanwhile === 'exit') {
      process.on('exit', print)
      process.exit(0)
    }
    events.push('closed it')
  }
  rmSync(slow, { force: true })
  await sampling
  print()
}

void main()
