/** One measurement in this process: node one.js <peer> <kind> <batch> <seconds> <threads> <folder>. Prints JSON. */
import { writeFileSync } from 'node:fs'
import { measure } from '../harness'
import { processMemory } from './memory'
import * as onnxruntime from './onnxruntime'
import { loadOrt } from './ort'
import * as ours from './ours'
import { type Kind, type Measured, type PeerCase, resultFile } from './workload'

async function main([peer, kind, batch, seconds, threads, folder]: string[]): Promise<void> {
  const n = Number(batch)
  const { version, benchCase } = choose(peer, kind as Kind, folder, n, Number(threads))
  // The memory is what is there before anything is given back.
  const prepare = async () => ({ ...(await benchCase.prepare()), memory: () => processMemory().residentBytes })
  const timed = await measure({ ...benchCase, prepare }, Number(seconds))
  const { medianMs, minMs, samples, memoryBytes: residentBytes = 0 } = timed
  const result = benchCase.result()
  const bytes = new Uint8Array(result.buffer, result.byteOffset, result.byteLength)
  writeFileSync(resultFile(folder, peer, kind as Kind, n), bytes)
  const { peakBytes: peakRssBytes } = processMemory()
  const measured: Measured = { version, medianMs, minMs, samples, residentBytes, peakRssBytes }
  console.log(JSON.stringify(measured))
}

function choose(peer: string, kind: Kind, folder: string, batch: number, threads: number) {
  const chosen = (version: string, benchCase: PeerCase) => ({ version, benchCase })
  // DDPM_NUM_THREADS has our threads.
  if (peer === 'ours')
    return chosen('', kind === 'forward' ? ours.forward(folder, batch) : ours.training(folder, batch))
  const ort = loadOrt()
  if (peer !== 'onnxruntime' || kind !== 'forward' || !ort) throw new Error(`${peer} has no ${kind}`)
  return chosen(ort.env.versions.node ?? '', onnxruntime.forward(ort, folder, batch, threads))
}

void main(process.argv.slice(2))
