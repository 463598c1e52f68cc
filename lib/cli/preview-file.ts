/** `ddpm sample --preview`: what the images look like on the way, as a small picture in a file that is always whole. */
import { atomicWrite } from '../checkpoint/atomic-write'
import { encodeImage, type ImageFormat, imageFormatOf } from '../data/image-format'
import { imageGrid, toBytes } from '../data/image-grid'
import type { DDPM } from '../diffusion/models/ddpm'
import { LatentDiffusion } from '../diffusion/models/latent-diffusion'
import type { Tensor } from '../tensor'
import { outputFile, writeOutput } from './free-name'

const betweenMs = 1000

export class PreviewFile {
  #name: string
  readonly #format: ImageFormat
  readonly #overwrite?: boolean
  #written?: number

  private constructor(name: string, format: ImageFormat, overwrite?: boolean) {
    this.#name = name
    this.#format = format
    this.#overwrite = overwrite
  }

  /** Where it is: not onto what was there, unless that is asked for. */
  get name(): string {
    return this.#name
  }

  /** Throws before anything is drawn: `invalid-argument` for a name of no format, `io` where it can't be written. */
  static async open(file: string, { overwrite }: { readonly overwrite?: boolean }): Promise<PreviewFile> {
    const format = imageFormatOf(file, 'preview')
    return new PreviewFile(await outputFile(file, { overwrite }), format, overwrite)
  }

  /** Predictions of images, or of their latents. Writes nothing soon after the last one, unless it `must`. */
  async show(ddpm: DDPM, predX0: Tensor, must: boolean): Promise<void> {
    const before = this.#written
    if (!must && before !== undefined && performance.now() - before < betweenMs) return
    this.#written = performance.now()
    const images = ddpm instanceof LatentDiffusion ? await ddpm.previewLatents(predX0) : predX0
    const picture = imageGrid(toBytes(await images.data(), images.shape), { gap: images.shape[0] === 1 ? 0 : 1 })
    const bytes = await encodeImage(picture, this.#format)
    if (before === undefined) this.#name = await writeOutput(this.#name, bytes, this.#overwrite)
    else await atomicWrite(this.#name, bytes)
  }
}
