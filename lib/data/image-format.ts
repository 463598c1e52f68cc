/** Pictures as files, by the names of the files. */
import path from 'node:path'
import type { Sharp } from 'sharp'
import { invalidArgument } from '../errors'
import { sharp } from './load-sharp'

/** 8-bit pixels, [height, width, channels]. */
export interface Pixels {
  readonly data: Uint8Array
  readonly width: number
  readonly height: number
  readonly channels: 1 | 3
}

/** sharp's names of what is written. Where something is lost, it is as little as makes no difference to the eye. */
const encoders = {
  png: (image: Sharp) => image.png(),
  jpeg: (image: Sharp) => image.jpeg({ quality: 95, chromaSubsampling: '4:4:4' }),
  webp: (image: Sharp) => image.webp({ quality: 95 }),
  avif: (image: Sharp) => image.avif({ quality: 80, chromaSubsampling: '4:4:4' }),
  tiff: (image: Sharp) => image.tiff({ compression: 'deflate' }),
  gif: (image: Sharp) => image.gif(),
}
export type ImageFormat = keyof typeof encoders

const formats: Readonly<Record<string, ImageFormat>> = {
  '': 'png',
  '.png': 'png',
  '.jpg': 'jpeg',
  '.jpeg': 'jpeg',
  '.jfif': 'jpeg',
  '.webp': 'webp',
  '.avif': 'avif',
  '.tif': 'tiff',
  '.tiff': 'tiff',
  '.gif': 'gif',
}

/** By the extension; a name without one is a PNG. Throws `invalid-argument` for extensions of what is not written. */
export function imageFormatOf(file: string, argument = 'file'): ImageFormat {
  const extension = path.extname(file).toLowerCase()
  if (Object.hasOwn(formats, extension)) return formats[extension]
  throw invalidArgument(argument, `a name that ends in ${Object.keys(formats).filter(Boolean).join(', ')}`, file)
}

/** How long the last picture of an animation stays. */
const lastMs = 1000

/** Pictures of one size one after another, again and again. */
export async function encodeAnimation(frames: readonly Pixels[], format: 'gif' | 'webp', fps: number): Promise<Buffer> {
  const { width, height, channels } = frames[0]
  const raw = { width, height: height * frames.length, channels, pageHeight: height }
  const delay = frames.map((_, i) => (i === frames.length - 1 ? lastMs : Math.round(1000 / fps)))
  const image = sharp()(Buffer.concat(frames.map(({ data }) => data)), { raw })
  return image[format]({ delay, loop: 0 }).toBuffer()
}

export async function encodeImage(image: Pixels, format: ImageFormat = 'png'): Promise<Buffer> {
  const { data, width, height, channels } = image
  return encoders[format](sharp()(data, { raw: { width, height, channels } })).toBuffer()
}
