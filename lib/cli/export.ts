import { stat } from 'node:fs/promises'
import { loadModel } from '../train/model-file'
import { type Command, type OptionTable, UsageError } from './args'
import { createOutput } from './output'

const options = {
  model: { kind: 'string', short: 'm', value: 'file', help: 'a model file' },
  output: { kind: 'string', short: 'o', value: 'file', help: 'the ONNX file (model.onnx)' },
  height: { kind: 'integer', min: 1, help: "height of the images (the model's)" },
  width: { kind: 'integer', min: 1, help: "width of the images (the model's)" },
} as const satisfies OptionTable

export const exportModel: Command<typeof options> = {
  name: 'export',
  summary: 'Writes the network of a model as an ONNX file.',
  usage: '--model <file> [--output <file>]',
  positionals: 0,
  options,
  notes: `
Inputs: x float [n, channels, height, width], the noisy images, and t int64 [n], their timesteps from 0.
Output: eps, the predicted noise (x0 of a model that predicts images), in x's shape. n is free.

  ddpm export --model runs/photos/model.safetensors --output photos.onnx`,

  async run({ model, output: file = 'model.onnx', height, width, json }) {
    if (model === undefined) throw new UsageError('--model <file> is missing')
    const output = createOutput(json === true)
    const ddpm = await loadModel(model, { device: 'cpu' })
    try {
      await ddpm.exportOnnx(file, { height, width })
    } finally {
      ddpm.dispose()
    }
    const { size } = await stat(file)
    output.say(`${file}: ${(size / 2 ** 20).toFixed(1)} MiB`)
    output.event('done', { file, bytes: size })
    return 0
  },
}
