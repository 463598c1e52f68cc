/** What first stages with a network have in common: maps through encoder and decoder, whole or in tiles; files of theirs. */
import { writeAutoencoderFolder } from '../checkpoint/diffusers/autoencoder'
import type { JsonObject } from '../checkpoint/json'
import { DiffusionError, invalidArgument } from '../errors'
import type { Graph } from '../graph'
import { Autoencoder } from '../nn/autoencoder/autoencoder'
import {
  type DiffusersAutoencoderClass,
  type DiffusersAutoencoderConfig,
  diffusersAutoencoder,
  diffusersAutoencoderConfig,
} from '../nn/autoencoder/diffusers'
import { inLayout, inOwnLayout } from '../nn/autoencoder/layouts'
import { type AutoencoderConfig, type AutoencoderShape, autoencoderShape, ddconfigOf } from '../nn/autoencoder/options'
import type { StateDict } from '../nn/weights'
import {
  boolean,
  integer,
  number,
  type Parsed as ParsedOptions,
  parseOptions,
  type SchemaOf,
  string,
  value,
} from '../options'
import { checkTensor, type Shape, sizeOf, Tensor } from '../tensor'
import {
  ownWeights,
  readStageWeights,
  type StageCkptOptions,
  type StageCkptReport,
  stageCkptSchema,
} from './checkpoint'
import { Stage, type StageLoadOptions, type StageOptions, stageSchema, type WeightsSource } from './stage'
import { add, cut, type HostMap, placesOf, weightsOf } from './tiles'

/** Of every first stage with a network, wherever that comes from. */
export interface TilingOptions extends StageOptions {
  /**
   * Images larger than a tile, and their latents, go through the network in tiles, blended where they overlap: bounded memory. Norms
   * and attention then see a tile alone, and the encoder no pixels beyond a multiple of `factor`. Default false.
   */
  useTiling?: boolean
  /** Height and width of a tile in pixels. Default: the configuration's resolution. */
  tileSampleMinSize?: number
  /** What part of a tile's height and width it shares with each neighbour at least, from 0 to 0.5. Default 0.25. */
  tileOverlapFactor?: number
}

/** What the constructors of AutoencoderKL, VQModel and VQModelInterface take beside their own options. */
export interface FirstStageOptions extends TilingOptions {
  /** Encoder and decoder: latent-diffusion's `ddconfig`, camelCased. */
  ddconfig: AutoencoderConfig
  /** Channels of the latents. */
  embedDim: number
}

export const firstStageSchema = {
  ...stageSchema,
  ddconfig: value<AutoencoderConfig>('an object', (v) => typeof v === 'object' && v !== null && !Array.isArray(v)),
  embedDim: integer(undefined, { min: 1, max: 2 ** 14 }),
  useTiling: boolean(false),
  tileSampleMinSize: integer(undefined, { min: 1 }),
  tileOverlapFactor: number(0.25, { min: 0, max: 0.5 }),
} satisfies SchemaOf<FirstStageOptions>

/** Of the methods that take time. */
export interface FirstStageRunOptions {
  /** Ends it between two tiles, with `aborted`. Default: none. */
  signal?: AbortSignal
}

export const runSchema = {
  signal: value<AbortSignal>('an AbortSignal', (v) => v instanceof AbortSignal),
} satisfies SchemaOf<FirstStageRunOptions>

/** Of fromPretrained and fromDiffusers. */
export interface PretrainedFirstStageOptions extends TilingOptions {
  /** Of the file with the weights, such as 'fp16'. Default: none. */
  variant?: string
}

const { ddconfig: _ddconfig, embedDim: _embedDim, ...ofStage } = firstStageSchema
export const pretrainedFirstStageSchema = {
  ...ofStage,
  variant: string(),
} satisfies SchemaOf<PretrainedFirstStageOptions>

/** Of savePretrained. */
export interface FirstStageSaveOptions {
  /** 'fp16' writes half precision, in a file of that name. Default: float32. */
  variant?: string
  /** Of a file's tensors, in bytes; where all are more, there are several. Default: no limit. */
  maxShardSize?: number
  /** What pipelines are to multiply its latents by. Default: its own scalingFactor, or 0.18215. */
  scalingFactor?: number
}

