import { isDiffusersFolder } from '../checkpoint/diffusers/folder'
import { readSource } from '../convert/source'
import { configNameOf, type TargetKind, writeTarget } from '../convert/target'
import { LatentDiffusion } from '../diffusion/models/latent-diffusion'
import { DiffusionError } from '../errors'
import { type Command, type OptionTable, UsageError } from './args'
import { isFile, outputFile, outputName, overwriteOption, tellRenamed } from './free-name'
import { sourceOptions } from './open-model'
import { createOutput, warn } from './output'

export const convertOptions = {
  to: { kind: 'string', choices: ['model', 'diffusers', 'ckpt'], help: "the target's kind (by its name, see below)" },
  weights: {
    kind: 'string',
    choices: ['ema', 'model', 'both'],
    help: 'averaged weights, trained ones, or both (see below)',
  },
  'sigma-rel': sourceOptions['sigma-rel'],
  config: { kind: 'string', value: 'file', help: "a checkpoint's YAML configuration (the .yaml beside it)" },
  key: {
    kind: 'string',
    value: 'name',
    help: "which dict of a checkpoint has the weights, such as 'ema' (found by the names)",
  },
  tokenizer: sourceOptions.tokenizer,
  parameterization: sourceOptions.parameterization,
  from: {
    kind: 'string',
    value: 'variant',
    help: 'which weights of a diffusers folder, such as fp16 (those without a name)',
  },
  variant: { kind: 'string', choices: ['fp16'], help: 'write a diffusers folder or a model file in half precision' },
  'max-shard-size': { kind: 'integer', min: 1, value: 'bytes', help: 'of the files of a diffusers folder (one file)' },
} as const satisfies OptionTable

const options = {
  ...convertOptions,
  revision: { kind: 'string', value: 'name', help: 'branch, tag or commit of a source on the hub (main)' },
  ...overwriteOption,
} as const satisfies OptionTable

export const convert: Command<typeof options> = {
  name: 'convert',
  summary: 'Writes a model in the form that other libraries open.',
  usage: '<source> <target> [options]',
  positionals: 2,
  options,
  notes: `
A source is a model file or a run of this project, a diffusers folder, or a checkpoint of ddpm.py (.ckpt, .pt,
.safetensors) with its YAML configuration, or of denoising-diffusion-pytorch. The target's kind follows from its
name: .safetensors is a model file, .ckpt, .pt and .pth a checkpoint, beside which the configuration is written as .yaml,
anything else a diffusers folder. A checkpoint holds trained and averaged weights; the others hold the averaged ones where there are any.
A latent model becomes a folder, or one file by CompVis' names with its configuration beside it, also as .safetensors.

  ddpm convert runs/photos photos-diffusers
  ddpm convert last.ckpt photos.safetensors --config photos.yaml
  ddpm convert photos.safetensors photos.ckpt`,

  async run(
    {
      to,
      weights,
      config,
      key,
      tokenizer,
      parameterization,
      from,
      variant,
      'max-shard-size': maxShardSize,
      revision,
      overwrite,
      json,
      'sigma-rel': sigmaRel,
    },
    [source, wanted],
  ) {
    if (source === undefined || wanted === undefined) throw new UsageError('the source or the target is missing')
    checkWeights(weights, sigmaRel)
    const output = createOutput(json === true)
    const kind = to ?? kindOf(wanted)
    const found = await targetName(wanted, kind, overwrite)
    const model = await readSource(source, {
      ...{ config, key, variant: from, revision, sigmaRel, tokenizer, parameterization },
    })
    try {
      // A configuration is written beside a latent model, whatever its file is called.
      const isLatentFile = kind === 'model' && model.ddpm instanceof LatentDiffusion
      const target = isLatentFile ? await targetName(wanted, 'ckpt', overwrite) : found
      const files = await writeTarget(model, target, { to: kind, weights, variant, maxShardSize })
      output.say(`${source} (${model.kind}) -> ${files.join(', ')} (${kind})`)
      for (const warning of model.ddpm.warnings()) warn(output, warning)
      tellRenamed(output, wanted, target)
      output.event('done', { from: model.kind, to: kind, files })
      return 0
    } finally {
      model.ddpm.dispose()
    }
  },
}

export function checkWeights(weights: string | undefined, sigmaRel: number | undefined): void {
  if (weights === 'model' && sigmaRel !== undefined)
    throw new UsageError('--weights model and --sigma-rel: give one of them')
}

/** A checkpoint's configuration, and a folder's contents, are not replaced either. Throws `io` where nothing could be written. */
async function targetName(wanted: string, kind: TargetKind, overwrite?: boolean): Promise<string> {
  if (kind === 'diffusers') {
    const target = await outputName(wanted, {
      overwrite,
      taken: async (name) => (await isFile(name)) || (await isDiffusersFolder(name)),
    })
    if (!(await isFile(target))) return target
    throw new DiffusionError('io', `cannot write ${target}: it is a file, not a folder`, { argument: 'target' })
  }
  const beside = async (name: string) => kind === 'ckpt' && (await isFile(configNameOf(name)))
  return outputFile(wanted, { overwrite, taken: async (name) => (await isFile(name)) || (await beside(name)) })
}

/** Throws UsageError for a name that nobody gives to a folder. */
function kindOf(target: string): TargetKind {
  if (/\.safetensors$/i.test(target)) return 'model'
  if (/\.(ckpt|pth?)$/i.test(target)) return 'ckpt'
  if (/\.onnx$/i.test(target)) throw new UsageError(`'${target}': ONNX files are written by ddpm export`)
  const file = /\.(bin|gguf|h5|json|npz|pkl|ya?ml|zip)$/i.test(target)
  if (!file) return 'diffusers'
  throw new UsageError(`'${target}': expected .safetensors, .ckpt, .pt or a folder; with --to, any name will do`)
}
