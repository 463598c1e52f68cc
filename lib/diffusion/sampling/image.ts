/** Sampling that begins with an image, or keeps parts of one. */
import { DiffusionError, invalidArgument } from '../../errors'
import type { NativeBuffer } from '../../native'
import { Purpose, type PurposeId } from '../../rng'
import type { RunQueue } from '../../run-queue'
import { checkTensor, type Shape, sizeOf, Tensor } from '../../tensor'
import { type Core, extentOf } from '../process/core'
import { noiseInputs } from '../process/process'
import type { SamplingPlan } from './plan'

export interface ImageOptions {
  /** Of the samples' shape. */
  readonly image?: Tensor
  /** 1 keeps the image's pixel, 0 draws it: [n or 1, c or 1, h, w], or the samples' shape. */
  readonly mask?: Tensor
  readonly strength?: number
  /** With a mask: the noise of the image in step i, counted from 0, in place of drawn noise. */
  readonly imageNoise?: (i: number) => Tensor | Promise<Tensor>
}

export function checkImage(o: ImageOptions, shape: Shape): void {
  if (o.imageNoise && !o.mask) throw invalidArgument('mask', 'a Tensor, to go with imageNoise', o.mask)
  if (o.image) checkTensor(o.image, 'image', shape)
  else if (o.mask || o.strength !== undefined) {
    throw invalidArgument('image', `a Tensor, to go with ${o.mask ? 'mask' : 'strength'}`, o.image)
  }
  if (!o.image || o.mask || o.strength !== undefined) return
  const message = 'image: say with strength how much of it may change, or with mask which part is to be kept'
  throw new DiffusionError('invalid-argument', message, { argument: 'image' })
}

/** Of strength 0: no step is taken, and the image is what it was. */
export async function untouched(o: ImageOptions, shape: Shape, withSteps: boolean) {
  checkImage(o, shape)
  const copy = async () => Tensor.wrap(await o.image!.data(), shape)
  const steps = async () => (withSteps ? [await copy()] : [])
  return { samples: await copy(), intermediates: await steps(), predX0: await steps() }
}

/** Where a sampling stands, on the device: `row`, of the plan, and `t` of each sample, and where its noise comes from. */
export type Clock = Readonly<Record<'row' | 't' | 'rng' | 'sample', NativeBuffer>>

/** How much of an image and of noise there is, by an index of each sample: tables of `rows`. */
interface Amounts {
  readonly index: NativeBuffer
  readonly a: NativeBuffer
  readonly b: NativeBuffer
  readonly rows: number
}

/** Asks for x_t of the image in `y`, with the noise of this step. */
export function noiseImage(
  queue: RunQueue,
  core: Core,
  o: {
    shape: Shape
    image: NativeBuffer
    clock: Clock
    purpose: PurposeId
    y: NativeBuffer
    /** Default: by t. */
    amounts?: Amounts
    /** In place of drawn noise. */
    noise?: NativeBuffer
  },
): void {
  const { n, d } = extentOf(o.shape, 'image')
  const { t, row, rng, sample } = o.clock
  const [byA, byB] = ['sqrtAlphasCumprod', 'sqrtOneMinusAlphasCumprod'] as const
  const { rows, index, a, b } = o.amounts ?? {
    ...{ rows: core.numTimesteps, index: t },
    ...{ a: core.buffer(byA), b: core.buffer(byB) },
  }
  const given = o.noise !== undefined
  const program = core.program('noiseImage', { n, d, rows, given, purpose: o.purpose }, (g) => {
    const draw = () => {
      const inputs = noiseInputs(g, n)
      return g.gaussianNoise(inputs.rng, inputs.sample, inputs.step, { d, purpose: o.purpose })
    }
    const z = given ? g.input('noise', [n, 1, 1, d]) : draw()
    const [forImage, forNoise] = ['a', 'b'].map((name) => g.input(name, [rows, 1, 1, 1]))
    return {
      y: g.timestepAffine(g.input('image', [n, 1, 1, d]), forImage, g.input('index', [n, 1, 1, 1], 'i32'), z, forNoise),
    }
  })
  const noise: Record<string, NativeBuffer> = o.noise ? { noise: o.noise } : { rng, sample, step: row }
  queue.add(program, { image: o.image, index, a, b, ...noise, y: o.y })
}

/** A copy of the tensor on the device. */
export async function copyOf(core: Core, tensor: Tensor): Promise<NativeBuffer> {
  const values = await tensor.binding(core.device)
  if (ArrayBuffer.isView(values)) return core.device.upload(values)
  const buffer = core.device.allocate(sizeOf(tensor.shape))
  buffer.copyFrom(values)
  return buffer
}

