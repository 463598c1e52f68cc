/** A trained model of a few steps, and files of it in every form: made once, in a process of its own. */
import { mkdirSync } from 'node:fs'
import path from 'node:path'
import { runCli, tinyFlags, writeImages } from '../../train/support'

export interface Tiny {
  readonly images: string
  /** A run folder of four steps, with two checkpoints and pictures. */
  readonly run: string
  readonly model: string
}

/** Pictures and checkpoints every two steps. */
export const tinyTraining = [
  ...tinyFlags.map((flag, i) => (tinyFlags[i - 1] === '--sample-every' ? '2' : flag)),
  ...'--sample-count 2 --sample-steps 2 --checkpoint-every 2'.split(' '),
]

export async function makeTiny(folder: string): Promise<Tiny> {
  mkdirSync(folder, { recursive: true })
  const images = path.join(folder, 'images')
  const run = path.join(folder, 'run')
  await writeImages(images, 4, 8)
  const { code, stderr } = await runCli(['train', images, '--out', run, '--steps', '4', ...tinyTraining])
  if (code !== 0) throw new Error(`the training to be attacked failed: ${stderr}`)
  return { images, run, model: path.join(run, 'model.safetensors') }
}