const saveSchema = {
  scalingFactor: number(),
  variant: string(),
  maxShardSize: integer(undefined, { min: 1 }),
} satisfies SchemaOf<FirstStageSaveOptions>

/** What a first stage is made of: of its own options, or of a configuration of diffusers'. */
export interface FirstStageParts {
  readonly shape: AutoencoderShape
  readonly embedDim: number
  readonly nEmbed?: number
  readonly scalingFactor?: number
  readonly source?: WeightsSource
}

/** Options as `firstStageSchema` gives them back. */
type Parsed = ParsedOptions<typeof firstStageSchema>

/** The parts that options ask for. Throws `invalid-argument`. */
export function partsOf(o: Pick<Parsed, 'ddconfig' | 'embedDim'>, nEmbed?: number): FirstStageParts {
  if (!o.ddconfig) throw invalidArgument('ddconfig', 'an object', o.ddconfig)
  if (o.embedDim === undefined) throw invalidArgument('embedDim', 'channels of the latents', o.embedDim)
  return { shape: autoencoderShape(o.ddconfig), embedDim: o.embedDim, nEmbed }
}

/** What `config` says of the network: ddconfig, embedDim and nEmbed, or diffusers' configuration. */
const networkSchema = {
  ddconfig: firstStageSchema.ddconfig,
  embedDim: firstStageSchema.embedDim,
  nEmbed: integer(undefined, { min: 1, max: 2 ** 24 }),
  scalingFactor: number(),
  diffusers: value<DiffusersAutoencoderConfig>('an object', (v) => typeof v === 'object' && v !== null),
}

/** The parts of a stage by its `config`. Throws `invalid-argument`, `unknown-option` and `unsupported`. */
export function partsOfConfig(kind: DiffusersAutoencoderClass, config: JsonObject): FirstStageParts {
  const { diffusers, nEmbed, scalingFactor, ...o } = parseOptions(`firstStage (${kind})`, config, networkSchema)
  if (diffusers) return diffusersAutoencoder(kind, diffusers)
  if (kind === 'VQModel' && nEmbed === undefined) throw invalidArgument('nEmbed', 'entries of the codebook', nEmbed)
  return { ...partsOf(o, nEmbed), scalingFactor }
}

export abstract class FirstStage extends Stage {
  /** @internal */
  readonly network: Autoencoder
  /** Channels of the latents. */
  readonly embedDim: number
  /** What pipelines multiply its latents by: diffusers' scaling_factor; undefined where no file says it. */
  readonly scalingFactor?: number
  /** Its class. */
  readonly #kind: string
  readonly #tiling: { use: boolean; readonly size: number; readonly overlap: number }

  protected constructor(owner: string, o: Parsed, { shape, embedDim, nEmbed, scalingFactor, source }: FirstStageParts) {
    const codebook = nEmbed === undefined ? undefined : { nE: nEmbed, eDim: embedDim, beta: 0.25, legacy: true }
    const network = new Autoencoder(shape, embedDim, codebook)
    const size = o.tileSampleMinSize ?? Math.max(shape.resolution, network.factor)
    if (size < network.factor) throw invalidArgument('tileSampleMinSize', `at least ${network.factor}`, size)
    super(owner, network.parameters, o, source)
    this.#kind = owner
    this.network = network
    this.embedDim = embedDim
    this.scalingFactor = scalingFactor
    this.#tiling = { use: o.useTiling, size, overlap: o.tileOverlapFactor }
  }

  /** What makes it again, as plain JSON: `kind`, its class, and the network; without tiling, device, seed and precision. */
  get config(): JsonObject {
    const { shape, embedDim, codebook } = this.network
    const { scalingFactor } = this
    const kind = this.#kind
    if (shape.layout === 'diffusers') return { kind, diffusers: this.#diffusersConfig() }
    const ofCodebook = codebook && { nEmbed: codebook.nE }
    return { kind, ddconfig: ddconfigOf(shape), embedDim, ...ofCodebook, ...(scalingFactor && { scalingFactor }) }
  }

  #diffusersConfig(scalingFactor = this.scalingFactor ?? defaultScalingFactor): Record<string, unknown> {
    const { shape, embedDim, codebook } = this.network
    return diffusersAutoencoderConfig({ shape, embedDim, nEmbed: codebook?.nE, scalingFactor })
  }

