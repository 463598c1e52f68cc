/** Encoding and decoding by the first stage, whole or by patches, and the scale between its latents and the model's. */
import { DiffusionError, describe, invalidArgument } from '../../errors'
import { checkTensor, Tensor } from '../../tensor'
import { type ParsedSplit, Patches, within } from './split-input'
import { type FirstStage, isPosterior, type Posterior } from './stages'

/** A first stage with a codebook: VQModelInterface. */
interface WithCodebook extends FirstStage {
  getCodebookEntry(indices: Tensor): Promise<Tensor>
  /** All entries, [n, c]. */
  codebook(): Promise<Tensor>
  decode(z: Tensor, options?: { forceNotQuantize?: boolean; signal?: AbortSignal }): Promise<Tensor>
}

/** Of latents that are no constant. */
const leastDeviation = 1e-6

/** Throws `invalid-argument` where it makes other latents than the model has, or none would be left of them. */
export function checkFirstStage({ embedDim }: FirstStage, channels: number, scaleFactor: number): void {
  if (embedDim !== undefined && embedDim !== channels) {
    throw invalidArgument('channels', `${embedDim}, which the first stage's latents have`, channels)
  }
  if (!(scaleFactor > 0)) throw invalidArgument('scaleFactor', 'a number above 0', scaleFactor)
}

/** The scale factor of a state dict. Throws `state-mismatch`. */
export async function scaleOf(tensor: Tensor): Promise<number> {
  const values = await tensor.values()
  const [scale] = values
  if (values.length === 1 && scale > 0 && Number.isFinite(scale)) return scale
  const message = `scale_factor: expected one number above 0, got ${values.length === 1 ? scale : describe(tensor)}`
  throw new DiffusionError('state-mismatch', message, { argument: 'scale_factor' })
}

function hasCodebook(stage: FirstStage): stage is WithCodebook {
  return typeof (stage as Partial<WithCodebook>).getCodebookEntry === 'function'
}

function codebookOf(stage: FirstStage, argument: 'predictCids' | 'quantizeDenoised'): WithCodebook {
  if (hasCodebook(stage)) return stage
  throw new DiffusionError('unsupported', `${argument}: the first stage has no codebook`, { argument })
}

/** What quantizeDenoised takes predictions to, [n, c]; undefined where it leaves them as they are. Throws `unsupported`. */
export async function quantizing(stage: FirstStage, quantizeDenoised = false): Promise<Tensor | undefined> {
  // IdentityFirstStage with vqInterface.
  if (!quantizeDenoised || (stage as { vqInterface?: boolean }).vqInterface) return undefined
  return codebookOf(stage, 'quantizeDenoised').codebook()
}

/** ddpm.py's encode_first_stage. By patches only tensors can be put together: a KL first stage can't encode that way. */
export async function encodeFirstStage(stage: FirstStage, x: Tensor, split?: ParsedSplit): Promise<Tensor | Posterior> {
  if (!split?.patchDistributedVq) return stage.encode(x)
  const size = [x.shape[2], x.shape[3]] as const
  const patches = new Patches(size, within(split, size), { down: split.vqf })
  const encoded: Tensor[] = []
  for (const patch of await patches.unfold(x)) {
    const z = await stage.encode(patch)
    if (isPosterior(z)) {
      const message = 'splitInputParams: a first stage whose latents are a distribution cannot encode by patches'
      throw new DiffusionError('unsupported', message, { argument: 'splitInputParams' })
    }
    encoded.push(z)
  }
  return patches.fold(encoded)
}

export interface DecodeSettings {
  readonly predictCids: boolean
  readonly forceNotQuantize: boolean
  readonly scale: number
  readonly split?: ParsedSplit
}

/** ddpm.py's decode_first_stage. z is divided by `scale` first; codes, too. */
export async function decodeFirstStage(stage: FirstStage, z: Tensor, o: DecodeSettings): Promise<Tensor> {
  const latents = await scaled(o.predictCids ? await entries(stage, z) : z, 1 / o.scale)
  const forceNotQuantize = o.predictCids || o.forceNotQuantize
  const decode = (part: Tensor) => (hasCodebook(stage) ? stage.decode(part, { forceNotQuantize }) : stage.decode(part))
  if (!o.split?.patchDistributedVq) return decode(latents)
  const size = [latents.shape[2], latents.shape[3]] as const
  const patches = new Patches(size, within(o.split, size), { up: o.split.vqf })
  const decoded: Tensor[] = []
  for (const patch of await patches.unfold(latents)) decoded.push(await decode(patch))
  return patches.fold(decoded)
}

