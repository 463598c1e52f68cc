import { encodeImage, imageFormatOf } from '../data/image-format'
import { type GridOptions, gridSize, type ImageBytes, imageAt, imageGrid, joinBytes } from '../data/image-grid'
import { partName } from '../data/parts/part-file'
import type { DDPM } from '../diffusion/models/ddpm'
import type { Ranks } from '../trainer/ranks'
import { type Command, type OptionTable, UsageError, type Values } from './args'
import { batchOf, checkDrawOptions, type Drawn, drawImages, drawOptions, labelsFor, type Span, spanOf } from './draw'
import { outputFile, outputName, overwriteOption, tellRenamed, writeOutput } from './free-name'
import { type Guides, openGuides } from './guidance'
import { type Keeper, type KeepOptions, numbersOf } from './keeper'
import { NpzFile } from './npz-file'
import { modelOptions, openModel, sourceOf } from './open-model'
import { createOutput, type Output, stdout } from './output'
import { preview } from './preview'
import { PreviewFile } from './preview-file'
import { sampleRecord } from './sample-record'
import { checkTogether, type Finished, finishTogether, type Places, placesOfAll } from './sample-together'
import { SeparateFiles } from './separate-files'
import { namePart, partOf, type SpanShard, shardOfSpan, shardOption } from './shard'
import { stoppable } from './stop'
import { shapeOf } from './text'
import { distributedOption, ranksOf, shareOf, tellWarnings } from './together'

const options = {
  ...modelOptions,
  ...drawOptions,
  output: {
    kind: 'string',
    short: 'o',
    value: 'file',
    help: 'all images as a grid: .png, .jpg, .webp, .avif, .tiff or .gif (samples.png)',
  },
  columns: { kind: 'integer', min: 1, help: 'columns of the grid (as wide as high)' },
  scale: { kind: 'integer', min: 1, help: 'enlarges the grid (images of at least 128 pixels)' },
  separate: {
    kind: 'string',
    value: 'folder',
    help: 'a PNG for each image into this folder, as soon as it is drawn; no grid unless --output',
  },
  npz: {
    kind: 'string',
    value: 'file',
    help: "all images, and their classes, as guided-diffusion's evaluator reads them; no grid unless --output",
  },
  resume: {
    kind: 'flag',
    help: 'go on with --separate and --npz where an earlier command with the same options ended',
  },
  ...shardOption,
  ...distributedOption,
  preview: {
    kind: 'string',
    value: 'file',
    help: 'a small picture of the images as they form, written anew once a second at most',
  },
  ...overwriteOption,
  'no-preview': { kind: 'flag', help: 'no picture in the terminal' },
} as const satisfies OptionTable

export const sample: Command<typeof options> = {
  name: 'sample',
  summary: 'Draws images.',
  usage: '[<model>] [options]',
  positionals: 1,
  options,
  notes: `
  ddpm sample --count 16 --output samples.png
  ddpm sample runs/photos --count 100 --separate images --seed 7
  ddpm sample --class food --guidance 2
  ddpm sample runs/photos --guidance 2 --guiding-model runs/worse
  ddpm sample --sampler dpmsolver++ --steps 25
  ddpm sample --sampler ddim --steps 50 --eta 0.5 --spacing trailing
  ddpm sample --init-image cat.png --strength 0.6
  ddpm sample --init-image cat.png --mask mask.png
  ddpm sample --interpolate 1,2 --count 8 --columns 8
  ddpm sample sd15 --prompt "a red apple" --prompt "a green pear"
  ddpm sample --count 4 --preview forming.png
  ddpm sample --count 50000 --batch 64 --npz samples.npz
  ddpm sample --count 50000 --batch 64 --npz samples.npz --resume
  ddpm sample --count 50000 --batch 64 --npz samples.npz --shard 3/16
  mpirun -n 4 npx ddpm sample --count 50000 --batch 64 --npz samples.npz`,

  async run(values, [positional]) {
    sourceOf(values, positional)
    checkDrawOptions(values)
    const kept = values.separate !== undefined || values.npz !== undefined
    if (values.resume && !kept) throw new UsageError('--resume goes with --separate or --npz')
    if (values.resume && values.overwrite) throw new UsageError('--resume and --overwrite: give one of them')
    const asked = values.shard === undefined ? undefined : shardOf(values.shard, values)
    const ranks = ranksOf(values)
    if (ranks.size > 1) checkTogether(values, ranks.size)
    const shard = ranks.size > 1 ? shareOf(ranks, spanOf(values), batchOf(values)) : asked
    const output = createOutput(values.json === true, !ranks.leads)
    const { exitCode } = await stoppable((signal) =>
      draw({ ...values, model: sourceOf(values, positional), checkpoint: undefined }, { shard, ranks, output, signal }),
    )
    return exitCode
  },
}