  /** What each side of an image is divided by for its latents, rounded down. */
  get factor(): number {
    return this.network.factor
  }

  /** diffusers' enable_tiling, and with false disable_tiling; see `useTiling`. */
  enableTiling(useTiling = true): void {
    if (typeof useTiling !== 'boolean') throw invalidArgument('useTiling', 'true or false', useTiling)
    this.#tiling.use = useTiling
  }

  /** The encoder's output for images [n, c, h, w]. */
  protected async encoded(x: Tensor, signal: AbortSignal | undefined): Promise<Tensor> {
    checkMap(x, 'x', this.network.shape.inChannels, this.factor)
    return this.#map('encode', x, signal)
  }

  /** The decoder's output for latents [n, embedDim, h, w]. */
  protected async decoded(z: Tensor, signal: AbortSignal | undefined): Promise<Tensor> {
    checkMap(z, 'z', this.embedDim, 1)
    return this.#map('decode', z, signal)
  }

  /**
   * The gradient of the sum of `gradient` times the images of latents z [n, embedDim, h, w], with respect to z. Throws `unsupported` for
   * latents that are decoded in tiles.
   */
  async decodeGradient(z: Tensor, gradient: Tensor): Promise<Tensor> {
    checkMap(z, 'z', this.embedDim, 1)
    const [n, channels, height, width] = z.shape
    checkTensor(gradient, 'gradient', this.#outShape('decode', z.shape))
    if (this.#tiling.use && Math.max(height, width) > Math.floor(this.#tiling.size / this.factor)) {
      throw new DiffusionError('unsupported', 'decodeGradient: latents larger than a tile', { argument: 'useTiling' })
    }
    const build = (g: Graph) => {
      const flat = g.input('z', [n, 1, 1, channels * height * width])
      const map = g.toNhwc(flat, { channels, height, width })
      const images = g.untrained(() => g.toNchw(this.network.decode({ graph: g, train: false }, map)))
      const elements = g.reshape(images, [gradient.size, 1, 1, 1])
      const [dz] = g.backward(g.weightedSum(elements, g.input('gradient', elements.dims)), [flat])
      return { dz: dz! }
    }
    return this.call(async () => {
      const program = await this.program('decodeGradient', { n, height, width }, build)
      const [given, upstream] = [await z.binding(this.device), await gradient.binding(this.device)]
      const { dz } = await program.run({ frozen: this.weights.bank('weights'), z: given, gradient: upstream })
      return Tensor.wrap(dz, z.shape)
    })
  }

  /** Whole, or in tiles where they are wanted and x is larger than one. Tiles are counted in latents. */
  async #map(kind: 'encode' | 'decode', x: Tensor, signal: AbortSignal | undefined): Promise<Tensor> {
    checkSignal(signal)
    const { factor } = this
    const [from, to] = kind === 'encode' ? [factor, 1] : [1, factor]
    const { use, size, overlap } = this.#tiling
    const tile = Math.floor(size / factor)
    const [down, across] = x.shape.slice(2).map((extent) => placesOf(Math.floor(extent / from), tile, overlap))
    if (!use || (down.starts.length === 1 && across.starts.length === 1)) return this.#pass(kind, x)
    return this.call(async () => {
      const given: HostMap = { shape: x.shape, data: (await x.values()) as Float32Array }
      const shape = this.#outShape(kind, x.shape)
      const whole: HostMap = { shape, data: new Float32Array(sizeOf(shape)) }
      const [rows, columns] = [weightsOf(down, to), weightsOf(across, to)]
      for (const [i, top] of down.starts.entries()) {
        for (const [j, left] of across.starts.entries()) {
          checkSignal(signal)
          const place = { top: from * top, left: from * left, height: from * down.size, width: from * across.size }
          const part = cut(given, place)
          const y = await this.#pass(kind, Tensor.wrap(part.data, part.shape))
          const made = { shape: y.shape, data: (await y.values()) as Float32Array }
          add(whole, made, { top: to * top, left: to * left, rows: rows[i], columns: columns[j] })
        }
      }
      return Tensor.wrap(whole.data, shape)
    })
  }