/** What a gradient of decodeFirstStage's images is to z. Throws `unsupported`. */
export async function decodeGradient(
  stage: FirstStage,
  z: Tensor,
  gradient: Tensor,
  o: DecodeSettings,
): Promise<Tensor> {
  const refused = (reason: string, argument: string) =>
    new DiffusionError('unsupported', `differentiableDecodeFirstStage: ${reason}`, { argument })
  if (o.predictCids) throw refused('codes have no gradient', 'predictCids')
  if (!stage.decodeGradient) throw refused('the first stage has no decodeGradient', 'firstStage')
  const options = hasCodebook(stage) ? [{ forceNotQuantize: o.forceNotQuantize }] : []
  const of = (part: Tensor, upstream: Tensor) => stage.decodeGradient!(part, upstream, ...options)
  const latents = await scaled(z, 1 / o.scale)
  if (!o.split?.patchDistributedVq) return scaled(await of(latents, gradient), 1 / o.scale)
  const size = [latents.shape[2], latents.shape[3]] as const
  const patches = new Patches(size, within(o.split, size), { up: o.split.vqf })
  const upstream = await patches.foldGradient(gradient)
  const parts: Tensor[] = []
  for (const [i, patch] of (await patches.unfold(latents)).entries()) parts.push(await of(patch, upstream[i]))
  return scaled(await patches.unfoldGradient(parts), 1 / o.scale)
}

/** The codebook's entries of logits [n, codes, h, w], of which the greatest counts, or of numbers [n, h, w]: [n, c, h, w]. */
async function entries(stage: FirstStage, z: Tensor): Promise<Tensor> {
  if (z.shape.length !== 3 && z.shape.length !== 4) {
    throw invalidArgument('z', 'logits [n, codes, h, w], or codes [n, h, w]', z)
  }
  const codes = z.shape.length === 4 ? await greatest(z) : z
  const found = await codebookOf(stage, 'predictCids').getCodebookEntry(codes)
  const [n, h, w] = codes.shape
  const channels = found.size / (n * h * w)
  const values = await found.data()
  const data = new Float32Array(values.length)
  const area = h * w
  for (let i = 0; i < n * area; i++) {
    const [sample, pixel] = [Math.floor(i / area), i % area]
    for (let c = 0; c < channels; c++) data[(sample * channels + c) * area + pixel] = values[i * channels + c]
  }
  return Tensor.wrap(data, [n, channels, h, w])
}

async function greatest(logits: Tensor): Promise<Tensor> {
  const [n, codes, h, w] = logits.shape
  const values = await logits.data()
  const area = h * w
  const numbers = new Int32Array(n * area)
  for (let i = 0; i < numbers.length; i++) {
    const first = Math.floor(i / area) * codes * area + (i % area)
    let best = 0
    for (let code = 1; code < codes; code++) if (values[first + code * area] > values[first + best * area]) best = code
    numbers[i] = best
  }
  return Tensor.wrap(numbers, [n, h, w])
}

export async function scaled(x: Tensor, factor: number): Promise<Tensor> {
  checkTensor(x, 'z')
  if (factor === 1) return x
  return Tensor.wrap(
    (await x.data()).map((v) => v * factor),
    x.shape,
  )
}

/** The scale factor of a first batch: 1 / torch's std, unbiased, over all elements. Throws `not-finite` where they hardly differ. */
export async function scaleByStd(z: Tensor): Promise<number> {
  const values = await z.data()
  let mean = 0
  for (const v of values) mean += v / values.length
  let sum = 0
  for (const v of values) sum += (v - mean) ** 2
  const deviation = Math.sqrt(sum / (values.length - 1))
  if (deviation > leastDeviation && deviation < Number.POSITIVE_INFINITY) return 1 / deviation
  const message = `scaleByStd: the first batch's latents have a standard deviation of ${deviation}`
  throw new DiffusionError('not-finite', message, { argument: 'scaleByStd' })
}
