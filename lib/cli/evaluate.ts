import { Dataset } from '../data/dataset'
import { type Evaluation, evaluate as evaluateModel } from '../trainer/evaluate'
import { type Command, type OptionTable, UsageError, type Values } from './args'
import { outputFile, overwriteOption, writeOutput } from './free-name'
import { modelOptions, openModel, sourceOf } from './open-model'
import { createOutput, note, stderr, warn } from './output'
import { Progress } from './progress'
import { stoppable } from './stop'

const options = {
  ...modelOptions,
  limit: { kind: 'integer', min: 1, help: 'images to evaluate, chosen by the seed (all)' },
  batch: { kind: 'integer', min: 1, help: 'images evaluated at once (16)' },
  seed: { kind: 'seed', help: 'of the noise, and of the choice (0)' },
  background: { kind: 'string', value: 'colour', help: 'shows through transparent pixels (white)' },
  range: { kind: 'string', choices: ['0,1', '-1,1'], help: 'black and white of floats, which no file says' },
  svg: { kind: 'flag', help: 'read SVGs too: only those of people you trust' },
  classes: {
    kind: 'string',
    value: 'folders|labels|file',
    help: "the images' classes, for a class-conditional model, as in ddpm train (none: its null class)",
  },
  output: {
    kind: 'string',
    short: 'o',
    value: 'file',
    help: 'everything as JSON, the terms of each timestep included',
  },
  ...overwriteOption,
} as const satisfies OptionTable

type EvaluateValues = Values<typeof options>

export const evaluate: Command<typeof options> = {
  name: 'evaluate',
  summary: 'Measures how well a model describes images: bits per dimension, and errors of reconstruction.',
  usage: '<folder> [--model <model>] [options]',
  positionals: 1,
  options,
  notes: `
Every timestep of every image is evaluated once (Ho et al. 2020, eq. 5): a model of 1000 timesteps needs 1000 evaluations of the
network an image. Images are scaled and cropped to the model's size.

  ddpm evaluate photos --checkpoint runs/photos --limit 256
  ddpm evaluate photos --checkpoint runs/photos --output bits.json`,

  async run(values, [folder]) {
    if (folder === undefined) throw new UsageError('the folder of images is missing')
    sourceOf(values)
    const output = createOutput(values.json === true)
    const { overwrite } = values
    const file = values.output === undefined ? undefined : await outputFile(values.output, { overwrite, output })
    const { exitCode } = await stoppable(async (signal) => {
      const evaluation = await evaluateFolder(folder, values, output, signal)
      for (const line of report(evaluation)) output.say(line)
      const json = `${JSON.stringify(evaluation, null, 2)}\n`
      const written = file === undefined ? undefined : await writeOutput(file, json, overwrite)
      if (written !== undefined) output.say(`\n${written}`)
      output.event('done', { ...evaluation, ...(written !== undefined && { file: written }) })
    })
    return exitCode
  },
}

async function evaluateFolder(
  folder: string,
  values: EvaluateValues,
  output: ReturnType<typeof createOutput>,
  signal: AbortSignal,
): Promise<Evaluation> {
  const ddpm = await openModel(values)
  let bar: Progress | undefined
  try {
    const data = await Dataset.open(folder, {
      size: [ddpm.imageSize, ddpm.imageWidth],
      channels: ddpm.channels,
      background: values.background,
      svg: values.svg,
      range: values.range?.split(',').map(Number) as [number, number] | undefined,
      classes: values.classes,
      seed: values.seed,
      onUnreadable: ({ file, reason }) => {
        output.event('unreadable', { file, reason })
        if (!output.json) note(`skipped, can't be read: ${file} (${reason})`)
      },
    })
    const evaluation = await evaluateModel(ddpm, data, {
      limit: values.limit,
      batchSize: values.batch,
      seed: values.seed,
      signal,
      onProgress: ({ done, total, images }) => {
        bar ??= new Progress(stderr, { label: 'evaluate', total, lines: true })
        bar.update(done, `${images} images`)
      },
    })
    bar?.clear()
    for (const warning of ddpm.warnings()) warn(output, warning)
    return evaluation
  } finally {
    bar?.clear()
    ddpm.dispose()
  }
}

/** Rows of the table for people. */
const rows = 10

function report({ images, bitsPerDim, priorBpd, vb, xstartMse, mse }: Evaluation): string[] {
  const T = vb.length
  const lines = [
    `${images} images: ${bitsPerDim.toFixed(4)} bits/dim, ${priorBpd.toExponential(2)} of them the prior's`,
  ]
  lines.push('', '  timesteps   bits/dim   error of x_0   error of the noise')
  for (let row = 0; row < Math.min(rows, T); row++) {
    const [from, to] = [row, row + 1].map((r) => Math.round((r * T) / Math.min(rows, T)))
    const part = (values: readonly number[]) => values.slice(from, to).reduce((a, b) => a + b, 0)
    const mean = (values: readonly number[]) => (part(values) / (to - from)).toFixed(5)
    const range = `${from}-${to - 1}`.padStart(11)
    lines.push(`${range} ${part(vb).toFixed(5).padStart(10)} ${mean(xstartMse).padStart(14)} ${mean(mse).padStart(20)}`)
  }
  return lines
}
