/**
 * Writes a model with the exact shape of Stable Diffusion 1.5 (UNet of 860 M parameters, CLIP ViT-L's text model, its VAE) and random
 * weights, as a diffusers folder and as a single file by CompVis' names, with the same values, a tensor at a time: 8.5 GB, little memory.
 * Usage: npm run build:ts && node dist/bench/stable-diffusion/write.js FOLDER [--small]
 * It makes FOLDER/diffusers, FOLDER/sd.safetensors and FOLDER/tokenizer; --small has a tenth of the channels.
 */
import path from 'node:path'
import { parseArgs } from 'node:util'
import { writeFolder, writeSingleFile, writeTokenizer } from './model-files'
import { shapeOf } from './shape'

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({ options: { small: { type: 'boolean' } }, allowPositionals: true })
  const [target] = positionals
  if (!target) throw new Error('usage: write.js FOLDER [--small]')
  const shape = shapeOf(values.small === true)
  await writeFolder(path.join(target, 'diffusers'), shape)
  writeTokenizer(path.join(target, 'tokenizer'))
  await writeSingleFile(path.join(target, 'sd.safetensors'), shape)
}

main()
