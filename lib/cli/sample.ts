import path from 'node:path'
import { atomicWrite } from '../checkpoint/atomic-write'
import { encodePng, type ImageBytes, imageAt, imageGrid } from '../data/image-grid'
import { writeNpz } from '../data/npz'
import { makeFolder } from '../make-folder'
import type { Command, OptionTable, Values } from './args'
import { checkDrawOptions, type Drawn, drawImages, drawOptions } from './draw'
import { checkModelOptions, modelOptions, openModel } from './open-model'
import { createOutput, stdout, warn } from './output'
import { preview } from './preview'
import { stoppable } from './stop'

const options = {
  ...modelOptions,
  ...drawOptions,
  output: { kind: 'string', short: 'o', value: 'file', help: 'PNG with all images as a grid (samples.png)' },
  columns: { kind: 'integer', min: 1, help: 'columns of the grid (as wide as high)' },
  scale: { kind: 'integer', min: 1, help: 'enlarges the grid (images of at least 128 pixels)' },
  separate: { kind: 'string', value: 'folder', help: 'a PNG for each image into this folder; no grid unless --output' },
  npz: {
    kind: 'string',
    value: 'file',
    help: "all images, and their classes, as guided-diffusion's evaluator reads them; no grid unless --output",
  },
  'no-preview': { kind: 'flag', help: 'no picture in the terminal' },
} as const satisfies OptionTable

export const sample: Command<typeof options> = {
  name: 'sample',
  summary: 'Draws images.',
  usage: '[--model <file> | --checkpoint <folder>] [options]',
  positionals: 0,
  options,
  notes: `
  ddpm sample --count 16 --output samples.png
  ddpm sample --checkpoint runs/photos --count 100 --separate images --seed 7
  ddpm sample --class food --guidance 2
  ddpm sample --sampler dpmsolver++ --steps 25
  ddpm sample --sampler ddim --steps 50 --eta 0.5 --spacing trailing
  ddpm sample --init-image cat.png --strength 0.6
  ddpm sample --init-image cat.png --mask mask.png
  ddpm sample --interpolate 1,2 --count 8 --columns 8
  ddpm sample --count 50000 --batch 64 --npz samples.npz`,

  async run(values) {
    checkModelOptions(values)
    checkDrawOptions(values)
    const output = createOutput(values.json === true)
    const { exitCode } = await stoppable((signal) => draw(values, output, signal))
    return exitCode
  },
}

type SampleValues = Values<typeof options>

async function draw(values: SampleValues, output: ReturnType<typeof createOutput>, signal: AbortSignal): Promise<void> {
  const start = performance.now()
  const ddpm = await openModel(values)
  try {
    const drawn = await drawImages(ddpm, values, signal)
    const seconds = (performance.now() - start) / 1000
    const files = await write(values, drawn)
    if (stdout.isTTY && !output.json && !values['no-preview'] && !process.env.NO_COLOR) {
      const small = imageGrid(drawn.images, { columns: values.columns, gap: 1 })
      stdout.write(`${await preview(small, stdout.columns ?? 80)}\n`)
    }
    const [count] = drawn.images.shape
    const written = files.length > 1 ? `${files.length} files` : files[0]
    output.say(`${count} images in ${seconds.toFixed(1)} s: ${written}`)
    for (const warning of ddpm.warnings()) warn(output, warning)
    output.event('done', { count, seconds, files })
  } finally {
    ddpm.dispose()
  }
}

/** The files that are asked for, or a grid. */
async function write(values: SampleValues, { images, labels }: Drawn): Promise<string[]> {
  const files: string[] = []
  if (values.separate !== undefined) files.push(...(await writeSeparate(values.separate, images, values.first ?? 0)))
  if (values.npz !== undefined) {
    await makeFolder(path.dirname(values.npz))
    const arr_1 = labels && { data: BigInt64Array.from(labels, BigInt), shape: [labels.length] }
    await writeNpz(values.npz, { arr_0: images, ...(arr_1 && { arr_1 }) })
    files.push(values.npz)
  }
  const grid = values.output ?? (files.length === 0 ? 'samples.png' : undefined)
  if (grid !== undefined) {
    const scale = values.scale ?? Math.max(1, Math.floor(128 / images.shape[1]))
    await makeFolder(path.dirname(grid))
    await atomicWrite(grid, await encodePng(imageGrid(images, { columns: values.columns, scale })))
    files.push(grid)
  }
  return files
}

async function writeSeparate(folder: string, images: ImageBytes, first: number): Promise<string[]> {
  await makeFolder(folder)
  const files: string[] = []
  for (let i = 0; i < images.shape[0]; i++) {
    const file = path.join(folder, `${String(first + i).padStart(5, '0')}.png`)
    await atomicWrite(file, await encodePng(imageAt(images, i)))
    files.push(file)
  }
  return files
}
