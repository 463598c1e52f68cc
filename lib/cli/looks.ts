/** What is said of the images that a training is of. */
import { imagesOf } from '../train/network-options'
import type { TrainStart } from '../trainer/hooks'

/** Of a diffusion model's training, for machines. */
export function looksOf({ options: { model, flip, augment } }: TrainStart) {
  const classes = model.classNames ?? []
  return { ...imagesOf(model.unetConfig), flip, ...(augment !== undefined && { augment }), classes }
}

/** The same in words. */
export function looks(start: TrainStart): string {
  const { size, width, channels, flip, augment, classes } = looksOf(start)
  const names = classes as readonly string[]
  const shown = names.length > 8 ? `${names.slice(0, 8).join(', ')}, ...` : names.join(', ')
  const augmented = augment === undefined ? '' : `, augmented (each kind ${100 * augment}%)`
  const kinds = names.length > 0 ? `${names.length} classes (${shown})` : 'no classes'
  return `${imagesInWords({ height: size, width, channels, flip })}${augmented}, ${kinds}`
}

/** Size, colours and mirroring. */
export function imagesInWords(o: { height: number; width: number; channels: number; flip: boolean }): string {
  const mirrored = o.flip ? 'mirrored at random (--no-flip: as they are)' : 'not mirrored'
  const colours = { 1: 'grey', 3: 'RGB' }[o.channels] ?? `in ${o.channels} channels`
  return `${o.height}x${o.width} ${colours}, ${mirrored}`
}
