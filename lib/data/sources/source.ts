/**
 * Where training images come from: each kind of file lists its items and gives their pixels, and knows nothing of order, caches,
 * augmentation or training, which are the Dataset's (../dataset.ts).
 */
import type { ClassLabelling } from '../class-labels'
import type { Look, Picture } from '../picture'

export interface ImageSource {
  /** The path, as messages say it. */
  readonly name: string
  /** Items that can be drawn. */
  readonly length: number
  /** Of an item: unique, and the same whenever the source is opened. */
  nameOf(item: number): string
  /** The classes that the file itself says, which are used on request. Default: none. */
  readonly classes?: ClassLabelling
  /** Those that are used in any case: who gives an object with classes wants them. Default: none. */
  readonly ownClasses?: ClassLabelling
  /** The text that belongs to an item, or several, of which each sample gets one. */
  captionOf?(item: number): string | readonly string[] | undefined
  /** What a resumed training must find again, as JSON. */
  readonly identity: unknown
  /** What was not taken, and why. */
  readonly leftOut: readonly UnreadableFile[]
  /**
   * Pixels of an item. Throws `bad-file` where this item is damaged, which is then left out; other errors end the training: `io`,
   * `not-found` and `out-of-memory` say nothing of the item, `invalid-argument` says that the whole is not what it was taken for.
   */
  read(item: number, look: Look): Promise<Picture>
  /** Height and width as it would be read, unscaled. */
  sizeOf(item: number): Promise<{ readonly height: number; readonly width: number }>
}

export interface UnreadableFile {
  /** Relative to the folder; the name of an item. */
  readonly file: string
  readonly reason: string
}

/** The numbers that are black and white in floats, such as [0, 1]. */
export type Range = readonly [black: number, white: number]

/** How a source is opened. */
export interface SourceOptions {
  /** Of the pixels that will be asked for: what an array's axes are follows from it. */
  readonly channels: number
  /** Of the samples. */
  readonly height: number
  readonly width: number
  /** Of floats, which don't say it themselves. */
  readonly range?: Range
  /** SVGs are read too (default false). */
  readonly svg?: boolean
  /** Texts of a folder's images are read, too (default false). */
  readonly captions?: boolean
}
