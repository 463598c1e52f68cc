import { discriminatorLosses } from '../autoencoder/adversarial-loss'
import type { DeviceName } from '../device'
import type { AutoencoderTrainOptions } from '../train/autoencoder/options'
import type { AutoencoderStepMetrics } from '../trainer/autoencoder/loop'
import { AutoencoderTrainer, type AutoencoderTrainStart } from '../trainer/autoencoder/trainer'
import { Ranks } from '../trainer/ranks'
import { type Distributed, World } from '../world'
import { type Command, type CommonValues, type OptionTable, UsageError, type Values } from './args'
import { imagesInWords } from './looks'
import { createOutput } from './output'
import { runTraining } from './run-training'
import { sharedOptions, train } from './train'
import { TrainView, type Viewed } from './train-view'

const shared = train.options

const options = {
  out: shared.out,
  resume: { kind: 'flag', help: shared.resume.help },
  config: {
    kind: 'string',
    value: 'file',
    help: "latent-diffusion's YAML configuration of an autoencoder; other options come before it",
  },
  vq: { kind: 'flag', help: 'a codebook in place of a posterior: a VQModel (an AutoencoderKL)' },
  'n-embed': { kind: 'integer', min: 1, help: 'with --vq, entries of the codebook (1024)' },
  'kl-weight': { kind: 'number', min: 0, help: "weight of the posterior's divergence from N(0, 1) (1e-6)" },
  'codebook-weight': { kind: 'number', min: 0, help: "with --vq, weight of the codebook's loss (1)" },
  perceptual: {
    kind: 'string',
    value: 'files',
    help: "a perceptual loss by VGG16's weights and lpips' linear layers: vgg16-397923af.pth,vgg.pth (none)",
  },
  'perceptual-weight': { kind: 'number', min: 0, help: 'weight of its distance beside the mean difference (1)' },
  'disc-start': {
    kind: 'integer',
    min: 0,
    help: 'step from which on a patch discriminator makes reconstructions sharper (there is none)',
  },
  'disc-weight': {
    kind: 'number',
    min: 0,
    help: "weight of the generator's adversarial loss beside the adaptive one (1)",
  },
  'disc-factor': { kind: 'number', min: 0, help: 'multiplies both adversarial losses (1)' },
  'disc-layers': { kind: 'integer', min: 1, max: 8, help: 'its convolutions that halve the map (3)' },
  'disc-loss': { kind: 'string', choices: discriminatorLosses, help: 'by which it learns (hinge)' },
  actnorm: { kind: 'flag', help: 'ActNorm in the discriminator in place of batch norm' },
  size: { kind: 'size', help: 'height and width, 64 or 64x96; images are scaled and cropped to it (32)' },
  channels: shared.channels,
  'model-channels': { kind: 'integer', min: 1, help: "the network's width, a multiple of 32 (64)" },
  'channel-mult': {
    kind: 'integers',
    help: 'its multiples, one a level, each beyond the first halves the map (1,2,4)',
  },
  'res-blocks': {
    kind: 'integer',
    min: 1,
    help: 'residual blocks a level of the encoder; the decoder has one more (1)',
  },
  attention: { kind: 'integers', help: 'heights of the maps with attention, or none; the middle always has it (none)' },
  'z-channels': { kind: 'integer', min: 1, help: 'channels of the latents (4, with --vq 3)' },
  'embed-dim': { kind: 'integer', min: 1, help: "with --vq, numbers of a codebook's entry (those of --z-channels)" },
  dropout: { kind: 'number', min: 0, max: 1, help: 'dropout probability (0)' },
  validation: shared.validation,
  'validation-every': shared['validation-every'],
  'validation-count': shared['validation-count'],
  monitor: { kind: 'string', value: 'name', help: 'scalar by which the best checkpoint is kept (val/rec_loss_ema)' },
  patience: shared.patience,
  'min-delta': shared['min-delta'],
  steps: shared.steps,
  batch: shared.batch,
  accumulate: shared.accumulate,
  lr: shared.lr,
  warmup: shared.warmup,
  'lr-schedule': shared['lr-schedule'],
  'scale-lr': shared['scale-lr'],
  optimizer: shared.optimizer,
  'weight-decay': shared['weight-decay'],
  clip: { kind: 'number', min: 0, help: 'largest norm of the gradients, 0: no limit (0)' },
  'ema-decay': { kind: 'number', min: 0, max: 1, help: 'of the averaged weights (0.999)' },
  crop: shared.crop,
  'crop-scale': shared['crop-scale'],
  range: shared.range,
  background: shared.background,
  svg: shared.svg,
  flip: { kind: 'flag', help: 'mirror half of the images at random (done)' },
  'no-flip': shared['no-flip'],
  'flip-vertical': shared['flip-vertical'],
  'sample-every': {
    kind: 'integer',
    min: 0,
    help: 'steps between pictures of reconstructions, 0: none (1000; the first after 100, 200 and 500)',
  },
  'sample-count': { kind: 'integer', min: 1, help: 'images in a picture (16)' },
  'checkpoint-every': shared['checkpoint-every'],
  keep: shared.keep,
  seed: shared.seed,
  device: shared.device,
  'memory-limit': shared['memory-limit'],
  distributed: shared.distributed,
  precision: {
    kind: 'string',
    choices: ['fp32', 'bf16'],
    help: '16-bit operands where the device has them: CPUs bf16 with AVX512-BF16 or AMX (fp32)',
  },
} as const satisfies OptionTable

