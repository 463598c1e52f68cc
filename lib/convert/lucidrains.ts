/** Checkpoints of lucidrains' denoising-diffusion-pytorch: its Trainer's model-N.pt, or a state dict of its GaussianDiffusion. */
import { type FoundWeights, findWeights, isAverage, type NamedDict } from '../checkpoint/find-weights'
import { plainTensors } from '../checkpoint/plain-numbers'
import { checkKey, openStateDictFile, readShapes } from '../checkpoint/state-dict-file'
import { readYaml } from '../checkpoint/yaml'
import { emaName, modelPrefix } from '../diffusion/formats/state'
import { DDPM } from '../diffusion/models/ddpm'
import type { DDPMOptions } from '../diffusion/options/ddpm-options'
import type { ComputeOptions } from '../diffusion/process/model-options'
import type { Parameterization } from '../diffusion/process/prediction'
import { DiffusionError } from '../errors'
import { inferLucidrainsOptions, lucidrainsAnchor } from '../nn/lucidrains/infer'
import { checkUNetFits } from '../nn/unet-fit'
import type { StateDict } from '../nn/weights'
import { integer, oneOf, parseOptions } from '../options'
import { configBeside } from './locate'

export interface LucidrainsOptions {
  /** Default 'ema' where there are averages; 'both': the averages too, as the model's own. */
  readonly weights?: 'ema' | 'model' | 'both'
  /** Which dict of the file: 'ema' or 'model'. Default: by `weights`. */
  readonly key?: string
  /** A YAML file of what the checkpoint does not say: image_size, objective. Default: the one beside it, if there is one. */
  readonly config?: string
}

/** GaussianDiffusion's objectives. */
const objectives: Readonly<Record<string, Parameterization>> = { pred_noise: 'eps', pred_x0: 'x0', pred_v: 'v' }

const configSchema = {
  image_size: integer(undefined, { min: 1 }),
  objective: oneOf(['pred_noise', 'pred_x0', 'pred_v']),
}

/** Whether a file has weights of that Unet, of any version. */
export async function isLucidrains(file: string): Promise<boolean> {
  let found = false
  await readShapes(file, (dicts) => {
    found = findWeights(dicts, [lucidrainsAnchor]).length > 0
    return { key: '', wanted: () => false }
  })
  return found
}

/**
 * The model of such a checkpoint. Its options follow from names and shapes, its betas from the buffer, its objective from the
 * weights of the loss; what was assumed is among its `warnings()`. Throws `bad-file`, `unsupported`, `state-mismatch`.
 */
export async function loadLucidrains(
  file: string,
  o: LucidrainsOptions,
  settings: ComputeOptions,
): Promise<{ ddpm: DDPM; counters: Readonly<Record<string, number>> }> {
  const config = o.config ?? (await configBeside(file).catch(() => undefined))
  const given = parseOptions(config ?? 'config', config === undefined ? {} : await readYaml(config), configSchema)
  const { network, buffers, counters, averaged } = await read(file, o.weights === 'model' ? 'model' : 'ema', o.key)
  const both = o.weights === 'both' && averaged && o.key === undefined
  const trained = both ? (await read(file, 'model')).network : network
  const { image_size: imageSize } = given
  const unetConfig = { ...inferLucidrainsOptions(network, file), ...(imageSize !== undefined && { imageSize }) }
  checkUNetFits(unetConfig, network, file)
  const warnings: string[] = []
  const { parameterization, minSnrGamma } = await objectiveOf(file, buffers, given.objective, warnings)
  if (imageSize === undefined) {
    warnings.push(`${file} does not say the size of its images: taken for 128; 'image_size' of a configuration says it`)
  }
  const options: DDPMOptions = {
    givenBetas: await bufferOf(file, buffers, 'betas'),
    parameterization,
    ...(minSnrGamma !== undefined && { minSnrGamma }),
    ...(unetConfig.learnedVariance && { varianceType: 'learned_range' }),
    unetConfig,
    useEma: both,
  }
  const ddpm = new DDPM({ ...options, ...settings })
  try {
    const dict: StateDict = {}
    for (const [name, tensor] of Object.entries(trained)) dict[modelPrefix + name] = tensor
    if (both) for (const [name, tensor] of Object.entries(network)) dict[emaName(name)] = tensor
    // Names beside the network's are another's; those that the network lacks were checked.
    await ddpm.loadStateDict(dict, { strict: false })
    ddpm.warn(warnings)
    return { ddpm, counters }
  } catch (error) {
    ddpm.dispose()
    throw error
  }
}

