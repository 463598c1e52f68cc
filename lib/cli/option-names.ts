/** The library's words in messages, as what they are called on the command line. */
import type { OptionTable } from './args'

/** Where the name is not the same with dashes. The first that a command has is meant. */
const names: Readonly<Record<string, readonly string[]>> = {
  batchSize: ['batch'],
  maxGradNorm: ['clip'],
  clipDenoised: ['clip'],
  classLabels: ['class'],
  classLabel: ['class'],
  guidanceScale: ['guidance'],
  timestepSpacing: ['spacing'],
  ddimDiscretize: ['discretize'],
  solverOrder: ['order'],
  image: ['init-image'],
  sampleOffset: ['first'],
  seeds: ['interpolate'],
  betaSchedule: ['schedule'],
  lossType: ['loss'],
  minSnrGamma: ['min-snr'],
  imageSize: ['size'],
  inChannels: ['channels'],
  outChannels: ['channels'],
  numResBlocks: ['res-blocks'],
  attentionResolutions: ['attention'],
  numHeads: ['heads'],
  useScaleShiftNorm: ['scale-shift-norm'],
  ch: ['model-channels'],
  chMult: ['channel-mult'],
  attnResolutions: ['attention'],
  nEmbed: ['n-embed', 'vq'],
  discNumLayers: ['disc-layers'],
  useActnorm: ['actnorm'],
  flip: ['no-flip'],
  weights: ['no-ema', 'weights'],
  npz: ['npz'],
}

/**
 * The message with the argument that it begins with, or that stands before a colon in it, as an option: "batchSize is 4 in the
 * checkpoint" as "--batch is 4 in the checkpoint". As it is where the command has no such option.
 */
export function inOptionNames(message: string, argument: string | undefined, options: OptionTable): string {
  if (argument === undefined || !message.startsWith(argument)) return message
  if (/^[\w.]/.test(message.slice(argument.length))) return message
  const name = argument.split('.').at(-1)!
  const dashed = name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
  const option = [...(names[name] ?? []), dashed].find((candidate) => Object.hasOwn(options, candidate))
  return option === undefined ? message : `--${option}${message.slice(argument.length)}`
}
