/** The model that a command works with, by the options that all of them have. */
import { loadModel } from '../convert/load-model'
import type { DeviceName } from '../device'
import type { DDPM } from '../diffusion/models/ddpm'
import type { LoraSource } from '../diffusion/models/lora'
import { precisions, weightFormats } from '../native'
import type { Seed } from '../options'
import { type OptionTable, UsageError, type Values } from './args'
import { stderr } from './output'
import { Progress } from './progress'

/** Which model. */
export const sourceOptions = {
  model: {
    kind: 'string',
    short: 'm',
    value: 'path',
    help: 'a model file or its URL, a run, diffusers folder or checkpoint (the model that comes with this package)',
  },
  checkpoint: {
    kind: 'string',
    value: 'folder',
    help: 'the same as --model; <run>@best is the best of a run with a monitor',
  },
  'no-ema': { kind: 'flag', help: 'the trained weights instead of the averaged ones' },
  'sigma-rel': {
    kind: 'number',
    min: 0,
    max: 1,
    help: 'of a run with --ema-sigma-rels, in place of its average: that of this length, a part of the training',
  },
  config: {
    kind: 'string',
    value: 'file',
    help: "the YAML configuration of ddpm.py's checkpoint (the .yaml beside it)",
  },
  key: {
    kind: 'string',
    value: 'name',
    help: "which dict of a checkpoint has the weights, such as 'ema' (found by the names)",
  },
  tokenizer: {
    kind: 'string',
    value: 'folder',
    help: 'of a latent model in one file: vocab.json and merges.txt, or tokenizer.json (what is beside it)',
  },
  parameterization: {
    kind: 'string',
    choices: ['eps', 'v'],
    help: 'what a Stable Diffusion 2 without configuration predicts, which its file does not say (v)',
  },
  variant: { kind: 'string', value: 'name', help: 'which weights of a diffusers folder, such as fp16' },
  revision: { kind: 'string', value: 'name', help: 'branch, tag or commit of a model of the hub (main)' },
} as const satisfies OptionTable

/** And how it computes. */
export const modelOptions = {
  ...sourceOptions,
  lora: {
    kind: 'string',
    value: 'file[@scale]',
    help: 'low-rank updates that are added to the weights, several separated by commas (none)',
  },
  deterministic: { kind: 'flag', help: 'the same bits whatever the batch' },
  device: { kind: 'string', value: 'name', help: "'cpu', 'cuda', 'cuda:1', 'auto' (auto)" },
  'memory-limit': { kind: 'memory', help: 'the most of its memory to use, such as 4GB (all that it has)' },
  precision: {
    kind: 'string',
    choices: precisions,
    help: '16-bit operands where the device has them: CPUs bf16 with AVX512-BF16 or AMX (fp32)',
  },
  'weight-format': {
    kind: 'string',
    choices: weightFormats,
    help: 'what weights are held in, to take less memory: fp16 and bf16 half, int8 a quarter (fp32)',
  },
} as const satisfies OptionTable

type SourceValues = Values<typeof sourceOptions>
type ModelValues = Values<typeof modelOptions> & { readonly seed?: Seed }

/** The model's name, also without an option's: undefined for the one that comes with the package. Throws UsageError for several. */
export function sourceOf(values: SourceValues, positional?: string): string | undefined {
  const given = [positional, values.model, values.checkpoint].filter((name) => name !== undefined)
  if (given.length > 1)
    throw new UsageError('the model is named twice: of its name, --model and --checkpoint give one of them')
  return given[0]
}

export async function openModel(values: ModelValues, positional?: string): Promise<DDPM> {
  const source = sourceOf(values, positional)
  const {
    config,
    key,
    variant,
    revision,
    tokenizer,
    parameterization,
    seed = 0,
    deterministic = false,
    precision,
  } = values
  const device = (values.device ?? 'auto') as DeviceName // checked where it is opened
  const { 'no-ema': trained, 'sigma-rel': sigmaRel } = values
  if (trained && sigmaRel !== undefined) throw new UsageError('--no-ema and --sigma-rel: give one of them')
  const weights = trained ? ('model' as const) : undefined
  let bar: Progress | undefined
  const onDownload = ({ received, total }: { received: number; total: number | undefined }) => {
    if (total === undefined) return
    bar ??= new Progress(stderr, { label: 'download', total, rate: false })
    bar.update(received)
  }
  const { 'memory-limit': memoryLimit, 'weight-format': weightFormat } = values
  const settings = { device, memoryLimit, seed, deterministic, precision, weightFormat, onDownload }
  const loras = values.lora === undefined ? undefined : lorasOf(values.lora)
  const which = { weights, sigmaRel, config, key, variant, revision, tokenizer, parameterization, loras }
  return loadModel(source, { ...which, ...settings }).finally(() => bar?.clear())
}

/** 'a.safetensors@0.8,b.safetensors'. What is after the last @ is a scale where it is a number. */
function lorasOf(text: string): LoraSource[] {
  return text.split(',').map((part) => {
    const [, path, scale] = /^(.+)@(-?[\d.]+(?:e-?\d+)?)$/.exec(part) ?? [undefined, part, '1']
    if (path === '') throw new UsageError('--lora: a file is missing between commas')
    return { path, scale: Number(scale) }
  })
}