interface Read {
  /** By Unet's names. */
  readonly network: StateDict
  /** GaussianDiffusion's. */
  readonly buffers: StateDict
  readonly counters: Readonly<Record<string, number>>
  readonly averaged: boolean
}

async function read(file: string, weights: 'ema' | 'model', key?: string): Promise<Read> {
  let place: FoundWeights = { key: '', prefix: '' }
  const choose = (dicts: readonly NamedDict[]) => {
    if (key !== undefined) checkKey(key, dicts)
    const among = key === undefined ? dicts : dicts.filter((dict) => dict.key === key)
    place = findWeights(among, [lucidrainsAnchor], weights)[0] ?? place
    const outer = outerOf(place.prefix)
    return { key: place.key, wanted: (name: string) => name.startsWith(outer) }
  }
  const { tensors, counters, budget } = await openStateDictFile(file, choose)
  const [network, buffers]: StateDict[] = [Object.create(null), Object.create(null)]
  const { prefix } = place
  const outer = outerOf(prefix)
  for (const [name, tensor] of Object.entries(plainTensors(tensors, budget))) {
    if (prefix !== outer && !name.startsWith(prefix)) buffers[name.slice(outer.length)] = tensor
    else network[name.slice(prefix.length)] = tensor
  }
  return { network, buffers, counters, averaged: isAverage(place) }
}

/** What is before GaussianDiffusion's names, whose network is its `model`. */
function outerOf(prefix: string): string {
  return prefix === 'model.' || prefix.endsWith('.model.') ? prefix.slice(0, -'model.'.length) : prefix
}

async function bufferOf(file: string, buffers: StateDict, name: string): Promise<Float32Array> {
  const tensor = Object.hasOwn(buffers, name) ? buffers[name] : undefined
  if (tensor?.shape.length === 1 && tensor.dtype === 'float32') return tensor.data()
  const message = `${file} has no '${name}' of GaussianDiffusion: it is of a Unet alone, which \`new DDPM({ unetConfig: { architecture: 'lucidrains', ... } })\` and initFromCkpt open`
  throw new DiffusionError('bad-file', message, { argument: 'path', expected: name })
}

/** Relative, of what was computed in float32 from float64. */
const tolerance = 1e-3

/**
 * GaussianDiffusion weighs a loss by min(snr, gamma) / snr where it predicts the noise, by min(snr, gamma) for the image, and by
 * min(snr, gamma) / (snr + 1) for v; gamma is infinite without min_snr_loss_weight.
 */
async function objectiveOf(
  file: string,
  buffers: StateDict,
  given: string | undefined,
  warnings: string[],
): Promise<{ parameterization: Parameterization; minSnrGamma?: number }> {
  if (given !== undefined) return { parameterization: objectives[given] }
  if (Object.hasOwn(buffers, 'loss_weight')) {
    const weights = await bufferOf(file, buffers, 'loss_weight')
    const remaining = await bufferOf(file, buffers, 'alphas_cumprod')
    if (weights.length === remaining.length) {
      const snr = Array.from(remaining, (alpha) => alpha / (1 - alpha))
      for (const [objective, factor] of [
        ['pred_noise', (s: number) => s],
        ['pred_x0', () => 1],
        ['pred_v', (s: number) => s + 1],
      ] as const) {
        const clipped = snr.map((s, t) => weights[t] * factor(s))
        const gamma = clipped.reduce((most, v) => Math.max(most, v), 0)
        if (!clipped.every((v, t) => Math.abs(v - Math.min(snr[t], gamma)) <= tolerance * v)) continue
        const isPlain = objective === 'pred_noise' && weights.every((weight) => Math.abs(weight - 1) <= tolerance)
        return { parameterization: objectives[objective], ...(!isPlain && { minSnrGamma: gamma }) }
      }
    }
  }
  warnings.push(
    `${file} does not say what its network predicts: taken for pred_v; 'objective' of a configuration says it`,
  )
  return { parameterization: 'v' }
}