type GivenValues = Values<typeof options> & CommonValues

export const trainAutoencoder: Command<typeof options> = {
  name: 'train-autoencoder',
  summary:
    'Trains a first stage, by which a diffusion model works on latents: an AutoencoderKL, or with --vq a VQModel.',
  usage: '<data> --out <run> [options]   or   --resume --out <run>',
  positionals: 1,
  options,
  notes: `
Data, signals, resuming and the run folder are as in ddpm train. samples/step-*.png are reconstructions, those with .inputs their images.
At the end there is a folder of diffusers in the run: vae, or with --vq vqvae, whose scaling factor gives the latents of the data a standard
deviation of 1. AutoencoderKL.fromPretrained opens the run.

The loss is the sum of absolute differences over an image's numbers, and --kl-weight times the divergence; with --vq the mean, and the
codebook's. --perceptual adds lpips' distance to the differences, by files that you have. From --disc-start on, ldm's adaptive
patch discriminator takes part: sharper, and less close to the image.

  ddpm train-autoencoder photos --out runs/first --size 64 --model-channels 32 --steps 20000
  ddpm train-autoencoder --resume --out runs/first
  ddpm train-autoencoder photos --out runs/codes --vq --n-embed 512 --validation 0.4
  ddpm train-autoencoder photos --out runs/sharper --size 64 --disc-start 10000 --disc-weight 0.5`,

  async run(values, [folder]) {
    if (values.flip && values['no-flip']) throw new UsageError('--flip and --no-flip: give one of them')
    if (values.out === undefined) throw new UsageError('--out <run> is missing: where should the checkpoints go?')
    if (folder === undefined && !values.resume) throw new UsageError('the folder of images is missing')
    if (!values.vq && values['n-embed'] !== undefined) throw new UsageError('--n-embed: nothing without --vq')
    const given = trainOptions(values, folder)
    const output = createOutput(
      values.json === true,
      !new Ranks(World.of(given.distributed, given.device as DeviceName | undefined)).leads,
    )
    const { config } = values
    const trainer =
      config === undefined ? new AutoencoderTrainer(given) : await AutoencoderTrainer.fromConfig(config, given)
    return runTraining((hooks) => trainer.run(hooks), {
      view: new TrainView(output, viewed),
      again: `ddpm train-autoencoder --resume --out ${values.out}`,
    })
  },
}

const viewed: Viewed<AutoencoderTrainStart, AutoencoderStepMetrics> = {
  looksOf: ({ options: { size, ddconfig, flip } }) => ({
    size: size[0],
    width: size[1],
    channels: ddconfig.inChannels,
    flip,
  }),
  looks: ({ options: { size, ddconfig, embedDim, nEmbed, flip } }) => {
    const [height, width] = size
    const factor = 2 ** ((ddconfig.chMult?.length ?? 1) - 1)
    const latents = `latents ${height / factor}x${width / factor} in ${embedDim} channels`
    const codebook = nEmbed === undefined ? '' : `, ${nEmbed} codes`
    return `${imagesInWords({ height, width, channels: ddconfig.inChannels, flip })}; ${latents}${codebook}`
  },
  lossOf: ({ rec_loss }) => rec_loss,
  evaluated: 'val/rec_loss',
}

function trainOptions(values: GivenValues, folder: string | undefined): AutoencoderTrainOptions {
  return {
    data: folder as string,
    out: values.out as string,
    ...sharedOptions(values),
    size: values.size,
    ddconfig: {
      inChannels: values.channels,
      ch: values['model-channels'],
      chMult: values['channel-mult'],
      numResBlocks: values['res-blocks'],
      attnResolutions: values.attention,
      zChannels: values['z-channels'],
      dropout: values.dropout,
    },
    embedDim: values['embed-dim'],
    nEmbed: values.vq ? (values['n-embed'] ?? 1024) : undefined,
    klWeight: values['kl-weight'],
    codebookWeight: values['codebook-weight'],
    perceptual: values.perceptual?.split(','),
    perceptualWeight: values['perceptual-weight'],
    discStart: values['disc-start'],
    discWeight: values['disc-weight'],
    discFactor: values['disc-factor'],
    discNumLayers: values['disc-layers'],
    discLoss: values['disc-loss'],
    useActnorm: values.actnorm,
    emaDecay: values['ema-decay'],
    optimizer: values.optimizer,
    precision: values.precision,
    distributed: values.distributed as Distributed | undefined,
  }
}
