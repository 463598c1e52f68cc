/** Images of layouts: ddpm.py's Layout2ImgDiffusion. */
import type { JsonObject } from '../../checkpoint/json'
import { invalidArgument } from '../../errors'
import { Tensor } from '../../tensor'
import type { LatentConfigOptions } from '../formats/latent-from-config'
import { BoundingBoxes, type BoundingBoxesOptions, flagsOf } from '../latent/bounding-boxes'
import { firstRows } from '../latent/conditioning'
import type { LatentDiffusionOptions, LatentLoggedImages, LatentLogImagesOptions } from '../options/latent-options'
import type { Batch } from './batch'
import { LatentDiffusion } from './latent-diffusion'

/** What Layout2ImgDiffusion has beside LatentDiffusion's options. */
export interface LayoutOnlyOptions {
  /** How boxes are tokens; there it is the dataset's. Default: none, without which logImages has no pictures of layouts. */
  conditionalBuilder?: BoundingBoxes | BoundingBoxesOptions
  /** Names of the categories, by their numbers. Default: the numbers. */
  categoryNames?: readonly string[]
}

/** Of Layout2ImgDiffusion. `condStageKey` is 'coordinates_bbox'. */
export interface Layout2ImgDiffusionOptions extends LatentDiffusionOptions, LayoutOnlyOptions {}

/** Of Layout2ImgDiffusion.fromConfig. */
export interface LayoutConfigOptions extends LatentConfigOptions, LayoutOnlyOptions {}

/** Pictures to look at. */
export interface LayoutLoggedImages extends LatentLoggedImages {
  /** The boxes of each image, [N, 3, 256, 256]. */
  bboxImage?: Tensor
  /** What is in each box of each image, in the order of BoundingBoxes' colours. */
  bboxLabels?: readonly (readonly string[])[]
}

const size = 256

/** LatentDiffusion of tokens of bounding boxes, batch.coordinates_bbox, int32 [n, BoundingBoxes.embeddingDim]. */
export class Layout2ImgDiffusion extends LatentDiffusion {
  readonly conditionalBuilder?: BoundingBoxes
  readonly #names?: readonly string[]

  /** Throws `invalid-argument` and `unknown-option`. */
  constructor(options: Layout2ImgDiffusionOptions) {
    const { conditionalBuilder: builder, categoryNames, condStageKey = 'coordinates_bbox', ...rest } = options
    if (condStageKey !== 'coordinates_bbox') throw invalidArgument('condStageKey', "'coordinates_bbox'", condStageKey)
    if (categoryNames !== undefined && !Array.isArray(categoryNames)) {
      throw invalidArgument('categoryNames', 'an array of names', categoryNames)
    }
    const boxes = builder === undefined || builder instanceof BoundingBoxes ? builder : new BoundingBoxes(builder)
    super({ ...rest, condStageKey })
    this.conditionalBuilder = boxes
    this.#names = categoryNames
  }

  /** LatentDiffusion.fromConfig; what the YAML says of the data is not read: `conditionalBuilder` is given. Throws what it throws. */
  static override fromConfig(
    source: string | JsonObject,
    options: LayoutConfigOptions = {},
  ): Promise<Layout2ImgDiffusion> {
    const { conditionalBuilder, categoryNames, ...own } = options
    const make = (said: LatentDiffusionOptions) =>
      new Layout2ImgDiffusion({ ...said, conditionalBuilder, categoryNames })
    return LatentDiffusion.openConfig(source, own, make)
  }

  /** LatentDiffusion's, and pictures of the boxes, whatever returnKeys says, as there; their texts are beside them. */
  override async logImages(batch: Batch, options: LatentLogImagesOptions = {}): Promise<Partial<LayoutLoggedImages>> {
    const log = await super.logImages(batch, options)
    const { conditionalBuilder: builder } = this
    if (!builder) return log
    const tokens = batch[this.condStageKey] as Tensor
    const n = Math.min(tokens.shape[0], options.N ?? 8)
    const values = await (await firstRows(tokens, n)).values()
    const pixels = new Float32Array(n * 3 * size * size)
    const bboxLabels: string[][] = []
    for (let i = 0; i < n; i++) {
      const row = values.slice(i * builder.embeddingDim, (i + 1) * builder.embeddingDim)
      const own = Tensor.wrap(row as Int32Array, [row.length])
      pixels.set(await (await builder.plot(own, [size, size])).data(), i * 3 * size * size)
      const { objects } = await builder.inverseBuild(own)
      bboxLabels.push(objects.map((object) => `${this.#nameOf(object.categoryNo)} ${flagsOf(object)}`.trim()))
    }
    return { ...log, bboxImage: Tensor.wrap(pixels, [n, 3, size, size]), bboxLabels }
  }

  #nameOf(categoryNo: number): string {
    return this.#names?.[categoryNo] ?? String(categoryNo)
  }
}
