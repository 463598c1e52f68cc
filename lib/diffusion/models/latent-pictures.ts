/** ddpm.py's LatentDiffusion.log_images: what a batch becomes in each part of the model, as pictures. */

import type { Seed } from '../../options'
import { sizeOf, Tensor } from '../../tensor'
import { type Cond, type ConditioningKey, firstRows } from '../latent/conditioning'
import type { CondStage, FirstStage } from '../latent/stages'
import { toRgb } from '../latent/to-rgb'
import type { LatentLoggedImages } from '../options/latent-options'
import { checkAborted, type LoopResult } from '../sampling/loop'
import type { Batch } from './batch'
import type { LatentInput } from './latent-model'
import { imageRows } from './make-grid'

/** What of a model is shown. */
export interface PicturedModel {
  readonly seed: Seed
  readonly numTimesteps: number
  readonly logEveryT: number
  readonly firstStageModel: FirstStage
  readonly condStageModel?: CondStage
  readonly condStageKey: string
  readonly conditioningKey?: ConditioningKey
  getLatentInput(batch: Batch, stream: { seed?: Seed }): Promise<LatentInput>
  decodeFirstStage(z: Tensor): Promise<Tensor>
  emaScope<T>(fn: () => Promise<T>): Promise<T>
  qSample(z: Tensor, t: number, noise?: Tensor): Promise<Tensor>
}

/** The options, and samplings of latents of z's shape. */
export interface PicturesOptions {
  readonly N: number
  readonly nRow: number
  readonly sample: boolean
  readonly quantizeDenoised: boolean
  readonly inpaint: boolean
  readonly plotDenoiseRows: boolean
  readonly plotProgressiveRows: boolean
  readonly plotDiffusionRows: boolean
  readonly returnKeys?: readonly string[]
  readonly seed?: Seed
  readonly signal?: AbortSignal
  noise(z: Tensor, t: number): Promise<Tensor | undefined>
  draw(z: Tensor, o: { cond?: Cond; quantizeDenoised?: boolean; image?: Tensor; mask?: Tensor }): Promise<LoopResult>
  progress(z: Tensor, cond: Cond | undefined): Promise<readonly Tensor[]>
}

export async function latentPictures(
  model: PicturedModel,
  batch: Batch,
  o: PicturesOptions,
): Promise<Partial<LatentLoggedImages>> {
  const known = o.returnKeys?.filter((key) => allKeys.includes(key)) ?? []
  const wants = (...keys: (keyof LatentLoggedImages)[]) => known.length === 0 || keys.some((key) => known.includes(key))
  const first = await firstOf(batch, o.N)
  const { x, z, xc, c } = await model.getLatentInput(first, { seed: o.seed })
  const decode = (latents: Tensor) => {
    checkAborted(o.signal)
    return model.decodeFirstStage(latents)
  }
  const rows = async (states: readonly Tensor[]) => {
    const decoded: Tensor[] = []
    for (const state of states) decoded.push(await decode(state))
    return imageRows(decoded)
  }
  const log: Partial<LatentLoggedImages> = { inputs: x }
  if (wants('reconstruction')) log.reconstruction = await decode(z)
  if (model.conditioningKey) Object.assign(log, await conditionPictures(model, first, { xc, c }))
  if (o.plotDiffusionRows && wants('diffusionRow')) log.diffusionRow = await rows(await noisyStates(model, z, o))
  if (o.sample) {
    const drawn = (own: object) => model.emaScope(() => o.draw(z, { ...(c && { cond: c }), ...own }))
    if (wants('samples') || (o.plotDenoiseRows && wants('denoiseRow'))) {
      const { samples, intermediates } = await drawn({})
      log.samples = await decode(samples)
      if (o.plotDenoiseRows) log.denoiseRow = await rows(intermediates)
    }
    if (o.quantizeDenoised && 'codebook' in model.firstStageModel && wants('samplesX0Quantized')) {
      log.samplesX0Quantized = await decode((await drawn({ quantizeDenoised: true })).samples)
    }
    if (o.inpaint && wants('samplesInpainting', 'samplesOutpainting', 'mask')) {
      const inner = centre(z, 0)
      log.samplesInpainting = await decode((await drawn({ image: z, mask: inner })).samples)
      log.mask = inner
      log.samplesOutpainting = await decode((await drawn({ image: z, mask: centre(z, 1) })).samples)
    }
  }
  if (o.plotProgressiveRows && wants('progressiveRow')) {
    log.progressiveRow = await rows(await model.emaScope(() => o.progress(z, c)))
  }
  const found = known.filter((key) => key in log)
  if (found.length === 0) return log
  return Object.fromEntries(found.map((key) => [key, log[key as keyof LatentLoggedImages]]))
}

