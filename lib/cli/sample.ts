import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import { atomicWrite } from '../checkpoint/atomic-write'
import { encodePng, imageGrid, toPixels } from '../data/image-grid'
import type { DeviceName } from '../device'
import type { DDPM } from '../diffusion/ddpm'
import { openCheckpoint, readWeights } from '../train/checkpoint'
import { loadModel, modelFromWeights } from '../train/model-file'
import { type Command, type OptionTable, UsageError, type Values } from './args'
import { createOutput, withSignals } from './output'
import { preview } from './preview'
import { Progress } from './progress'

const options = {
  model: { kind: 'string', short: 'm', value: 'file', help: 'a model file (the model that comes with this package)' },
  checkpoint: { kind: 'string', value: 'folder', help: 'a run folder (its newest checkpoint) or a checkpoint folder' },
  'no-ema': { kind: 'flag', help: "the checkpoint's plain weights instead of the averaged ones" },
  count: { kind: 'integer', short: 'n', min: 1, help: 'images to draw (16)' },
  first: { kind: 'integer', min: 0, help: 'number of the first image: image i of a seed is always the same (0)' },
  seed: { kind: 'integer', min: 0, help: 'another seed, other images (0)' },
  class: {
    kind: 'string',
    value: 'name,...',
    help: 'names or numbers of classes, which images take in turn (all, of a class-conditional model)',
  },
  guidance: { kind: 'number', help: 'scale of classifier-free guidance: 1 is none, more exaggerates the class (1)' },
  sampler: {
    kind: 'string',
    choices: ['ddpm', 'ddim', 'plms', 'dpmsolver++', 'unipc'],
    help: 'ancestral sampling, or fewer steps by another (ddpm)',
  },
  spacing: { kind: 'string', choices: ['linspace', 'leading', 'trailing'], help: 'which timesteps are taken' },
  steps: {
    kind: 'integer',
    min: 1,
    help: "sampling steps: fewer are faster (250, or all there are; 25 for 'plms', 'dpmsolver++', 'unipc')",
  },
  eta: { kind: 'number', min: 0, help: "noise of DDIM's steps (0)" },
  batch: { kind: 'integer', min: 1, help: 'images drawn at once (16)' },
  output: { kind: 'string', short: 'o', value: 'file', help: 'PNG with all images as a grid (samples.png)' },
  columns: { kind: 'integer', min: 1, help: 'columns of the grid (as wide as high)' },
  scale: { kind: 'integer', min: 1, help: 'enlarges the grid (images of at least 128 pixels)' },
  separate: { kind: 'string', value: 'folder', help: 'a PNG for each image into this folder; no grid unless --output' },
  deterministic: { kind: 'flag', help: 'the same bits whatever the batch' },
  'no-preview': { kind: 'flag', help: 'no picture in the terminal' },
  device: { kind: 'string', value: 'name', help: "'cpu', 'cuda', 'cuda:1', 'auto' (auto)" },
} as const satisfies OptionTable

/** What `npm start` draws with; models/README.md says how it was made. */
const shippedModel = path.join(__dirname, '..', '..', '..', 'models', 'emoji-32.safetensors')

const defaultSteps = 250
/** Of the multistep solvers. */
const solverSteps = 25

export const sample: Command<typeof options> = {
  name: 'sample',
  summary: 'Draws images.',
  usage: '[--model <file> | --checkpoint <folder>] [options]',
  positionals: 0,
  options,
  notes: `
  ddpm sample --count 16 --output samples.png
  ddpm sample --checkpoint runs/photos --count 100 --separate images --seed 7
  ddpm sample --sampler dpmsolver++ --steps 25
  ddpm sample --class food --guidance 2`,

  async run(values) {
    if (values.model !== undefined && values.checkpoint !== undefined) {
      throw new UsageError('--model and --checkpoint: give one of them')
    }
    if (values['no-ema'] && values.checkpoint === undefined) throw new UsageError('--no-ema goes with --checkpoint')
    if (values.spacing !== undefined && values.sampler === 'plms') {
      throw new UsageError('--spacing goes with another --sampler')
    }
    if (values.eta !== undefined && values.sampler !== 'ddim') throw new UsageError('--eta goes with --sampler ddim')
    const output = createOutput(values.json === true)
    const { exitCode } = await withSignals((signal) => draw(values, output, signal))
    return exitCode
  },
}

type SampleValues = Values<typeof options>

