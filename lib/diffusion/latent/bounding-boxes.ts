/** Layouts as conditions: taming-transformers' ObjectsBoundingBoxConditionalBuilder, and pictures of them. */
import { invalidArgument } from '../../errors'
import { boolean, integer, parseOptions, required, type SchemaOf } from '../../options'
import { Tensor } from '../../tensor'
import { roundToEven } from '../process/schedule'

/** Of BoundingBoxes. */
export interface BoundingBoxesOptions {
  /** Categories of objects. Needed. */
  noObjectClasses: number
  /** Objects of an image at most; others are left out. Needed. */
  noMaxObjects: number
  /** Of a position in the image, which has sqrt(noTokens) places each way; the last token stands for nothing. Needed. */
  noTokens: number
  /** Two more tokens say which part of the image is seen. Default false. */
  encodeCrop?: boolean
  /** An object can be a group. Default false. */
  useGroupParameter?: boolean
  /** An object can be occluded, a depiction, or seen from inside. Default false. */
  useAdditionalParameters?: boolean
}

const schema = {
  noObjectClasses: required(integer(undefined, { min: 1, max: 2 ** 20 })),
  noMaxObjects: required(integer(undefined, { min: 1, max: 2 ** 12 })),
  noTokens: required(integer(undefined, { min: 4, max: 2 ** 24 })),
  encodeCrop: boolean(false),
  useGroupParameter: boolean(false),
  useAdditionalParameters: boolean(false),
} satisfies SchemaOf<BoundingBoxesOptions>

/** Left, top, width and height, in parts of the image. */
export type Box = readonly [x: number, y: number, width: number, height: number]

export interface LayoutObject {
  /** Of its category, from 0 on. */
  readonly categoryNo: number
  readonly bbox: Box
  /** Default false. */
  readonly isGroupOf?: boolean
  /** Default false. */
  readonly isOccluded?: boolean
  /** Default false. */
  readonly isDepiction?: boolean
  /** Default false. */
  readonly isInside?: boolean
}

/** Of BoundingBoxes.build. */
export interface LayoutOptions {
  /** The part of the image that is seen. Default: all. */
  cropCoordinates?: Box
  /** The image is mirrored. Default false. */
  horizontalFlip?: boolean
}

const full: Box = [0, 0, 1, 1]
const flags = ['isGroupOf', 'isOccluded', 'isDepiction', 'isInside'] as const
/** Lines are as wide as this. */
const line = 3
const grey = [63, 63, 63]
/** seaborn's tab10, as there. */
const palette = [
  ...[
    [30, 118, 179],
    [255, 126, 13],
    [43, 159, 43],
    [213, 38, 39],
    [147, 102, 188],
  ],
  ...[
    [139, 85, 74],
    [226, 118, 193],
    [126, 126, 126],
    [187, 188, 33],
    [22, 189, 206],
  ],
]

export class BoundingBoxes {
  readonly options: Required<BoundingBoxesOptions>
  readonly #sections: number

  /** Throws `invalid-argument` and `unknown-option`. */
  constructor(options: BoundingBoxesOptions) {
    this.options = parseOptions('BoundingBoxes', options, schema) as Required<BoundingBoxesOptions>
    this.#sections = Math.floor(Math.sqrt(this.options.noTokens))
  }

  /** The token of what is not there. */
  get none(): number {
    return this.options.noTokens - 1
  }

  /** How many tokens an image has. */
  get embeddingDim(): number {
    return 3 * this.options.noMaxObjects + (this.options.encodeCrop ? 2 : 0)
  }

