import { partName } from '../data/parts/part-file'
import { evaluationText } from '../trainer/evaluation-file'
import type { Ranks } from '../trainer/ranks'
import { type Command, type CommonValues, type OptionTable, UsageError, type Values } from './args'
import { samplerOptions } from './draw'
import { type Evaluator, evaluateBits, evaluateBitsShard, reportBits } from './evaluate-bits'
import { checkFeatures, evaluateFeatures, type FeaturesValues, featuresFile } from './evaluate-features'
import { evaluateQuality, metricsOf, reportQuality } from './evaluate-quality'
import { checkWritable, isFile, outputFile, overwriteOption, tellRenamed, writeOutput } from './free-name'
import { modelOptions, sourceOf } from './open-model'
import { createOutput, type Output } from './output'
import { namePart, shardGiven, shardOption } from './shard'
import { stoppable } from './stop'
import { distributedOption, ranksOf } from './together'

const ofQuality = {
  fid: {
    kind: 'string',
    value: 'data|npz',
    help: "compare a model's samples with these images, or with mu and sigma of an .npz of pytorch-fid or guided-diffusion",
  },
  samples: {
    kind: 'string',
    value: 'data',
    help: 'compare these images in place of samples: a folder, .npz, ..., or --features of them',
  },
  features: {
    kind: 'string',
    value: 'npz',
    help: 'compare nothing, and keep what is compared of the samples in this file, for --samples',
  },
  metrics: {
    kind: 'string',
    value: 'name,...',
    help: 'fid, kid, pr (precision and recall), is (Inception score) (fid)',
  },
  inception: {
    kind: 'string',
    value: 'file',
    help: "InceptionV3's weights, pytorch-fid's pt_inception-2015-12-05-6726825d.pth (DDPM_INCEPTION)",
  },
  count: { kind: 'integer', short: 'n', min: 1, help: 'samples (10000; all of --samples)' },
  size: { kind: 'size', help: 'of --samples, to which both are scaled and cropped (that of the first of them)' },
  channels: { kind: 'integer', min: 1, max: 3, help: 'of --samples: 1 where they are grey (3)' },
  ...samplerOptions,
} as const satisfies OptionTable

const options = {
  ...modelOptions,
  limit: { kind: 'integer', min: 1, help: 'images to evaluate, or of --fid, chosen by the seed (all)' },
  batch: { kind: 'integer', min: 1, help: 'images at once (16)' },
  seed: { kind: 'seed', help: 'of the noise, and of the choice (0)' },
  background: { kind: 'string', value: 'colour', help: 'shows through transparent pixels (white)' },
  range: { kind: 'string', choices: ['0,1', '-1,1'], help: 'black and white of floats, which no file says' },
  svg: { kind: 'flag', help: 'read SVGs too: only those of people you trust' },
  classes: {
    kind: 'string',
    value: 'folders|labels|file',
    help: "the images' classes, for a class-conditional model, as in ddpm train (none: its null class)",
  },
  ...ofQuality,
  output: {
    kind: 'string',
    short: 'o',
    value: 'file',
    help: 'everything as JSON, the terms of each timestep included',
  },
  ...shardOption,
  ...distributedOption,
  ...overwriteOption,
} as const satisfies OptionTable

export type EvaluateValues = Values<typeof options> & CommonValues

