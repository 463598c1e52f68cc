/** Models of Stable Diffusion's shape as files, with random weights that are drawn and written a tensor at a time. */
import { cpSync, mkdirSync, writeFileSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import path from 'node:path'
import { unet2DConditionConfig } from '../../lib/checkpoint/diffusers/unet-condition'
import { Autoencoder } from '../../lib/nn/autoencoder/autoencoder'
import { diffusersAutoencoderConfig } from '../../lib/nn/autoencoder/diffusers'
import { autoencoderShape } from '../../lib/nn/autoencoder/options'
import { CLIPTextModel } from '../../lib/nn/text/clip'
import { clipConfigOf } from '../../lib/nn/text/clip-config'
import { UNet } from '../../lib/nn/unet/unet'
import { normal, Purpose } from '../../lib/rng'
import type { ModelShape } from './shape'

interface Tensor {
  readonly name: string
  readonly shape: readonly number[]
  /** Of its values: the same in both files. */
  readonly seed: number
}

/** What both layouts have, by the names of either, in one order. */
function tensorsOf({ unet, first, text }: ModelShape) {
  const shape = autoencoderShape(first.ddconfig)
  const slots = {
    unet: [new UNet({ ...unet, layout: 'diffusers' }), new UNet(unet)],
    vae: [new Autoencoder({ ...shape, layout: 'diffusers' }, first.embedDim), new Autoencoder(shape, first.embedDim)],
    text_encoder: [new CLIPTextModel(text), new CLIPTextModel(text)],
  }
  const prefixes = {
    unet: 'model.diffusion_model.',
    vae: 'first_stage_model.',
    text_encoder: 'cond_stage_model.transformer.',
  }
  let seed = 0
  const folder: Record<string, Tensor[]> = {}
  const single: Tensor[] = []
  for (const [part, [diffusers, compVis]] of Object.entries(slots)) {
    const theirs = compVis.parameters.slots
    folder[part] = diffusers.parameters.slots.map(({ name, shape: own }, i) => {
      seed++
      single.push({ name: prefixes[part as keyof typeof prefixes] + theirs[i].name, shape: theirs[i].shape, seed })
      return { name, shape: own, seed }
    })
  }
  return { folder, single }
}

const chunk = 2 ** 20
const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1)

/** Norms are 1, biases 0, weights normal with a variance of 1 / inputs; embeddings small. */
async function writeValues(file: FileHandle, { name, shape, seed }: Tensor): Promise<void> {
  const size = sizeOf(shape)
  const plain = shape.length === 1
  const std = /(token|position)_embedding/.test(name) ? 0.02 : (size / shape[0]) ** -0.5
  for (let at = 0, part = 0; at < size; at += chunk, part++) {
    const values = new Float32Array(Math.min(chunk, size - at))
    if (plain) values.fill(name.endsWith('weight') ? 1 : 0)
    else {
      const drawn = normal(seed, Purpose.latent, part, 0, values.length)
      for (let i = 0; i < values.length; i++) values[i] = std * drawn[i]
    }
    await file.write(Buffer.from(values.buffer, values.byteOffset, values.byteLength))
  }
}

async function writeFile(name: string, tensors: readonly Tensor[]): Promise<void> {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } }
  let position = 0
  for (const tensor of tensors) {
    const end = position + 4 * sizeOf(tensor.shape)
    header[tensor.name] = { dtype: 'F32', shape: tensor.shape, data_offsets: [position, end] }
    position = end
  }
  const text = JSON.stringify(header)
  const padded = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(padded.length))
  const file = await open(name, 'w')
  try {
    await file.write(length)
    await file.write(padded)
    for (const tensor of tensors) await writeValues(file, tensor)
  } finally {
    await file.close()
  }
  console.log(`${name}: ${tensors.length} tensors, ${(position / 1e9).toFixed(2)} GB`)
}

/** A folder that LatentDiffusion.fromPretrained opens. */
export async function writeFolder(target: string, shape: ModelShape): Promise<void> {
  const { folder } = tensorsOf(shape)
  const at = (...names: string[]) => path.join(target, ...names)
  const json = (fields: object, ...names: string[]) => writeFileSync(at(...names), JSON.stringify(fields, null, 2))
  for (const part of [...Object.keys(folder), 'scheduler']) mkdirSync(at(part), { recursive: true })
  const unet = new UNet({ ...shape.unet, layout: 'diffusers' })
  json({ _class_name: 'UNet2DConditionModel', ...unet2DConditionConfig(unet.options) }, 'unet', 'config.json')
  const vae = { shape: autoencoderShape(shape.first.ddconfig), embedDim: shape.first.embedDim, scalingFactor }
  json({ _class_name: 'AutoencoderKL', ...diffusersAutoencoderConfig(vae) }, 'vae', 'config.json')
  json(clipConfigOf(new CLIPTextModel(shape.text).options), 'text_encoder', 'config.json')
  json(scheduler, 'scheduler', 'scheduler_config.json')
  writeTokenizer(at('tokenizer'))
  await writeFile(at('unet', 'diffusion_pytorch_model.safetensors'), folder.unet)
  await writeFile(at('vae', 'diffusion_pytorch_model.safetensors'), folder.vae)
  await writeFile(at('text_encoder', 'model.safetensors'), folder.text_encoder)
  json(index, 'model_index.json')
}

/** The same values by CompVis' names. */
export const writeSingleFile = (file: string, shape: ModelShape) => writeFile(file, tensorsOf(shape).single)

export function writeTokenizer(target: string): void {
  cpSync(path.join(__dirname, '..', '..', '..', 'test', 'fixtures', 'clip_tokenizer'), target, { recursive: true })
}

/** What latents are multiplied by. */
export const scalingFactor = 0.18215

const scheduler = {
  ...{ _class_name: 'PNDMScheduler', beta_start: 0.00085, beta_end: 0.012, beta_schedule: 'scaled_linear' },
  ...{ num_train_timesteps: 1000, set_alpha_to_one: false, skip_prk_steps: true, steps_offset: 1 },
}
const none = [null, null]
const index = {
  ...{ _class_name: 'StableDiffusionPipeline', _diffusers_version: '0.27.2', requires_safety_checker: false },
  ...{ feature_extractor: none, image_encoder: none, safety_checker: none },
  scheduler: ['diffusers', 'PNDMScheduler'],
  text_encoder: ['transformers', 'CLIPTextModel'],
  tokenizer: ['transformers', 'CLIPTokenizer'],
  unet: ['diffusers', 'UNet2DConditionModel'],
  vae: ['diffusers', 'AutoencoderKL'],
}