  /** The tokens of an image's objects, in the order given, which there is drawn by chance; [embeddingDim]. Throws `invalid-argument`. */
  build(
    objects: readonly LayoutObject[],
    { cropCoordinates: crop = full, horizontalFlip = false }: LayoutOptions = {},
  ) {
    const { encodeCrop, noMaxObjects } = this.options
    for (const { bbox } of objects) checkBox(bbox, 'bbox')
    checkBox(crop, 'cropCoordinates')
    const seen = objects.slice(0, noMaxObjects).filter(({ bbox }) => overlap(bbox, crop) > 0)
    const within = encodeCrop ? full : crop
    const tokens = seen.flatMap((object) => [
      this.#representation(object),
      ...this.#pair(rescaled(object.bbox, within, horizontalFlip)),
    ])
    while (tokens.length < 3 * noMaxObjects) tokens.push(this.none)
    if (encodeCrop) tokens.push(...this.#pair(horizontalFlip ? mirrored(crop) : crop))
    const wrong = tokens.find((token) => !Number.isInteger(token) || token < 0 || token >= this.options.noTokens)
    if (wrong === undefined) return Tensor.wrap(Int32Array.from(tokens), [tokens.length])
    throw invalidArgument('objects', `categories and boxes of tokens below ${this.options.noTokens}`, wrong)
  }

  /** The objects of an image's tokens [embeddingDim], and the part that is seen. Throws `invalid-argument`. */
  async inverseBuild(tokens: Tensor): Promise<{ objects: LayoutObject[]; crop?: Box }> {
    const { encodeCrop, noMaxObjects, noTokens } = this.options
    const list = tokens instanceof Tensor && tokens.size === this.embeddingDim ? [...(await tokens.values())] : []
    if (list.length === 0 || list.some((token) => !Number.isInteger(token) || token < 0 || token >= noTokens)) {
      throw invalidArgument('tokens', `${this.embeddingDim} tokens below ${noTokens}`, tokens)
    }
    const triples = Array.from({ length: noMaxObjects }, (_, i) => list.slice(3 * i, 3 * i + 3))
    const objects = triples
      .filter(([what]) => what !== this.none)
      .map(([what, from, to]) => ({ ...this.#object(what), bbox: this.#box(from, to) }))
    const [from, to] = list.slice(-2)
    return { objects, ...(encodeCrop && { crop: this.#box(from, to) }) }
  }

  /** The boxes of tokens, a colour each, on white, and that of what is seen in grey: [3, height, width], from -1 to 1. Without texts. */
  async plot(tokens: Tensor, [width, height]: readonly [number, number] = [256, 256]): Promise<Tensor> {
    const pixels = new Float32Array(3 * height * width).fill(1)
    const { objects, crop } = await this.inverseBuild(tokens)
    const draw = ([x, y, w, h]: Box, colour: readonly number[]) => {
      const [left, top, right, bottom] = [x * width, y * height, (x + w) * width, (y + h) * height].map(Math.trunc)
      for (let row = Math.max(top, 0); row <= Math.min(bottom, height - 1); row++) {
        for (let column = Math.max(left, 0); column <= Math.min(right, width - 1); column++) {
          const inside = Math.min(row - top, bottom - row, column - left, right - column)
          if (inside >= line) continue
          for (let c = 0; c < 3; c++) pixels[(c * height + row) * width + column] = colour[c] / 127.5 - 1
        }
      }
    }
    for (const [i, { bbox }] of objects.entries()) draw(bbox, palette[i % palette.length])
    if (crop) draw(crop, grey)
    return Tensor.wrap(pixels, [3, height, width])
  }

  #representation(object: LayoutObject): number {
    const { noObjectClasses, useGroupParameter, useAdditionalParameters } = this.options
    const { categoryNo } = object
    if (!Number.isInteger(categoryNo) || categoryNo < 0 || categoryNo >= noObjectClasses) {
      throw invalidArgument('categoryNo', `a category from 0 to ${noObjectClasses - 1}`, categoryNo)
    }
    const counts = (i: number) => (i === 0 ? useGroupParameter : useAdditionalParameters)
    const modifier = flags.reduce((sum, flag, i) => sum + (counts(i) && object[flag] ? 2 ** i : 0), 0)
    return categoryNo + noObjectClasses * modifier
  }

  #object(representation: number): Omit<LayoutObject, 'bbox'> {
    const { noObjectClasses, useGroupParameter, useAdditionalParameters } = this.options
    const modifier = Math.floor(representation / noObjectClasses)
    const own = flags.map((flag, i) => {
      const counts = i === 0 ? useGroupParameter : useAdditionalParameters
      return [flag, counts && Math.floor(modifier / 2 ** i) % 2 === 1]
    })
    return { categoryNo: representation % noObjectClasses, ...Object.fromEntries(own) }
  }

  /** Of the upper left and the lower right corner. */
  #pair([x, y, w, h]: Box): [number, number] {
    const last = this.#sections - 1
    const token = (across: number, down: number) =>
      roundToEven(down * last) * this.#sections + roundToEven(across * last)
    return [token(x, y), token(x + w, y + h)]
  }

  #box(from: number, to: number): Box {
    const last = this.#sections - 1
    const corner = (token: number) => [(token % this.#sections) / last, Math.floor(token / this.#sections) / last]
    const [[x0, y0], [x1, y1]] = [corner(from), corner(to)]
    return [x0, y0, x1 - x0, y1 - y0]
  }
}

function checkBox(box: Box, argument: string): void {
  const fits = Array.isArray(box) && box.length === 4 && box.every(Number.isFinite) && box[2] >= 0 && box[3] >= 0
  const isPart = fits && (argument === 'bbox' || (box[2] > 0 && box[3] > 0))
  if (!isPart) throw invalidArgument(argument, '[x, y, width, height] in parts of the image', box)
}

function overlap([x, y, w, h]: Box, [left, top, width, height]: Box): number {
  const across = Math.max(0, Math.min(x + w, left + width) - Math.max(x, left))
  return across * Math.max(0, Math.min(y + h, top + height) - Math.max(y, top))
}

const mirrored = ([x, y, w, h]: Box): Box => [1 - (x + w), y, w, h]

function rescaled([x, y, w, h]: Box, [left, top, width, height]: Box, flip: boolean): Box {
  const clamp = (v: number) => Math.max(Math.min(v, 1), 0)
  const [x0, y0] = [clamp((x - left) / width), clamp((y - top) / height)]
  const box: Box = [x0, y0, Math.min(w / width, 1 - x0), Math.min(h / height, 1 - y0)]
  return flip ? mirrored(box) : box
}

/** What is said of an object beside its category: '(g,o)'. */
export function flagsOf(object: Omit<LayoutObject, 'bbox'>): string {
  const letters = flags.filter((flag) => object[flag]).map((flag) => flag[2].toLowerCase())
  return letters.length > 0 ? `(${letters.join(',')})` : ''
}