export const evaluate: Command<typeof options> = {
  name: 'evaluate',
  summary:
    'Measures how well a model describes images (bits per dimension), or how good its samples are (FID, KID and others).',
  usage: '<folder> [options]   or   [<model>] --fid <data> [options]',
  positionals: 1,
  options,
  notes: `
Without --fid, every timestep of every image is evaluated once (Ho et al. 2020, eq. 5): a model of 1000 timesteps needs 1000
evaluations of the network an image. Images are scaled and cropped to the model's size.

With --fid, samples are drawn, or read with --samples, and compared with other images by the features of InceptionV3, both rounded to
8 bits. What is computed of the images of --fid is kept in ~/.cache/ddpm-native (DDPM_CACHE). FID depends on the number of samples:
compare equal numbers alone, and more than 2048. With --features --shard 1/2 the features are computed in parts, for ddpm merge.

  ddpm evaluate photos --checkpoint runs/photos --limit 256
  ddpm evaluate photos --checkpoint runs/photos --output bits.json
  ddpm evaluate photos --checkpoint runs/photos --output bits.json --shard 1/2
  mpirun -n 4 npx ddpm evaluate photos --checkpoint runs/photos
  ddpm evaluate runs/photos --fid photos --inception inception.pth
  ddpm evaluate runs/photos --fid photos --metrics fid,kid,pr,is --count 5000
  ddpm evaluate --samples samples.npz --fid photos
  ddpm evaluate --samples samples.npz --features features.npz
  ddpm evaluate --samples features.npz --fid photos`,

  async run(values, [positional]) {
    const { fid, samples, metrics, features } = values
    const quality = [fid, samples, metrics, features].some((value) => value !== undefined)
    if (quality) checkQuality(values, positional)
    else checkBits(values, positional)
    const ranks = ranksOf(values)
    if (samples !== undefined || features !== undefined) checkAlone(ranks.size)
    const output = createOutput(values.json === true, !ranks.leads)
    const { overwrite, shard } = values
    if (features !== undefined) return keepFeatures({ ...values, features }, positional, output)
    if (shard !== undefined) return evaluateShard({ ...values, shard }, positional!, { ranks, output })
    const file =
      values.output === undefined || !ranks.leads ? undefined : await outputFile(values.output, { overwrite })
    const { exitCode } = await stoppable(async (signal) => {
      const { result, lines } = await (quality
        ? qualityOf(values, positional, { ranks, output, signal })
        : bitsOf(values, positional!, { ranks, output, signal }))
      for (const line of lines) output.say(line)
      const json = `${JSON.stringify(result, null, 2)}\n`
      const written = file === undefined ? undefined : await writeOutput(file, json, overwrite)
      for (const line of written === undefined ? [] : ['', written]) output.say(line)
      tellRenamed(output, values.output, written)
      output.event('done', { ...result, ...(written !== undefined && { file: written }) })
    })
    return exitCode
  },
}

async function keepFeatures(values: FeaturesValues, model: string | undefined, output: Output): Promise<number> {
  const file = await featuresFile(values)
  const { exitCode } = await stoppable((signal) => evaluateFeatures(file, values, model, output, signal))
  return exitCode
}

/** Writes a part, for ddpm merge. */
async function evaluateShard(
  values: EvaluateValues & { shard: string },
  folder: string,
  o: { readonly ranks: Ranks; readonly output: Output },
): Promise<number> {
  if (values.output === undefined) throw new UsageError('--shard goes with --output <file>, whose part it writes')
  const shard = shardGiven(values.shard)
  const file = await namePart(values.overwrite === true)(partName(values.output, shard), isFile)
  await checkWritable(file)
  const { exitCode } = await stoppable(async (signal) => {
    const { part, header } = await evaluateBitsShard(folder, values, { ...o, signal })
    await writeOutput(file, evaluationText(header, part), true)
    o.output.say(`${part.images} images of shard ${shard.index}/${shard.total}: ${file}`)
    o.output.event('done', { images: part.images, file })
  })
  return exitCode
}

async function bitsOf(values: EvaluateValues, folder: string, o: Evaluator) {
  const result = await evaluateBits(folder, values, o)
  return { result, lines: reportBits(result) }
}

async function qualityOf(values: EvaluateValues, model: string | undefined, o: Evaluator) {
  const result = await evaluateQuality(values, model, o)
  return { result, lines: reportQuality(result) }
}

/** Throws UsageError. */
export function checkAlone(size: number): void {
  if (size === 1) return
  const divided = '--features --shard auto divides what takes long'
  throw new UsageError(`--samples and --features are of one process, and there are ${size}: ${divided}`)
}

function checkBits(values: EvaluateValues, folder: string | undefined): void {
  for (const name of Object.keys(ofQuality)) {
    if (values[name as keyof EvaluateValues] !== undefined) throw new UsageError(`--${name} goes with --fid`)
  }
  if (folder === undefined) throw new UsageError('the folder of images is missing')
  sourceOf(values)
}

function checkQuality(values: EvaluateValues, model: string | undefined): void {
  if (values.classes !== undefined) throw new UsageError('--classes goes without --fid')
  if (values.features !== undefined) checkFeatures(values, values.output)
  else if (values.shard !== undefined)
    throw new UsageError('--shard goes with --features, of which FID and others are made when all are there')
  const compared = metricsOf(values).filter((metric) => metric !== 'is')
  if (values.features === undefined && compared.length > 0 && values.fid === undefined)
    throw new UsageError(`--fid <data> is missing: with what are the images compared, for ${compared.join(', ')}?`)
  if (values.samples === undefined) {
    for (const name of ['size', 'channels'] as const)
      if (values[name] !== undefined) throw new UsageError(`--${name} goes with --samples: a model has its own`)
    sourceOf(values, model)
    return
  }
  if (model !== undefined) throw new UsageError('--samples goes without a model')
  const ofModels = Object.keys({ ...modelOptions, ...samplerOptions }).filter((name) => name !== 'device')
  for (const name of ofModels) {
    if (values[name as keyof EvaluateValues] !== undefined)
      throw new UsageError(`--${name} goes with a model, not with --samples`)
  }
}
