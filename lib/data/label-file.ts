/**
 * A file of class labels, { "path of an image": "class", ... }: gone through piece by piece, as it may have a line for each of
 * millions of images, of which the folder at hand has a few.
 */
import { type Source, withSource } from '../checkpoint/source'
import { describe, quote } from '../errors'

const pieceBytes = 2 ** 20
/** Of a path or a class, as it is written. */
const maxStringBytes = 2 ** 16

/**
 * The classes of those of `files` that the file has. Throws `not-found`, `io`, and `bad-file`: for all that is no such object,
 * for a class that is no text, and for an image of `files` that is there twice.
 */
export function readLabelFile(path: string, files: readonly string[]): Promise<Map<string, string>> {
  const wanted = new Set(files)
  const read = async (source: Source) => {
    const { bad } = source
    const found = new Map<string, string>()
    const names = new Map<string, string>() // one string for each class, not one a line
    for await (const [file, name] of pairs(source)) {
      if (typeof name !== 'string' || name === '') throw bad(`the class of ${quote(file)} is ${describe(name)}`)
      if (!wanted.has(file)) continue
      if (found.has(file)) throw bad(`it has ${quote(file)} twice`)
      if (!names.has(name)) names.set(name, name)
      found.set(file, names.get(name)!)
    }
    return found
  }
  return withSource(path, 'file of class labels', read, { argument: 'classes' })
}

/** The members of a flat JSON object (RFC 8259), in their order. A value that is an object or an array ends it with an error. */
async function* pairs(source: Source): AsyncGenerator<readonly [name: string, value: unknown]> {
  const { bad, budget } = source
  const text = new Scanner(source)
  if ((await text.next()) !== '{') throw bad('it is not a JSON object')
  text.skip()
  if ((await text.next()) === '}') text.skip()
  else {
    for (let separator = ','; separator === ','; text.skip()) {
      budget.items(1)
      if ((await text.next()) !== '"') throw bad(notJson)
      const name = (await text.value()) as string
      if ((await text.next()) !== ':') throw bad(notJson)
      text.skip()
      const first = await text.next()
      if (first === '{' || first === '[')
        throw bad(`the class of ${quote(name)} is ${first === '{' ? 'an object' : 'an array'}`)
      yield [name, await text.value()]
      separator = await text.next()
      if (separator !== ',' && separator !== '}') throw bad(notJson)
    }
  }
  if ((await text.next()) !== '') throw bad(notJson)
}

const notJson = 'it is not JSON'
const quoteByte = 0x22
const backslash = 0x5c
const isSpace = (byte: number) => byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09

/** Tokens of JSON, of a file that is read in pieces. */
class Scanner {
  readonly #source: Source
  readonly #decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  #piece: Uint8Array = new Uint8Array(0)
  #at = 0
  /** In the file, of what comes behind the piece. */
  #position = 0

  constructor(source: Source) {
    this.#source = source
  }

  /** The character that comes next, behind any spaces; '' at the end. */
  async next(): Promise<string> {
    for (;;) {
      while (this.#at < this.#piece.length && isSpace(this.#piece[this.#at])) this.#at++
      if (this.#at < this.#piece.length) return String.fromCharCode(this.#piece[this.#at])
      if (!(await this.#readOn())) return ''
    }
  }

  skip(): void {
    this.#at++
  }

  /** The string, number or literal that comes next. */
  async value(): Promise<unknown> {
    if (this.#piece.length - this.#at <= maxStringBytes) await this.#readOn()
    const begin = this.#at
    const end = this.#piece[begin] === quoteByte ? this.#endOfString(begin) : this.#endOfLiteral(begin)
    if (end - begin > maxStringBytes) throw this.#source.bad(`a name in it has more than ${maxStringBytes} bytes`)
    this.#at = end
    try {
      return JSON.parse(this.#decoder.decode(this.#piece.subarray(begin, end)))
    } catch {
      throw this.#source.bad(notJson)
    }
  }

  #endOfString(begin: number): number {
    let at = begin + 1
    for (; at < this.#piece.length && this.#piece[at] !== quoteByte; at++) if (this.#piece[at] === backslash) at++
    return at + 1
  }

  #endOfLiteral(begin: number): number {
    let at = begin
    while (at < this.#piece.length && !isSpace(this.#piece[at]) && !',}'.includes(String.fromCharCode(this.#piece[at])))
      at++
    return at
  }

  /** Drops what has been read of the piece and adds the next one. False at the end of the file. */
  async #readOn(): Promise<boolean> {
    const rest = this.#piece.subarray(this.#at)
    const length = Math.min(pieceBytes, this.#source.size - this.#position)
    if (length === 0) return false
    const piece = new Uint8Array(rest.length + length)
    piece.set(rest)
    await this.#source.read(piece.subarray(rest.length), this.#position)
    this.#position += length
    this.#piece = piece
    this.#at = 0
    return true
  }
}