async function draw(values: SampleValues, output: ReturnType<typeof createOutput>, signal: AbortSignal): Promise<void> {
  const start = performance.now()
  const ddpm = await openModel(values)
  try {
    const count = values.count ?? 16
    const images = await drawAll(ddpm, { ...values, count }, signal)
    const seconds = (performance.now() - start) / 1000
    const files: string[] = []
    if (values.separate !== undefined) files.push(...(await writeSeparate(values.separate, images, values.first ?? 0)))
    const grid = values.output ?? (values.separate === undefined ? 'samples.png' : undefined)
    if (grid !== undefined) {
      const scale = values.scale ?? Math.max(1, Math.floor(128 / images.shape[2]))
      const picture = imageGrid(images.data, images.shape, { columns: values.columns, scale })
      await mkdir(path.dirname(grid), { recursive: true })
      await atomicWrite(grid, await encodePng(picture))
      files.push(grid)
    }
    if (process.stdout.isTTY && !output.json && !values['no-preview'] && !process.env.NO_COLOR) {
      const small = imageGrid(images.data, images.shape, { columns: values.columns, gap: 1 })
      output.say(await preview(small, process.stdout.columns ?? 80))
    }
    const written = files.length > 1 ? `${files.length} files` : files[0]
    output.say(`${count} images in ${seconds.toFixed(1)} s: ${written}`)
    output.event('done', { count, seconds, files })
  } finally {
    ddpm.dispose()
  }
}

async function openModel(values: SampleValues): Promise<DDPM> {
  const device = (values.device ?? 'auto') as DeviceName // checked where it is opened
  const settings = { device, seed: values.seed ?? 0, deterministic: values.deterministic ?? false }
  if (values.checkpoint === undefined) return loadModel(values.model ?? shippedModel, settings)
  const checkpoint = await openCheckpoint(values.checkpoint)
  const weights = await readWeights(checkpoint, { ema: !values['no-ema'] })
  return modelFromWeights(checkpoint.state.options.model, weights, settings)
}

interface Images {
  readonly data: Float32Array
  /** [n, c, h, w] */
  readonly shape: readonly number[]
}

/** Batch after batch; the images do not depend on how they are divided. */
async function drawAll(ddpm: DDPM, values: SampleValues & { count: number }, signal: AbortSignal): Promise<Images> {
  const { count, first = 0, seed = 0, sampler = 'ddpm', eta } = values
  const usual = sampler === 'ddpm' || sampler === 'ddim' ? defaultSteps : solverSteps
  const steps = values.steps ?? Math.min(usual, ddpm.numTimesteps)
  const batch = Math.min(count, values.batch ?? 16)
  const batches = Math.ceil(count / batch)
  const labels = classLabels(ddpm, values.class)
  let bar: Progress | undefined
  const parts: Float32Array[] = []
  let shape: readonly number[] = []
  try {
    for (let b = 0; b < batches; b++) {
      const batchSize = Math.min(batch, count - b * batch)
      const samples = await ddpm.sample({
        batchSize,
        sampleOffset: first + b * batch,
        seed,
        steps,
        sampler,
        ...(sampler === 'ddim' ? { eta: eta ?? 0 } : {}),
        timestepSpacing: values.spacing,
        classLabels: labels(first + b * batch, batchSize),
        guidanceScale: values.guidance,
        signal,
        onStep: ({ step, total }) => {
          // `total` is not always `steps`: DDIM's steps are spread evenly, and there may be some more.
          bar ??= new Progress(process.stderr, { label: 'sample', total: batches * total })
          bar.update(b * total + step, `${b * batch} of ${count} images`)
        },
      })
      parts.push(await samples.data())
      shape = samples.shape
      samples.dispose()
    }
  } finally {
    bar?.clear()
  }
  const data = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0))
  let offset = 0
  for (const part of parts) {
    data.set(part, offset)
    offset += part.length
  }
  return { data, shape: [count, ...shape.slice(1)] }
}

/** The labels of images [first, first + n): image i takes class i of those that are asked for, and then from the front again. */
function classLabels(ddpm: DDPM, text: string | undefined): (first: number, n: number) => number[] | undefined {
  const all = ddpm.classNames.length || ddpm.network?.numClasses
  if (text === undefined && all === undefined) return () => undefined
  const chosen = text?.split(',').map((name) => labelOf(ddpm, name)) ?? Array.from({ length: all! }, (_, i) => i)
  return (first, n) => Array.from({ length: n }, (_, i) => chosen[(first + i) % chosen.length])
}

function labelOf(ddpm: DDPM, name: string): number {
  const isNumber = /^\d+$/.test(name) && !ddpm.classNames.includes(name)
  return isNumber ? Number(name) : ddpm.classLabel(name)
}

async function writeSeparate(folder: string, images: Images, first: number): Promise<string[]> {
  await mkdir(folder, { recursive: true })
  const files: string[] = []
  for (let i = 0; i < images.shape[0]; i++) {
    const file = path.join(folder, `${String(first + i).padStart(5, '0')}.png`)
    await atomicWrite(file, await encodePng(toPixels(images.data, images.shape, i)))
    files.push(file)
  }
  return files
}