type SampleValues = Values<typeof options>

interface Drawer {
  /** What this process draws of it, if not all. */
  readonly shard?: SpanShard
  readonly ranks: Ranks
  readonly output: Output
  readonly signal: AbortSignal
}

/** Throws UsageError. */
function shardOf(shard: string, values: SampleValues): SpanShard {
  if (values.separate === undefined && values.npz === undefined)
    throw new UsageError('--shard goes with --separate or --npz')
  for (const name of ['output', 'preview', 'interpolate'] as const)
    if (values[name] !== undefined) throw new UsageError(`--${name} goes without --shard`)
  return shardOfSpan(shard, spanOf(values), batchOf(values))
}

async function draw(all: SampleValues, { shard, ranks, output, signal }: Drawer): Promise<void> {
  const several = ranks.size > 1
  const whole = spanOf(all)
  const values = shard ? { ...all, first: shard.first, count: shard.count } : all
  const start = performance.now()
  const grid = await gridFile(values)
  const previewFile = values.preview === undefined ? undefined : await PreviewFile.open(values.preview, values)
  const ddpm = await ranks.leaderFirst(() => openModel(values))
  const keepers: Keeper[] = []
  try {
    const span = spanOf(values)
    const [height, width] = shapeOf(ddpm, values)
    if (grid !== undefined) gridSize([span.count, height, width], gridOptions(values, height))
    using guides = await ranks.leaderFirst(() => openGuides(ddpm, values))
    const labelOf = labelsFor(ddpm, values, guides)
    const places = await openKeepers(keepers, { ddpm, guides, values: all, span, shard, ranks })
    const shown = wantsPreview(values, output) && !several
    const images: ImageBytes[] = []
    // Only a grid needs all images in memory at once, and those of before are in a file.
    const needed = (image: number) => grid !== undefined || (shown && image < span.first + maxShown)
    const has = (image: number) => keepers.length > 0 && keepers.every((keeper) => keeper.has(image))
    const before = numbersOf(span).filter(has).length
    let next = span.first
    const remember = async (upTo: number) => {
      for (; next < upTo; next++) if (needed(next)) images.push(await again(keepers, next, shapeOf(ddpm, values)))
    }
    let done: Finished
    try {
      const skip = (part: Span) => numbersOf(part).every(has)
      const shownBy = { preview: previewFile, progress: output.progress }
      const files = await ranks.together(async (stop) => {
        const own = { signal: stop, skip, labelOf, guides, ...shownBy }
        for await (const drawn of drawImages(ddpm, values, own)) {
          await remember(drawn.first)
          for (const keeper of keepers) await keeper.add(drawn)
          for (const image of numbersOf(drawn)) if (needed(image)) images.push(one(drawn, image))
          next = drawn.first + drawn.count
        }
        await remember(span.first + span.count)
        const all: string[] = []
        for (const keeper of keepers) all.push(...(await keeper.finish(labelOf)))
        return all
      }, signal)
      const own = { before, warnings: ddpm.warnings() }
      done = places
        ? await finishTogether(ranks, own, { places, whole, output, signal })
        : { before, warnings: [own.warnings], files }
    } catch (error) {
      const done = numbersOf(span).filter(has).length
      if (done > 0) {
        output.event('stopped', { done, count: span.count, kept: keepers.map(({ name }) => name) })
        const where = keepers.map(({ name }) => name).join(' and ')
        const kept = `${done} of ${span.count} images are kept for ${where}`
        output.note(
          several
            ? `${kept}, and what others drew; go on with the same command on ${ranks.size} processes, and --resume`
            : `${kept}; go on with the same command and --resume`,
        )
      } else if (keepers.length === 0 && images.length > 0) {
        output.note(
          `${images.length} images were drawn, and no grid is written; --separate and --npz keep them as they come`,
        )
      }
      throw error
    }
    const seconds = (performance.now() - start) / 1000
    const { files } = done
    const picture = grid === undefined ? undefined : await writeGrid(grid, values, joinBytes(images))
    if (picture !== undefined) files.push(picture)
    if (shown)
      stdout.write(
        `${await preview(imageGrid(joinBytes(images), { columns: values.columns, gap: 1 }), stdout.columns ?? 80)}\n`,
      )
    const written = files.length > 1 ? `${files.length} files` : files[0]
    const old = done.before > 0 ? ` (${done.before} of them before)` : ''
    const { count } = several ? whole : span
    output.say(`${count} ${count === 1 ? 'image' : 'images'}${old} in ${seconds.toFixed(1)} s: ${written}`)
    tellRenamed(output, values.output, picture)
    tellRenamed(output, values.preview, previewFile?.name)
    for (const { wanted, name } of keepers) tellRenamed(output, wanted, name)
    for (const name of ['separate', 'npz'] as const) tellRenamed(output, all[name], places?.[name] ?? all[name])
    tellWarnings(output, done.warnings)
    output.event('done', { count, seconds, files })
  } finally {
    for (const keeper of keepers) await keeper.close()
    ddpm.dispose()
  }
}

