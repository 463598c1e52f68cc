/**
 * What an image file may be before it is decoded. A small file can describe an image of any size, and libvips decodes whatever it
 * recognises, by content and not by name.
 */
import type { Metadata } from 'sharp'
import { DiffusionError } from '../errors'

/** Pixels of an image: 11585 x 11585. */
export const maxPixels = 2 ** 27
/** Bytes that decoding an image may take, and all that are decoded at once together. */
export const maxDecodeBytes = 512 * 2 ** 20
/** Seconds that decoding an image may take. */
export const maxDecodeSeconds = 60

/** sharp's names. */
export type Format = 'png' | 'jpeg' | 'webp' | 'gif' | 'tiff' | 'heif' | 'svg'

/** Bytes of a file that are looked at. */
export const headLength = 1000

/** Of the first bytes as latin1. */
const signatures: readonly (readonly [Format, (head: string) => boolean])[] = [
  ['png', (head) => head.startsWith('\x89PNG\r\n\x1a\n')],
  ['jpeg', (head) => head.startsWith('\xff\xd8\xff')],
  ['gif', (head) => head.startsWith('GIF87a') || head.startsWith('GIF89a')],
  ['webp', (head) => head.startsWith('RIFF') && head.startsWith('WEBP', 8)],
  ['tiff', (head) => ['II*\0', 'II+\0', 'MM\0*', 'MM\0+'].some((order) => head.startsWith(order))],
  ['heif', (head) => head.startsWith('ftyp', 4)],
  // Plain or compressed.
  ['svg', (head) => /<svg/i.test(head) || head.startsWith('\x1f\x8b')],
]

/** Whether a file begins like an image, SVGs aside, which look like any other text. */
export function hasSignature(head: Uint8Array): boolean {
  const format = signatureOf(head)
  return format !== undefined && format !== 'svg'
}

function signatureOf(head: Uint8Array): Format | undefined {
  const text = Buffer.from(head).toString('latin1')
  return signatures.find(([, matches]) => matches(text))?.[0]
}

/** By the first bytes of a file. Throws `bad-file` for other kinds, and for an SVG unless it is asked for. */
export function formatOf(head: Uint8Array, file: string, { svg = false }: { readonly svg?: boolean }): Format {
  const format = signatureOf(head)
  if (format === undefined) throw bad(file, 'it is neither PNG, JPEG, WebP, GIF, TIFF, AVIF nor HEIF')
  // An SVG is a program: a few lines with filters can keep a machine busy for hours.
  if (format === 'svg' && !svg) throw bad(file, 'it looks like an SVG, which is only read on request (svg: true)')
  return format
}

/** Rows that libvips has of a format that is decoded row by row, at the most. */
const streamedRows = 256
// Bytes of a pixel of formats that are decoded whole, measured.
const wholeFrame: Partial<Record<Format, number>> = { webp: 8, gif: 6, heif: 20, svg: 12 }
/** Of the samples whose range is known. What black and white are in floats, and in integers of 32 bits, no file says. */
const sampleBytes: Readonly<Record<string, number>> = { uchar: 1, ushort: 2 }
/** Of those whose range a caller says; a picture of them takes three arrays. */
const floatBytes: Readonly<Record<string, number>> = { float: 12, double: 24 }

/**
 * Bytes that decoding takes, roughly. Throws `bad-file` beyond a limit, with its name, and for samples of unknown range; that of
 * floats may be known to the caller.
 */
export function decodeCost(metadata: Metadata, format: Format, file: string, { floats = false } = {}): number {
  const { width, height, channels = 4, depth, isProgressive } = metadata
  if (metadata.format !== format) throw bad(file, `it begins like ${format}, but is ${metadata.format}`)
  const size = `${width} x ${height} pixels`
  if (width * height > maxPixels) throw bad(file, `it has ${size}, more than maxPixels (${maxPixels})`)
  const known = floats ? { ...sampleBytes, ...floatBytes } : sampleBytes
  if (depth !== undefined && !Object.hasOwn(known, depth)) {
    const remedy = Object.hasOwn(floatBytes, depth) ? 'say them (range), or convert it' : 'convert it'
    const problem = `its samples are of the type ${depth}, whose black and white are not known: ${remedy} to 8 or 16 bits`
    throw bad(file, problem)
  }
  const sample = known[depth ?? ''] ?? 8
  // A progressive JPEG keeps 16 bits of each coefficient; the strips and tiles of a TIFF may be as large as it is.
  const whole = isProgressive || format === 'tiff'
  const bytes = channels * (format === 'jpeg' && isProgressive ? 2 : sample)
  const perPixel = wholeFrame[format] ?? bytes
  const rows = whole || format in wholeFrame ? height : Math.min(height, streamedRows)
  const cost = width * rows * perPixel
  if (cost <= maxDecodeBytes) return cost
  const kind = isProgressive ? `an interlaced or progressive ${format.toUpperCase()}` : `a ${format.toUpperCase()}`
  const problem = `decoding ${size} of ${kind} takes ${cost} bytes, more than maxDecodeBytes (${maxDecodeBytes})`
  throw bad(file, problem)
}

export function bad(file: string, problem: string, cause?: unknown): DiffusionError {
  const details = { argument: 'file', received: file, ...(cause !== undefined && { cause }) }
  return new DiffusionError('bad-file', `cannot read the image ${file}: ${problem}`, details)
}
