/** What a run folder holds, to be compared with another's. */
import { readdirSync, readFileSync, statSync } from 'node:fs'
import path from 'node:path'
import { readSafetensors } from '../../../lib/checkpoint/safetensors'
import { listCheckpoints, openCheckpoint, readTrainingState } from '../../../lib/train/checkpoint'
import { numbers, readMetrics } from '../../train/support'

/** Names of all files and folders but the event files, of which each resume writes one. */
export function namesIn(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((name) => !name.startsWith('events.'))
    .sort()
}

/** What is there by accident: temporary files, half checkpoints, locks. */
export function leftovers(folder: string): string[] {
  return namesIn(folder).filter((name) => path.basename(name).startsWith('.') || /(^|\/)lock/.test(name))
}

/** Throws where a checkpoint, the model or a picture that can be seen is not whole. */
export async function checkWhole(run: string): Promise<void> {
  for (const folder of await listCheckpoints(run)) await readTrainingState(await openCheckpoint(folder))
  for (const name of namesIn(run)) {
    if (path.basename(name).startsWith('.')) continue
    const file = path.join(run, name)
    if (name === 'model.safetensors') await readSafetensors(file)
    if (name.endsWith('.png') && !readFileSync(file).subarray(-8).equals(pngEnd)) throw new Error(`${name} is torn`)
  }
}

const pngEnd = Buffer.from('IEND\xaeB`\x82', 'latin1')

/** All that a training computes: final weights, losses of every step. Equal bits for equal trainings. */
export async function resultOf(run: string): Promise<string> {
  const { tensors } = await readSafetensors(path.join(run, 'model.safetensors'))
  const weights = Object.entries(tensors).map(([name, { data, shape }]) => {
    return [name, shape, Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64')]
  })
  return JSON.stringify([weights, numbers(readMetrics(run))])
}

/** By name; undefined where there is none. */
export function contentsOf(folder: string): Record<string, string> {
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' })
  const files = names.filter((name) => statSync(path.join(folder, name)).isFile())
  return Object.fromEntries(files.map((name) => [name, readFileSync(path.join(folder, name)).toString('base64')]))
}
