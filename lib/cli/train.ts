import { crops } from '../data/dataset'
import type { DeviceName } from '../device'
import { parameterizations } from '../diffusion/process/prediction'
import { betaSchedules } from '../diffusion/process/schedule'
import { timestepSamplers } from '../diffusion/process/settings'
import { type Optimizer, optimizers } from '../diffusion/training/optimizer'
import { lossTypes } from '../graph'
import { precisions } from '../native'
import { listCheckpoints } from '../train/checkpoint'
import { lrSchedules } from '../train/lr-schedule'
import type { ModelConfig, TrainOptions } from '../train/options'
import { Ranks } from '../trainer/ranks'
import { Trainer } from '../trainer/trainer'
import { type Distributed, distributedModes, World } from '../world'
import { type Command, type CommonValues, type OptionTable, UsageError, type Values } from './args'
import { looks, looksOf } from './looks'
import { createOutput } from './output'
import { presetNames, presets } from './presets'
import { runTraining } from './run-training'
import { TrainView } from './train-view'

const options = {
  out: { kind: 'string', short: 'o', value: 'run', help: 'run folder for checkpoints, samples and metrics (required)' },
  resume: { kind: 'flag', help: "go on from the run's newest checkpoint, with its options" },
  from: {
    kind: 'string',
    value: 'model',
    help: 'start from a run, model file, diffusers folder, checkpoint or hub name: its options, weights and averages',
  },
  'first-stage': {
    kind: 'string',
    value: 'folder',
    help: 'train a latent model: on what this AutoencoderKL or VQModel makes of the images (none)',
  },
  'text-encoder': {
    kind: 'string',
    value: 'transformer|folder',
    help: 'with --first-stage, told by captions: a transformer that is trained, or a CLIP that is not (none)',
  },
  tokenizer: { kind: 'string', value: 'folder', help: "its tokenizer's files (CLIP's own; the captions' own words)" },
  'text-width': { kind: 'integer', min: 1, help: "the transformer's width (256)" },
  'text-layers': { kind: 'integer', min: 1, help: 'its layers (4)' },
  'text-length': { kind: 'integer', min: 2, help: "tokens of a text, of a transformer (the tokenizer's, or 77)" },
  'caption-dropout': { kind: 'number', min: 0, max: 1, help: 'captions left empty in training, for guidance (0.1)' },
  'scale-factor': {
    kind: 'number',
    min: 1e-6,
    help: 'what latents are multiplied by (1 / the standard deviation of those of the images)',
  },
  latents: { kind: 'string', value: 'folder', help: 'where they are kept once computed (latents in the run)' },
  freeze: {
    kind: 'string',
    value: 'names',
    help: 'parameters that are not trained: input_blocks.*,time_embed.* (none)',
  },
  lora: {
    kind: 'integer',
    min: 1,
    max: 1024,
    help: 'train low-rank updates of this rank alone; lora.safetensors has them',
  },
  'lora-targets': {
    kind: 'string',
    value: 'names',
    help: 'of which layers: *.qkv,*.proj_out is attention alone (all)',
  },
  preset: {
    kind: 'string',
    choices: presetNames,
    help: 'options that are known to work; others that are given come before them',
  },
  config: {
    kind: 'string',
    value: 'file',
    help: "latent-diffusion's YAML configuration, with ddpm.py's optimizer; other options come before it",
  },
  validation: {
    kind: 'string',
    value: 'folder|x',
    help: 'images that are not trained on, for the loss: a folder, or a fraction of the images between 0 and 1 (none)',
  },
  'validation-every': { kind: 'integer', min: 1, help: 'steps between evaluations of them (1000, or a tenth of all)' },
  'validation-count': { kind: 'integer', min: 1, help: 'how many of them are evaluated (256)' },
  'fid-every': {
    kind: 'integer',
    min: 1,
    help: 'steps between FIDs of samples with the images that are trained on (none)',
  },
  'fid-count': { kind: 'integer', min: 2, help: 'samples of an FID (5000)' },
  'fid-steps': { kind: 'integer', min: 1, help: 'sampling steps of these (100)' },
  inception: {
    kind: 'string',
    value: 'file',
    help: "InceptionV3's weights for it, as in ddpm evaluate (DDPM_INCEPTION)",
  },
  monitor: { kind: 'string', value: 'name', help: 'scalar by which the best checkpoint is kept (val/loss, or fid)' },
  patience: { kind: 'integer', min: 1, help: 'evaluations without a better one that end the training (none do)' },
  'min-delta': { kind: 'number', min: 0, help: 'by how much it has to be better for that (0)' },
  steps: { kind: 'integer', min: 1, help: 'optimizer steps altogether (100000)' },
  batch: { kind: 'integer', min: 1, help: 'images in a batch (16)' },
  accumulate: { kind: 'integer', min: 1, help: 'batches averaged for one optimizer step, of each process (1)' },
  lr: { kind: 'number', min: 0, help: 'learning rate after the warm-up (2e-4)' },
  warmup: {
    kind: 'integer',
    min: 0,
    help: 'steps over which the learning rate rises (1000, or a tenth of all where that is less)',
  },
  'lr-schedule': { kind: 'string', choices: lrSchedules, help: 'the learning rate afterwards (constant)' },
  'scale-lr': { kind: 'flag', help: 'multiply it by the images of a step, as main.py of latent-diffusion' },
  optimizer: { kind: 'string', choices: optimizers, help: 'lion keeps one average, and wants a smaller rate (adamw)' },
  'weight-decay': { kind: 'number', min: 0, help: 'part of each weight, times the rate, that a step takes off (0)' },
  clip: { kind: 'number', min: 0, help: 'largest norm of the gradients, 0: no limit (1)' },
  size: { kind: 'size', help: 'height and width, 64 or 64x96; images are scaled and cropped to it (32)' },
  crop: {
    kind: 'string',
    choices: crops,
    help: 'of images of another shape: the middle, a random part, or none: each side is scaled by itself (centre)',
  },
  'crop-scale': { kind: 'number', min: 1, help: 'with random crops, how much larger images are scaled before (1)' },
  buckets: {
    kind: 'sizes',
    help: 'aspect buckets, 48x80,64x64,80x48: images are trained in the size most like their own',
  },
  channels: {
    kind: 'integer',
    min: 1,
    help: '3 for RGB, 1 for grey, 2 and 4 with alpha; of arrays, as many as they have (3)',
  },
  range: { kind: 'string', choices: ['0,1', '-1,1'], help: 'black and white of floats, which no file says' },
  background: { kind: 'string', value: 'colour', help: 'shows through transparent pixels (white)' },
  svg: { kind: 'flag', help: 'read SVGs too: only those of people you trust' },
  flip: { kind: 'flag', help: 'mirror half of the images at random (done, unless a preset says no)' },
  'no-flip': { kind: 'flag', help: 'do not' },
  augment: {
    kind: 'number',
    min: 0,
    max: 1,
    help: 'probability of non-leaking augmentation, of which the network is told: 0.12 against overfitting (none)',
  },
  'flip-vertical': { kind: 'flag', help: 'turn half of the images upside down at random' },
  classes: {
    kind: 'string',
    value: 'folders|labels|file',
    help: 'a class-conditional model: by the sub-folders, by the labels in the file, or by a JSON file { "path": "class" }',
  },
  'class-dropout': { kind: 'number', min: 0, max: 1, help: 'labels left out in training, for guidance (0.1)' },
  architecture: {
    kind: 'string',
    choices: ['unet', 'lucidrains'],
    help: "ddpm.py's UNet, or that of denoising-diffusion-pytorch (unet)",
  },
  'model-channels': { kind: 'integer', min: 1, help: "the UNet's width, a multiple of 32 (64)" },
  'channel-mult': { kind: 'integers', help: 'its multiples, one a level (1,2,2)' },
  'res-blocks': { kind: 'integer', min: 1, help: 'residual blocks a level (2)' },
  attention: { kind: 'integers', help: 'downsampling factors with attention, or none (2,4)' },
  heads: { kind: 'integer', min: 1, help: 'attention heads (4)' },
  'scale-shift-norm': {
    kind: 'flag',
    help: 'timestep and class scale and shift the norms; with 32 channels a level, where a sum has no effect, the better choice',
  },
  dropout: { kind: 'number', min: 0, max: 1, help: 'dropout probability (0)' },
  'use-checkpoint': {
    kind: 'flag',
    help: "computes the blocks' insides again in the backward pass: less memory, more time, the same numbers",
  },
  'self-condition': {
    kind: 'flag',
    help: 'gives the network its own last estimate: better samples, a quarter more time',
  },
  timesteps: { kind: 'integer', min: 1, help: 'diffusion steps (1000)' },
  schedule: { kind: 'string', choices: betaSchedules, help: 'noise schedule (linear, or that of edm or flow)' },
  'flow-shift': { kind: 'number', min: 0, help: 'of the flow schedule: above 1 for more noise (1)' },
  parameterization: { kind: 'string', choices: parameterizations, help: 'what the network predicts (eps)' },
  loss: { kind: 'string', choices: lossTypes, help: 'how its error is measured (l2)' },
  'loss-delta': { kind: 'number', min: 0, help: 'where a Huber loss goes from squared to straight (1)' },
  'min-snr': { kind: 'number', min: 0, help: 'gamma of the min-SNR weights of the loss (no such weights)' },
  'offset-noise': { kind: 'number', min: 0, help: 'noise that a whole channel shares (0)' },
  'zero-terminal-snr': { kind: 'flag', help: 'a schedule that ends in pure noise; not with eps' },
  'timestep-sampler': {
    kind: 'string',
    choices: timestepSamplers,
    help: 'how often which timestep is trained (uniform; lognormal with edm)',
  },
  'ema-sigma-rels': {
    kind: 'numbers',
    help: 'further averages by power functions, parts of the training (none; 0.05,0.1)',
  },
  'ema-decay': { kind: 'number', min: 0, max: 1, help: 'of the averaged weights (0.9999)' },
  'sample-every': {
    kind: 'integer',
    min: 0,
    help: 'steps between pictures of samples, 0: none (1000; the first after 100, 200 and 500)',
  },
  'sample-count': { kind: 'integer', min: 1, help: 'samples in a picture (16)' },
  'sample-steps': { kind: 'integer', min: 1, help: 'sampling steps for a picture (100)' },
  'checkpoint-every': { kind: 'integer', min: 1, help: 'steps between checkpoints (1000)' },
  keep: { kind: 'integer', min: 1, help: 'checkpoints to keep (2)' },
  seed: { kind: 'seed', help: 'of weights, noise and order (0)' },
  device: { kind: 'string', value: 'name', help: "'cpu', 'cuda', 'cuda:1', 'auto' (auto)" },
  'memory-limit': { kind: 'memory', help: 'the most of its memory to use, such as 4GB (all that it has)' },
  distributed: {
    kind: 'string',
    choices: distributedModes,
    help: 'train together with the processes of mpirun or torchrun (auto)',
  },
  'shard-optimizer': { kind: 'flag', help: 'each of them keeps its part of the optimizer and averages only' },
  precision: {
    kind: 'string',
    choices: precisions,
    help: '16-bit operands where the device has them: CPUs bf16 with AVX512-BF16 or AMX (fp32)',
  },
} as const satisfies OptionTable