  async #pass(kind: 'encode' | 'decode', x: Tensor): Promise<Tensor> {
    const [n, channels, height, width] = x.shape
    const build = (graph: Graph) => {
      const map = graph.toNhwc(graph.input('x', [n, 1, 1, channels * height * width]), { channels, height, width })
      return { y: graph.toNchw(this.network[kind]({ graph, train: false }, map)) }
    }
    const { y } = await this.compute(kind, { n, height, width }, build, { x: await x.binding(this.device) })
    return Tensor.wrap(y, this.#outShape(kind, x.shape))
  }

  #outShape(kind: 'encode' | 'decode', [n, , height, width]: Shape): Shape {
    const { shape, embedDim, factor } = this.network
    if (kind === 'encode') {
      return [n, (shape.doubleZ ? 2 : 1) * embedDim, Math.floor(height / factor), Math.floor(width / factor)]
    }
    return [n, shape.givePreEnd ? shape.channels[0] : shape.outChannels, height * factor, width * factor]
  }

  /** Channels of the images that it decodes. */
  get outChannels(): number {
    return this.network.shape.outChannels
  }

  /**
   * Replaces the weights, by the names of either layout: latent-diffusion's or diffusers'. Throws `state-mismatch` for wrong shapes,
   * missing and unexpected names, before anything is changed.
   */
  override async loadStateDict(dict: StateDict, options: StageLoadOptions = {}): Promise<StageCkptReport> {
    return super.loadStateDict(await inOwnLayout(this.network, dict), options)
  }

  /**
   * autoencoder.py's init_from_ckpt: the weights of a checkpoint or safetensors file, of a first stage or of a model that has one
   * (first_stage_model), by the names of either layout. What the file has not stays as it is, what the network has not (loss) is
   * reported. Throws `not-found`, `io`, `bad-file`, and `state-mismatch` for wrong shapes and a file without a first stage.
   */
  async initFromCkpt(path: string, options: StageCkptOptions = {}): Promise<StageCkptReport> {
    const o = parseOptions('initFromCkpt', options, stageCkptSchema)
    return this.call(async () => {
      const found = await readStageWeights(path, anchors, o)
      return this.replaceWeights(await inOwnLayout(this.network, found), { strict: false })
    })
  }

  /**
   * Writes a folder that fromPretrained and diffusers open. Throws `io`, and `unsupported` for what diffusers' class can't express, and
   * with a weightFormat.
   */
  async savePretrained(folder: string, options: FirstStageSaveOptions = {}): Promise<void> {
    this.parameters.requireWide('savePretrained')
    const { scalingFactor, ...o } = parseOptions('savePretrained', options, saveSchema)
    const config = this.#diffusersConfig(scalingFactor)
    const dict = await inLayout(this.network, await this.stateDict(), 'diffusers')
    await writeAutoencoderFolder(folder, this.network.codebook ? 'VQModel' : 'AutoencoderKL', { config, dict }, o)
  }
}

/** The weights of an autoencoder's own checkpoint, or of a model's that has it, by the names of either layout. */
export function checkpointSource(path: string, o: StageCkptOptions, stage: () => FirstStage): WeightsSource {
  return async () => {
    const { network } = stage()
    return ownWeights(network.parameters, await inOwnLayout(network, await readStageWeights(path, anchors, o)), path)
  }
}

/** A parameter of every autoencoder. */
const anchors = ['encoder.conv_in.weight']

/** AutoencoderKL's and VQModel's own. */
const defaultScalingFactor = 0.18215

/** Throws unless x is a float32 map of so many channels, with `least` pixels each way. */
export function checkMap(x: Tensor, argument: string, channels: number, least: number): void {
  checkTensor(x, argument)
  const { shape } = x
  if (shape.length === 4 && shape[0] > 0 && shape[1] === channels && shape[2] >= least && shape[3] >= least) return
  throw invalidArgument(argument, `shape [n, ${channels}, height, width], height and width of at least ${least}`, shape)
}

function checkSignal(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new DiffusionError('aborted', 'the first stage was aborted', { cause: signal.reason })
}