/** Images in a preview. */
const maxShown = 64

function wantsPreview(values: SampleValues, output: Output): boolean {
  return stdout.isTTY && !output.json && !values['no-preview'] && !process.env.NO_COLOR
}

/** Where the grid goes; undefined without one. Throws before anything is drawn. */
async function gridFile(values: SampleValues): Promise<string | undefined> {
  const { output, separate, npz, overwrite } = values
  const file = output ?? (separate === undefined && npz === undefined ? 'samples.png' : undefined)
  if (file === undefined) return undefined
  imageFormatOf(file, 'output')
  return outputFile(file, { overwrite })
}

/** The places of several processes. */
async function openKeepers(
  keepers: Keeper[],
  o: {
    readonly ddpm: DDPM
    readonly guides: Guides
    readonly values: SampleValues
    readonly span: Span
    readonly shard?: SpanShard
    readonly ranks: Ranks
  },
): Promise<Places | undefined> {
  const { ddpm, guides, values, span, shard, ranks } = o
  const { separate, npz, resume = false, overwrite = false } = values
  if (separate === undefined && npz === undefined) return undefined
  const own = await sampleRecord({ ddpm, ...guides }, values)
  const whole = spanOf(values)
  await ranks.compare({ ...own, count: whole.count, separate, npz, resume, overwrite })
  const places = ranks.size > 1 ? await placesOfAll(ranks, values, whole) : undefined
  const part = shard && partOf(shard, own, ddpm.device)
  const record = part?.whole ?? own
  const nameFor: KeepOptions['nameFor'] = places
    ? async (wanted) => wanted // it is free
    : shard
      ? namePart(overwrite, '--resume goes on with it, --overwrite replaces it')
      : (wanted, taken) => outputName(wanted, { overwrite, taken })
  const kept = { record, span, shape: shapeOf(ddpm, values), part, resume, overwrite, nameFor } as const
  const { separate: folder, npz: file, isWhole = false }: Places = places ?? { separate, npz }
  if (folder !== undefined) keepers.push(await SeparateFiles.open(folder, kept))
  if (file !== undefined) {
    const open = shard && !isWhole
    keepers.push(
      await (open ? NpzFile.open(partName(file, shard), kept) : NpzFile.open(file, { ...kept, part: undefined })),
    )
  }
  return places
}

/** An image that was drawn by an earlier command. */
async function again(
  keepers: readonly Keeper[],
  image: number,
  [height, width, channels]: readonly [number, number, number],
): Promise<ImageBytes> {
  for (const keeper of keepers) {
    const data = keeper.has(image) ? await keeper.read(image) : undefined
    if (data) return { data, shape: [1, height, width, channels] }
  }
  throw new UsageError('--output: the images are in an .npz file, from which no grid can be made')
}

function one({ first, images }: Drawn, image: number): ImageBytes {
  const { data, height, width, channels } = imageAt(images, image - first)
  return { data, shape: [1, height, width, channels] }
}

/** Images of `height` are enlarged to 128 pixels or more. */
function gridOptions({ columns, scale }: SampleValues, height: number): GridOptions {
  return { columns, scale: scale ?? Math.max(1, Math.floor(128 / height)) }
}

async function writeGrid(file: string, values: SampleValues, images: ImageBytes): Promise<string> {
  const picture = imageGrid(images, gridOptions(values, images.shape[1]))
  return writeOutput(file, await encodeImage(picture, imageFormatOf(file, 'output')), values.overwrite)
}