export const train: Command<typeof options> = {
  name: 'train',
  summary: 'Trains a diffusion model on a folder of images, or on a file of many.',
  usage: '<data> --out <run> [options]   or   --resume --out <run>',
  positionals: 1,
  options,
  notes: `
Images of any size and mode are read, also in sub-folders; and files of many: .npy and .npz, .tar (WebDataset), .parquet (the
hub's), .csv, .tsv and .jsonl (lists of images), .bin (CIFAR) and idx files (MNIST). Ctrl-C ends the training after the step under
way and saves, and so do SIGTERM, SIGHUP and SIGUSR1, and a closed stdout or stderr; the third Ctrl-C, each 2 seconds after the one
before, quits without that. The same command with --resume goes on as if it had never stopped. What is computed can't be changed on resume; steps,
pictures, checkpoints and the device can, and the number of steps as long as no learning rate so far depended on it.

Presets: small (icons and sprites of 32x32, some minutes on two cores), icons (as the model of this package), cifar10 and lsun256 (Ho et
al. 2020, for a GPU).

With --first-stage the network learns latents, which are computed once. Captions are those of the data's file, or of a folder: its
metadata.jsonl, or a .txt beside each image. At the end the run has a folder model, as LatentDiffusion.fromPretrained reads it.

The run folder: checkpoints/step-*/, samples/step-*.png (with .inputs, .diffusion_row and .denoise_row beside them),
metrics.jsonl (a line a step), event files for TensorBoard and, at the end, model.safetensors. With --validation, the checkpoint of the
lowest monitored scalar stays: <run>@best. A training that --patience ends has it as model.safetensors.

  ddpm train icons --out runs/icons --preset small
  ddpm train photos --out runs/photos --size 64 --channel-mult 1,2,2,4
  ddpm train flowers --classes folders --out runs/flowers   classes: sub-folders
  ddpm train photos --first-stage runs/vae --text-encoder transformer --out art
  ddpm sample art --prompt "a red apple"
  ddpm train --resume --out runs/photos
  mpirun -n 4 npx ddpm train photos --out runs/photos   four processes
  ddpm train photos --validation 0.2 --patience 5 --out runs/held-out
  ddpm sample --checkpoint runs/held-out@best
  ddpm train photos --fid-every 5000 --out runs/compared    with DDPM_INCEPTION
  ddpm sample --checkpoint runs/photos`,

  async run(given, [folder]) {
    if (given.flip && given['no-flip']) throw new UsageError('--flip and --no-flip: give one of them')
    const values = await withPreset(given)
    if (values.out === undefined) throw new UsageError('--out <run> is missing: where should the checkpoints go?')
    if (folder === undefined && !values.resume) throw new UsageError('the folder of images is missing')
    const distributed = values.distributed as Distributed | undefined
    const output = createOutput(
      values.json === true,
      !new Ranks(World.of(distributed, values.device as DeviceName | undefined)).leads,
    )
    const trainOptions: TrainOptions = {
      data: folder as string,
      from: values.from,
      ...latentOptions(values),
      out: values.out,
      ...sharedOptions(values),
      model: modelConfig(values),
      augment: values.augment,
      buckets: values.buckets,
      classes: values.classes,
      fidEvery: values['fid-every'],
      fidCount: values['fid-count'],
      fidSteps: values['fid-steps'],
      inception: values.inception,
      optimizer: values.optimizer as Optimizer | undefined,
      sampleSteps: values['sample-steps'],
      precision: values.precision,
      distributed,
      shardOptimizer: values['shard-optimizer'],
    }
    const { config } = values
    const trainer = config === undefined ? new Trainer(trainOptions) : await Trainer.fromConfig(config, trainOptions)
    return runTraining((hooks) => trainer.run(hooks), {
      view: new TrainView(output, { looksOf, looks, lossOf: ({ loss }) => loss, evaluated: 'val/loss' }),
      again: `ddpm train --resume --out ${values.out}`,
      best: `${values.out}@best`,
    })
  },
}

