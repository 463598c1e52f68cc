/** The model that a command works with, by the options that all of them have. */
import { stat } from 'node:fs/promises'
import path from 'node:path'
import type { DeviceName } from '../device'
import { DDPM } from '../diffusion/ddpm'
import { precisions } from '../native'
import type { Seed } from '../options'
import { openCheckpoint, readWeights } from '../train/checkpoint'
import { loadModel, modelFromWeights } from '../train/model-file'
import { type OptionTable, UsageError, type Values } from './args'

export const modelOptions = {
  model: {
    kind: 'string',
    short: 'm',
    value: 'file',
    help: "a model file, or a folder in diffusers' layout (the model that comes with this package)",
  },
  checkpoint: { kind: 'string', value: 'folder', help: 'a run folder (its newest checkpoint) or a checkpoint folder' },
  'no-ema': { kind: 'flag', help: "the checkpoint's plain weights instead of the averaged ones" },
  deterministic: { kind: 'flag', help: 'the same bits whatever the batch' },
  device: { kind: 'string', value: 'name', help: "'cpu', 'cuda', 'cuda:1', 'auto' (auto)" },
  precision: { kind: 'string', choices: precisions, help: '16-bit operands where the device has them (fp32)' },
} as const satisfies OptionTable

type ModelValues = Values<typeof modelOptions> & { readonly seed?: Seed }

/** What `npm start` draws with; models/README.md says how it was made. */
const shippedModel = path.join(__dirname, '..', '..', '..', 'models', 'emoji-32.safetensors')

export function checkModelOptions(values: ModelValues): void {
  if (values.model !== undefined && values.checkpoint !== undefined) {
    throw new UsageError('--model and --checkpoint: give one of them')
  }
  if (values['no-ema'] && values.checkpoint === undefined) throw new UsageError('--no-ema goes with --checkpoint')
}

export async function openModel(values: ModelValues): Promise<DDPM> {
  const device = (values.device ?? 'auto') as DeviceName // checked where it is opened
  const { seed = 0, deterministic = false, precision } = values
  const settings = { device, seed, deterministic, precision }
  if (values.checkpoint === undefined) {
    const model = values.model ?? shippedModel
    const isFolder = (await stat(model).catch(() => undefined))?.isDirectory()
    return isFolder ? DDPM.fromPretrained(model, settings) : loadModel(model, settings)
  }
  const checkpoint = await openCheckpoint(values.checkpoint)
  const weights = await readWeights(checkpoint, { ema: !values['no-ema'] })
  return modelFromWeights(checkpoint.state.options.model, weights, settings)
}
