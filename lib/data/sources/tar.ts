/**
 * Tar archives in WebDataset's form: files whose names are equal up to the first dot are one sample, key.jpg with key.cls, key.txt and
 * key.json (https://github.com/webdataset/webdataset; POSIX.1-1988 ustar, with GNU's and pax' long names).
 */
import path from 'node:path'
import { isObject } from '../../checkpoint/json'
import { type Source, withSource } from '../../checkpoint/source'
import { DiffusionError, quote } from '../../errors'
import { labellingOfWords } from '../class-labels'
import { readRange } from '../image-bytes'
import { maxDecodeBytes } from '../image-limits'
import { imageExtensions } from '../list-images'
import { encodedSource } from './encoded'
import type { ImageSource, SourceOptions, UnreadableFile } from './source'

const block = 512
const windowBytes = 2 ** 16
/** Of a name, a label or a caption. */
const maxText = 2 ** 16
/** Of an entry in our lists, beside its name. */
const entryCost = 256

interface Entry {
  readonly name: string
  readonly at: number
  readonly size: number
}

interface Sample {
  image?: Entry
  label?: string
  caption?: string
}

/**
 * Names of the samples are those of their images. Throws `bad-file` for an archive that is damaged or truncated and a label that is
 * none, and `invalid-argument` for one without an image.
 */
export async function tarSource(file: string, o: SourceOptions): Promise<ImageSource> {
  const leftOut: UnreadableFile[] = []
  const samples = await withSource(file, 'tar archive', (source) => readSamples(source, leftOut), { argument: 'data' })
  if (samples.length === 0) {
    const problem = `${file} has no image among its files: they end in ${[...imageExtensions].join(' ')}`
    throw new DiffusionError('invalid-argument', problem, { argument: 'data' })
  }
  const images = samples.map(({ image }) => image!)
  const labelled = samples.every(({ label }) => label !== undefined)
  const captioned = samples.some(({ caption }) => caption !== undefined)
  const source = encodedSource(
    file,
    {
      length: images.length,
      nameOf: (i) => images[i].name,
      bytesOf: (i) => readRange(file, images[i].at, images[i].size),
      identity: ['tar', images.map(({ name, size }) => [name, size])],
      leftOut,
      ...(labelled && { classes: labellingOfWords(samples.map(({ label }) => label!)) }),
      ...(captioned && { captionOf: (i: number) => samples[i].caption }),
    },
    o,
  )
  return source
}

async function readSamples(source: Source, leftOut: UnreadableFile[]): Promise<Sample[]> {
  const { bad, budget } = source
  const samples = new Map<string, Sample>()
  for await (const entry of entriesOf(source)) {
    const base = entry.name.slice(entry.name.lastIndexOf('/') + 1)
    const dot = base.indexOf('.')
    if (dot <= 0) continue // hidden, or without a kind
    const key = entry.name.slice(0, entry.name.length - base.length + dot)
    const sample = samples.get(key) ?? {}
    if (!samples.has(key)) {
      budget.memory(entryCost + 2 * key.length)
      samples.set(key, sample)
    }
    if (imageExtensions.has(path.extname(base).toLowerCase())) {
      if (sample.image) throw bad(`${quote(key)} has two images, ${quote(sample.image.name)} and ${quote(entry.name)}`)
      if (entry.size > maxDecodeBytes) leftOut.push({ file: entry.name, reason: `it has ${entry.size} bytes` })
      else sample.image = entry
    } else await readBeside(source, base.slice(dot + 1), entry, sample)
  }
  for (const [key, { image, label, caption }] of samples) {
    const isOurs = label !== undefined || caption !== undefined
    if (!image && isOurs)
      leftOut.push({ file: key, reason: 'it has a label or a caption, and no image that can be read' })
  }
  return [...samples.values()].filter(({ image }) => image)
}