/** Of every training, by the library's names. */
export function sharedOptions(values: Values<typeof options>) {
  return {
    background: values.background,
    svg: values.svg,
    flip: values.flip ? true : values['no-flip'] ? false : undefined,
    flipVertical: values['flip-vertical'],
    crop: values.crop,
    cropScale: values['crop-scale'],
    range: values.range?.split(',').map(Number),
    validation: validationOf(values.validation),
    validationEvery: values['validation-every'],
    validationCount: values['validation-count'],
    monitor: values.monitor,
    patience: values.patience,
    minDelta: values['min-delta'],
    steps: values.steps,
    batchSize: values.batch,
    accumulate: values.accumulate,
    lr: values.lr,
    warmup: values.warmup,
    lrSchedule: values['lr-schedule'],
    scaleLr: values['scale-lr'],
    weightDecay: values['weight-decay'],
    maxGradNorm: values.clip,
    sampleEvery: values['sample-every'],
    sampleCount: values['sample-count'],
    checkpointEvery: values['checkpoint-every'],
    keep: values.keep,
    seed: values.seed,
    device: values.device,
    memoryLimit: values['memory-limit'],
    resume: values.resume,
  }
}

/** A number is a fraction; a folder that is called like one is ./0.1. */
export function validationOf(text: string | undefined): string | number | undefined {
  return text !== undefined && /^[\d.]+(e-?\d+)?$/i.test(text) && Number.isFinite(Number(text)) ? Number(text) : text
}

