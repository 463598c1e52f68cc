/** What is said of the images that a training is of. */
import { imagesOf } from '../train/network-options'
import type { TrainStart } from '../trainer/hooks'

/** Of a diffusion model's training, for machines. */
export function looksOf({ options: { model, flip, augment, firstStage, size: pixels } }: TrainStart) {
  const classes = model.classNames ?? []
  const images = firstStage === undefined ? {} : { pixels, told: model.condStageKey }
  return { ...imagesOf(model.unetConfig), ...images, flip, ...(augment !== undefined && { augment }), classes }
}

/** The same in words. */
export function looks(start: TrainStart): string {
  const { size, width, channels, flip, augment, classes, pixels, told } = looksOf(start)
  const names = classes as readonly string[]
  const shown = names.length > 8 ? `${names.slice(0, 8).join(', ')}, ...` : names.join(', ')
  const augmented = augment === undefined ? '' : `, augmented (each kind ${100 * augment}%)`
  const kinds = names.length > 0 ? `${names.length} classes (${shown})` : 'no classes'
  const latents = pixels === undefined ? '' : ` latents of ${pixels.join('x')}`
  if (latents) return `${imagesInWords({ height: size, width, channels, flip, latents })}, ${told ? 'captions' : kinds}`
  return `${imagesInWords({ height: size, width, channels, flip })}${augmented}, ${kinds}`
}

/** Size, colours and mirroring. */
export function imagesInWords(o: {
  height: number
  width: number
  channels: number
  flip: boolean
  latents?: string
}): string {
  const mirrored = o.flip ? 'mirrored at random (--no-flip: as they are)' : 'not mirrored'
  const pictures = { 1: 'grey', 3: 'RGB' }[o.channels] ?? `in ${o.channels} channels`
  const colours = o.latents ? `in ${o.channels} channels,${o.latents}` : pictures
  return `${o.height}x${o.width} ${colours}, ${mirrored}`
}