/** What belongs to an image, by its kind. Others are nothing of ours. */
async function readBeside(source: Source, kind: string, entry: Entry, sample: Sample): Promise<void> {
  if (kind !== 'cls' && kind !== 'txt' && kind !== 'json') return
  const { bad, budget } = source
  if (entry.size > maxText) throw bad(`${quote(entry.name)} has ${entry.size} bytes, more than ${maxText}`)
  budget.memory(2 * entry.size)
  const bytes = new Uint8Array(entry.size)
  await source.read(bytes, entry.at)
  const text = Buffer.from(bytes).toString().trim()
  if (kind === 'txt') sample.caption = text
  else if (kind === 'cls') {
    if (text === '' || /^-\d/.test(text))
      throw bad(`the label in ${quote(entry.name)} is ${quote(text)}, which is out of range`)
    sample.label = text
  } else {
    const json = parsed(text)
    if (!isObject(json)) throw bad(`${quote(entry.name)} is no JSON object`)
    const { label, caption } = json
    if (typeof label === 'string' || (Number.isSafeInteger(label) && (label as number) >= 0))
      sample.label ??= String(label)
    else if (label !== undefined) throw bad(`the label in ${quote(entry.name)} is out of range`)
    if (typeof caption === 'string') sample.caption ??= caption
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** The regular files, in their order. */
async function* entriesOf(source: Source): AsyncGenerator<Entry> {
  const { size, bad, budget } = source
  const blocks = new Blocks(source)
  let longName: string | undefined
  for (let at = 0; ; ) {
    if (at + block > size) throw bad('it ends without an end: it is truncated')
    const header = await blocks.at(at)
    if (header.every((byte) => byte === 0)) return
    budget.items(1)
    checkSum(header, bad)
    const length = numberOf(header, 124, 12, bad)
    const begin = at + block
    const kind = String.fromCharCode(header[156])
    if (!(begin + length <= size))
      throw bad(`${quote(nameOf(header))} of ${length} bytes does not end within it: it is truncated`)
    at = begin + Math.ceil(length / block) * block
    if (kind === 'L') longName = await textAt(source, begin, length)
    else if (kind === 'x') longName = paxName(await textAt(source, begin, length)) ?? longName
    else {
      const name = (longName ?? nameOf(header)).replace(/^\.\//, '')
      longName = undefined
      if (kind !== '0' && kind !== '\0') continue // folders, links, what is global
      budget.memory(entryCost + 2 * name.length)
      yield { name, at: begin, size: length }
    }
  }
}

/** Headers, of a file that is read in pieces. */
class Blocks {
  #piece = new Uint8Array(0)
  #begin = 0

  constructor(readonly source: Source) {}

  async at(position: number): Promise<Buffer> {
    const within = position - this.#begin
    if (within < 0 || within + block > this.#piece.length) {
      this.#piece = new Uint8Array(Math.min(windowBytes, this.source.size - position))
      this.#begin = position
      await this.source.read(this.#piece, position)
    }
    return Buffer.from(this.#piece.buffer, position - this.#begin, block)
  }
}

async function textAt(source: Source, at: number, length: number): Promise<string> {
  if (length > maxText) throw source.bad(`a name in it has ${length} bytes`)
  const bytes = new Uint8Array(length)
  await source.read(bytes, at)
  return Buffer.from(bytes).toString().replace(/\0+$/, '')
}

/** Records are "length key=value\n". */
function paxName(records: string): string | undefined {
  return /(?:^|\n)\d+ path=([^\n]*)/.exec(records)?.[1]
}

const textOf = (header: Buffer, from: number, length: number) =>
  header.toString('utf8', from, from + length).split('\0')[0]

function nameOf(header: Buffer): string {
  const prefix = textOf(header, 257, 5) === 'ustar' ? textOf(header, 345, 155) : ''
  return prefix === '' ? textOf(header, 0, 100) : `${prefix}/${textOf(header, 0, 100)}`
}

/** Octal digits; beyond 8 GiB the number itself, behind a byte with its first bit set. */
function numberOf(header: Buffer, from: number, length: number, bad: Source['bad']): number {
  if (header[from] === 0x80) return Number(header.readBigUInt64BE(from + length - 8))
  const text = textOf(header, from, length).trim()
  if (!/^[0-7]+$/.test(text)) throw bad('a number in a header of it is damaged')
  return Number.parseInt(text, 8)
}

/** The sum of a header's bytes, with spaces in place of itself. */
function checkSum(header: Buffer, bad: Source['bad']): void {
  let sum = 0
  for (let i = 0; i < block; i++) sum += i >= 148 && i < 156 ? 0x20 : header[i]
  if (sum !== numberOf(header, 148, 8, bad)) throw bad('a header in it has the wrong sum: it is damaged, or packed')
}
