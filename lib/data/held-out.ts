/** Which items of a source are held out of a training. */
import { createHash } from 'node:crypto'
import { DiffusionError } from '../errors'
import type { Seed } from '../options'
import type { ImageSource } from './sources/source'
import { subset } from './sources/subset'

/**
 * Whether an item is held out depends on the seed and its name alone, whatever other items there are; so the fraction is that of a
 * large number.
 */
export function isHeldOut(name: string, fraction: number, seed: Seed): boolean {
  const digest = createHash('sha256').update(`${seed}\n${name}`).digest()
  return digest.readUInt32BE(0) / 2 ** 32 < fraction
}

/** Those for the training, and those that are held out. Throws `invalid-argument` where there are none of either. */
export function parted(source: ImageSource, fraction: number, seed: Seed): [kept: ImageSource, heldOut: ImageSource] {
  const all = Array.from({ length: source.length }, (_, i) => i)
  const out = all.map((i) => isHeldOut(source.nameOf(i), fraction, seed))
  const part = (side: boolean) =>
    subset(
      source,
      all.filter((i) => out[i] === side),
    )
  const [kept, heldOut] = [part(false), part(true)]
  if (kept.length > 0 && heldOut.length > 0) return [kept, { ...heldOut, leftOut: [] }] // told of once
  const what = heldOut.length === 0 ? 'holds none of them out' : 'leaves none of them for the training'
  const message = `validation: ${source.name} has ${source.length} images, and a fraction of ${fraction} ${what}`
  throw new DiffusionError('invalid-argument', `${message}: name another, or other images`, {
    argument: 'validation',
    expected: 'a fraction that leaves images on both sides, or a folder',
    received: String(fraction),
  })
}