/**
 * Inpainting as in ddim.py's ddim_sampling: before each step, what is known is replaced by itself with as much noise as the state
 * has (Song et al. 2021b, appendix I.2); at the end, unlike there, by itself. Or as in ddpm.py's LatentDiffusion.p_sample_loop, after
 * each step, with as much noise as there was before it.
 */
export class Inpainting {
  readonly #noisy: NativeBuffer
  /** By the number of steps that were taken, how much there was before the last of them. */
  readonly #before: { readonly a: NativeBuffer; readonly b: NativeBuffer; readonly rows: number }

  private constructor(
    readonly core: Core,
    readonly shape: Shape,
    plan: SamplingPlan,
    readonly image: NativeBuffer,
    readonly keep: NativeBuffer,
    readonly change: NativeBuffer,
    readonly index: NativeBuffer,
  ) {
    this.#noisy = core.device.allocate(sizeOf(shape))
    const rows = plan.rows + 1
    const column = (table: Float32Array) =>
      core.device.upload(Float32Array.from({ length: rows }, (_, row) => table[plan.timesteps[Math.max(row - 1, 0)]]))
    const { sqrtAlphasCumprod: a, sqrtOneMinusAlphasCumprod: b } = core.schedule
    this.#before = { a: column(a), b: column(b), rows }
  }

  static async create(core: Core, plan: SamplingPlan, image: Tensor, mask: Tensor): Promise<Inpainting> {
    const keep = await spread(mask, image.shape)
    const { device } = core
    const [kept, change] = [keep, keep.map((v) => 1 - v)].map((values) => device.upload(values))
    const index = device.upload(Int32Array.from(keep, (_, i) => i))
    return new Inpainting(core, image.shape, plan, await copyOf(core, image), kept, change, index)
  }

  /**
   * Asks for a blend of the image into x, with as much noise as there is at this time, or `after` a step with as much as there was
   * before it. `noise`: in place of drawn noise.
   */
  blendNoisy(queue: RunQueue, x: NativeBuffer, clock: Clock, o: { after?: boolean; noise?: NativeBuffer } = {}): void {
    const { core, shape, image } = this
    const amounts = o.after ? { ...this.#before, index: clock.row } : undefined
    // The forward process draws from its own stream, so that the steps' noise stays what it is without a mask.
    noiseImage(queue, core, {
      ...{ shape, image, clock, amounts, noise: o.noise },
      ...{ purpose: Purpose.training, y: this.#noisy },
    })
    this.#blend(queue, x, this.#noisy)
  }

  blendClean(queue: RunQueue, x: NativeBuffer): void {
    this.#blend(queue, x, this.image)
  }

  /** A product by elements: each element is a sample of its own, whose "timestep" is its place in the mask. */
  #blend(queue: RunQueue, x: NativeBuffer, known: NativeBuffer): void {
    const size = sizeOf(this.shape)
    const program = this.core.program('blend', { size }, (g) => {
      const [state, image, keep, change] = ['x', 'known', 'keep', 'change'].map((name) =>
        g.input(name, [size, 1, 1, 1]),
      )
      return { y: g.timestepAffine(state, change, g.input('index', [size, 1, 1, 1], 'i32'), image, keep) }
    })
    const { keep, change, index } = this
    queue.add(program, { x, known, keep, change, index, y: x })
  }

  release(): void {
    const { a, b } = this.#before
    for (const buffer of [this.image, this.keep, this.change, this.index, this.#noisy, a, b]) buffer.release()
  }
}

/** The mask for every element. */
async function spread(mask: Tensor, shape: Shape): Promise<Float32Array> {
  const fits = mask.shape.length === shape.length && mask.shape.every((v, i) => v === shape[i] || (v === 1 && i < 2))
  const values = fits ? await mask.data() : new Float32Array()
  if (!fits || values.some((v) => !(v >= 0 && v <= 1))) {
    const expected = `numbers from 0 to 1 of shape [${shape.join(', ')}], the first two of which may be 1`
    throw invalidArgument('mask', expected, mask)
  }
  const [n, c, ...rest] = shape
  const size = sizeOf(rest)
  const result = new Float32Array(n * c * size)
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < c; k++) {
      const from = ((mask.shape[0] === 1 ? 0 : i) * mask.shape[1] + (mask.shape[1] === 1 ? 0 : k)) * size
      result.set(values.subarray(from, from + size), (i * c + k) * size)
    }
  }
  return result
}

/** The steps that image to image takes: the last `strength` of them, as diffusers' get_timesteps. */
export function lastPart<T>(steps: readonly T[], strength = 1): T[] {
  const kept = Math.min(Math.floor(steps.length * strength), steps.length)
  if (kept > 0) return steps.slice(steps.length - kept)
  throw invalidArgument('strength', `at least 1/${steps.length}, a step, or 0, the image itself`, strength)
}
