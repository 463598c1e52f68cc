/**
 * Small pictures of latents without the decoder: each pixel a linear function of a latent's channels, fitted once by least squares to
 * what the first stage makes of squares of random colours. (Of latents that are drawn at random the decoder makes pictures that it never
 * learned, and the fit is a worse one.)
 */
import { invalidArgument } from '../../errors'
import { Purpose, words } from '../../rng'
import { checkTensor, Tensor } from '../../tensor'
import { type FirstStage, isPosterior } from './stages'

/** Height and width in latents of the images that are fitted to, and of the squares in them. */
const side = 16
const square = 4
/** How many times more latents there are than coefficients, at least. */
const excess = 8

/** As a share of the mean variance: what keeps channels solvable that hardly differ. */
const ridge = 1e-6

export class LinearPreview {
  /** [outputs, channels + 1], the constant last. */
  readonly #factors: readonly Float64Array[]

  private constructor(factors: readonly Float64Array[]) {
    this.#factors = factors
  }

  /** Of the first stage's latents, not scaled; `channels`: theirs and its images'. */
  static async fit(stage: FirstStage, channels: { latents: number; images: number }): Promise<LinearPreview> {
    const n = Math.max(2, Math.ceil((excess * (channels.latents + 1)) / side ** 2))
    const encoded = await stage.encode(squares([n, channels.images], stage.factor ?? 1))
    const z = isPosterior(encoded) ? await encoded.mode() : encoded
    return new LinearPreview(await leastSquares(z, await stage.decode(z)))
  }

  /** Images [n, outputs, h, w] in [-1, 1] of latents [n, channels, h, w]. */
  async of(z: Tensor): Promise<Tensor> {
    checkTensor(z, 'z')
    const outputs = this.#factors.length
    const channels = this.#factors[0].length - 1
    const [n, c, h, w] = z.shape
    if (z.shape.length !== 4 || c !== channels) throw invalidArgument('z', `latents [n, ${channels}, h, w]`, z)
    const latents = await z.data()
    const area = h * w
    const pixels = new Float32Array(n * outputs * area)
    for (let map = 0; map < n * outputs; map++) {
      const [first, factors] = [Math.floor(map / outputs) * c * area, this.#factors[map % outputs]]
      for (let place = 0; place < area; place++) {
        let sum = factors[c]
        for (let k = 0; k < c; k++) sum += factors[k] * latents[first + k * area + place]
        pixels[map * area + place] = Math.min(1, Math.max(-1, sum))
      }
    }
    return Tensor.wrap(pixels, [n, outputs, h, w])
  }
}

/** Images [n, c, ...] of squares, each of one colour, `factor` pixels a latent. */
function squares([n, c]: readonly [number, number], factor: number): Tensor {
  const [size, cells] = [side * factor, side / square]
  const colours = words(0, Purpose.latent, 0, 0, n * c * cells ** 2)
  const data = new Float32Array(n * c * size ** 2)
  for (let i = 0; i < data.length; i++) {
    const [map, y, x] = [Math.floor(i / size ** 2), Math.floor(i / size) % size, i % size]
    const cell = (map * cells + Math.floor((y * cells) / size)) * cells + Math.floor((x * cells) / size)
    data[i] = colours[cell] / 2 ** 31 - 1
  }
  return Tensor.wrap(data, [n, c, size, size])
}

/** For each channel of the images, the factors of the latents' channels, and a constant, that come nearest to the means of its pixels. */
async function leastSquares(z: Tensor, images: Tensor): Promise<Float64Array[]> {
  const [n, channels, h, w] = z.shape
  const [, outputs] = images.shape
  const [latents, targets] = [await z.data(), await means(images, h, w)]
  const terms = channels + 1
  const rows = Array.from({ length: terms }, () => new Float64Array(terms + outputs))
  const seen = new Float64Array(terms + outputs).fill(1)
  for (let i = 0; i < n * h * w; i++) {
    const [sample, place] = [Math.floor(i / (h * w)), i % (h * w)]
    for (let c = 0; c < channels; c++) seen[c] = latents[(sample * channels + c) * h * w + place]
    for (let o = 0; o < outputs; o++) seen[terms + o] = targets[(sample * outputs + o) * h * w + place]
    for (const [a, row] of rows.entries()) for (let b = 0; b < row.length; b++) row[b] += seen[a] * seen[b]
  }
  solve(rows)
  return Array.from({ length: outputs }, (_, o) => Float64Array.from(rows, (row) => row[terms + o]))
}

/** Of the pixels that belong to each of h x w places: [n, c, h, w]. */
async function means(images: Tensor, h: number, w: number): Promise<Float32Array> {
  const [n, c, height, width] = images.shape
  const values = await images.data()
  const sums = new Float32Array(n * c * h * w)
  for (let i = 0; i < values.length; i++) {
    const [map, y, x] = [Math.floor(i / (height * width)), Math.floor(i / width) % height, i % width]
    sums[(map * h + Math.floor((y * h) / height)) * w + Math.floor((x * w) / width)] += values[i]
  }
  return sums.map((sum) => (sum * h * w) / (height * width))
}

/** Of rows [a | b], with a symmetric, b becomes a's inverse times b: Gauss and Jordan. */
function solve(rows: readonly Float64Array[]): void {
  const mean = rows.reduce((sum, row, i) => sum + row[i], 0) / rows.length
  for (const [i, row] of rows.entries()) row[i] += ridge * mean
  for (const [pivot, from] of rows.entries()) {
    const scale = from[pivot]
    for (let k = 0; k < from.length; k++) from[k] /= scale
    for (const row of rows) {
      if (row === from) continue
      const factor = row[pivot]
      for (let k = 0; k < row.length; k++) row[k] -= factor * from[k]
    }
  }
}