const allKeys = [
  ...['inputs', 'reconstruction', 'conditioning', 'originalConditioning', 'diffusionRow', 'samples', 'denoiseRow'],
  ...['samplesX0Quantized', 'samplesInpainting', 'samplesOutpainting', 'mask', 'progressiveRow'],
]

/** The first n of a batch, of tensors and of lists. */
async function firstOf(batch: Batch, n: number): Promise<Batch> {
  const cut = async (entry: unknown) => {
    if (Array.isArray(entry)) return entry.slice(0, n)
    if (entry instanceof Tensor && entry.shape.length > 0) return firstRows(entry, Math.min(n, entry.shape[0]))
    return entry
  }
  const entries = Object.entries(batch).map(async ([key, entry]) => [key, await cut(entry)] as const)
  return Object.fromEntries(await Promise.all(entries)) as Batch
}

/** What the condition looks like: decoded, as the texts that it was, or as the image that it is. */
async function conditionPictures(
  { condStageModel: stage, condStageKey: key, seed }: PicturedModel,
  batch: Readonly<Record<string, unknown>>,
  { xc, c }: Pick<LatentInput, 'xc' | 'c'>,
): Promise<Partial<LatentLoggedImages>> {
  const decode = (stage as { decode?: (c: Tensor | undefined) => Promise<Tensor> } | undefined)?.decode
  const channels = xc instanceof Tensor && xc.shape.length === 4 ? xc.shape[1] : 0
  const original = channels > 3 ? { originalConditioning: await toRgb(xc as Tensor, seed) } : {}
  if (typeof decode === 'function') return { conditioning: await decode.call(stage, c), ...original }
  const texts = key === 'caption' ? batch.caption : key === 'class_label' ? batch.human_label : undefined
  if (Array.isArray(texts)) return { conditioning: texts, ...original }
  if (channels === 1 || channels === 3) return { conditioning: xc as Tensor }
  return original
}

/** Latents with the noise of every logEveryT'th timestep and the last. */
async function noisyStates(model: PicturedModel, z: Tensor, o: PicturesOptions): Promise<Tensor[]> {
  const few = await firstRows(z, Math.min(z.shape[0], o.nRow))
  const states: Tensor[] = []
  const last = model.numTimesteps - 1
  for (let t = 0; t <= last; t++) {
    if (t % model.logEveryT !== 0 && t !== last) continue
    states.push(await model.qSample(few, t, await o.noise(few, t)))
  }
  return states
}

/** A mask that has `inside` in its middle half each way, and the other number around it. */
function centre({ shape: [n, , h, w] }: Tensor, inside: 0 | 1): Tensor {
  const data = new Float32Array(sizeOf([n, 1, h, w]))
  const within = (v: number, size: number) => v >= Math.floor(size / 4) && v < Math.floor((3 * size) / 4)
  for (let i = 0; i < data.length; i++) {
    const [y, x] = [Math.floor(i / w) % h, i % w]
    data[i] = within(y, h) && within(x, w) ? inside : 1 - inside
  }
  return Tensor.wrap(data, [n, 1, h, w])
}