type TrainValues = Values<typeof options> & CommonValues

/** With the preset's options where none are given. A training that is resumed has its options already. */
async function withPreset(given: TrainValues): Promise<TrainValues> {
  const { preset, resume, out } = given
  if (preset === undefined || (resume && out !== undefined && (await listCheckpoints(out)).length > 0)) return given
  const { 'no-flip': noFlip, ...chosen }: Partial<TrainValues> = presets[preset] as Partial<TrainValues>
  return { ...chosen, ...(noFlip && !given.flip && { 'no-flip': true }), ...given }
}

function modelConfig(values: TrainValues): ModelConfig {
  const list = (text: string | undefined) => text?.split(',').map((name) => name.trim())
  const { lora: rank, 'lora-targets': targets } = values
  if (targets !== undefined && rank === undefined) throw new UsageError('--lora-targets: without --lora there are none')
  return {
    freeze: list(values.freeze),
    lora: rank === undefined ? undefined : { rank, targets: list(targets) },
    timesteps: values.timesteps,
    betaSchedule: values.schedule,
    parameterization: values.parameterization,
    lossType: values.loss,
    lossDelta: values['loss-delta'],
    minSnrGamma: values['min-snr'],
    offsetNoise: values['offset-noise'],
    zeroTerminalSnr: values['zero-terminal-snr'],
    flowShift: values['flow-shift'],
    timestepSampler: values['timestep-sampler'],
    classDropout: values['class-dropout'],
    emaDecay: values['ema-decay'],
    emaSigmaRels: values['ema-sigma-rels'],
    unetConfig: values.architecture === 'lucidrains' ? lucidrainsConfig(values) : unetConfig(values),
  }
}

