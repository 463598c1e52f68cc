import { stat } from 'node:fs/promises'
import { dataFileOf } from '../export/external-data'
import type { Command, OptionTable } from './args'
import { isFile, outputFile, overwriteOption, tellRenamed } from './free-name'
import { openModel, sourceOf, sourceOptions } from './open-model'
import { createOutput, warn } from './output'

const options = {
  ...sourceOptions,
  output: { kind: 'string', short: 'o', value: 'file', help: 'the ONNX file (model.onnx)' },
  height: { kind: 'integer', min: 1, help: "height of the images, or of a latent model's latents (the model's)" },
  width: { kind: 'integer', min: 1, help: "their width (the model's)" },
  'context-length': { kind: 'integer', min: 1, help: "tokens of cross-attention (those of the model's text encoder)" },
  'external-data': {
    kind: 'flag',
    help: 'weights in a file of their own, model.onnx_data (above 2 GiB they always are)',
  },
  ...overwriteOption,
} as const satisfies OptionTable

export const exportModel: Command<typeof options> = {
  name: 'export',
  summary: 'Writes the network of a model as an ONNX file.',
  usage: '[<model>] [--output <file>]',
  positionals: 1,
  options,
  notes: `
Inputs: x float [n, channels, height, width], the noisy images, and t int64 [n], their timesteps from 0.
With cross-attention also context float [n, tokens, width], what a text encoder makes of prompts.
Output: eps, the predicted noise (x0 of a model that predicts images), in x's shape. n is free.

  ddpm export --model runs/photos/model.safetensors --output photos.onnx
  ddpm export runs/photos --output photos.onnx`,

  async run(values, [positional]) {
    const { output: wanted = 'model.onnx', height, width, 'context-length': contextLength, overwrite, json } = values
    const externalData = values['external-data']
    sourceOf(values, positional)
    const output = createOutput(json === true)
    const file = await outputFile(wanted, {
      overwrite,
      taken: async (name) => (await isFile(name)) || isFile(dataFileOf(name)),
    })
    const ddpm = await openModel({ ...values, device: 'cpu' }, positional)
    const files: string[] = []
    try {
      files.push(...(await ddpm.exportOnnx(file, { height, width, contextLength, externalData })))
      for (const warning of ddpm.warnings()) warn(output, warning)
    } finally {
      ddpm.dispose()
    }
    const sizes = await Promise.all(files.map(async (name) => (await stat(name)).size))
    const bytes = sizes.reduce((a, b) => a + b)
    output.say(`${files.join(', ')}: ${(bytes / 2 ** 20).toFixed(1)} MiB`)
    tellRenamed(output, values.output, file)
    output.event('done', { file, files, bytes })
    return 0
  },
}