function latentOptions(values: TrainValues): Partial<TrainOptions> {
  const { 'first-stage': firstStage, 'text-encoder': encoder, size } = values
  const [nEmbed, nLayer, maxSeqLen] = [values['text-width'], values['text-layers'], values['text-length']]
  const sized = [nEmbed, nLayer, maxSeqLen].some((v) => v !== undefined)
  if (sized && encoder !== 'transformer') {
    throw new UsageError('--text-width, --text-layers and --text-length go with --text-encoder transformer')
  }
  if (firstStage !== undefined && values.channels !== undefined) {
    throw new UsageError('--channels: nothing with --first-stage, which says it')
  }
  return {
    firstStage,
    size: firstStage === undefined ? undefined : size,
    textEncoder: sized ? { nEmbed, nLayer, maxSeqLen } : encoder,
    tokenizer: values.tokenizer,
    captionDropout: values['caption-dropout'],
    scaleFactor: values['scale-factor'],
    latents: values.latents,
  }
}

function unetConfig(values: TrainValues): Record<string, unknown> {
  const size = values['first-stage'] === undefined ? values.size : undefined
  return {
    imageSize: size?.[0],
    imageWidth: size && size[0] !== size[1] ? size[1] : undefined,
    inChannels: values.channels,
    outChannels: values.channels,
    modelChannels: values['model-channels'],
    channelMult: values['channel-mult'],
    numResBlocks: values['res-blocks'],
    attentionResolutions: values.attention,
    numHeads: values.heads,
    useScaleShiftNorm: values['scale-shift-norm'],
    dropout: values.dropout,
    useCheckpoint: values['use-checkpoint'],
    selfCondition: values['self-condition'],
  }
}

function lucidrainsConfig(values: TrainValues): Record<string, unknown> {
  for (const name of ['res-blocks', 'attention', 'heads', 'scale-shift-norm', 'use-checkpoint'] as const) {
    if (values[name] !== undefined) throw new UsageError(`--${name}: nothing with --architecture lucidrains`)
  }
  const [height, width] = values.size ?? []
  if (height !== width) throw new UsageError('--size: a square with --architecture lucidrains')
  return {
    architecture: 'lucidrains',
    imageSize: height,
    channels: values.channels,
    dim: values['model-channels'],
    dimMults: values['channel-mult'],
    dropout: values.dropout,
    selfCondition: values['self-condition'],
  }
}
