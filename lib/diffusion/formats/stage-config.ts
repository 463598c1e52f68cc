/** Stages as plain JSON and back: a stage's `config`, whose `kind` names its class here. */
import { isObject, type JsonObject } from '../../checkpoint/json'
import { DiffusionError, invalidArgument } from '../../errors'
import { AutoencoderKL } from '../../stages/autoencoder-kl'
import { ClassEmbedder, type ClassEmbedderOptions } from '../../stages/class-embedder'
import { partsOfConfig } from '../../stages/first-stage'
import { IdentityFirstStage } from '../../stages/identity'
import { SpatialRescaler } from '../../stages/spatial-rescaler'
import type { StageOptions, WeightsSource } from '../../stages/stage'
import { FrozenCLIPEmbedder } from '../../stages/text/clip'
import { FrozenOpenCLIPEmbedder } from '../../stages/text/open-clip'
import {
  BERTEmbedder,
  type BERTEmbedderOptions,
  TransformerEmbedder,
  type TransformerEmbedderOptions,
} from '../../stages/text/transformer'
import { VQModel, VQModelInterface } from '../../stages/vq-model'
import type { CondStage, FirstStage } from '../latent/stages'

/** How stages compute, and what text stages read prompts by. */
export interface StageSettings extends StageOptions {
  /** A folder. Default: none. */
  readonly tokenizer?: string
}

/** `own` is the configuration without its kind; weights are drawn without a source. */
type Make = (own: JsonObject, o: StageSettings, source?: WeightsSource) => FirstStage | CondStage

/** Of the user's files: checked by the constructors. */
const as = <T>(own: JsonObject, o: StageOptions) => ({ ...own, ...o }) as unknown as T

const codebook =
  (Kind: typeof VQModelInterface | typeof VQModel): Make =>
  ({ remap, saneIndexShape, ...own }, { tokenizer: _, ...o }, source) =>
    new Kind(as({ remap, saneIndexShape }, o), { ...partsOfConfig('VQModel', own), source }) as unknown as FirstStage

/** Classes that have no use for a tokenizer. */
const without =
  (make: (own: JsonObject, o: StageOptions, source?: WeightsSource) => FirstStage | CondStage): Make =>
  (own, { tokenizer: _, ...o }, source) =>
    make(own, o, source)

const firstStages: Readonly<Record<string, Make>> = {
  AutoencoderKL: without((own, o, source) => {
    return new AutoencoderKL(o, { ...partsOfConfig('AutoencoderKL', own), source })
  }),
  VQModelInterface: codebook(VQModelInterface),
  VQModel: codebook(VQModel),
  IdentityFirstStage: (own) => new IdentityFirstStage(own) as FirstStage,
}

const condStages: Readonly<Record<string, Make>> = {
  ...firstStages,
  ClassEmbedder: without((own, o, source) => new ClassEmbedder(as<ClassEmbedderOptions>(own, o), source)),
  SpatialRescaler: without((own, o, source) => new SpatialRescaler(as(own, o), source)),
  FrozenCLIPEmbedder: (own, o, source) => new FrozenCLIPEmbedder(as(own, o), source),
  FrozenOpenCLIPEmbedder: (own, o, source) => new FrozenOpenCLIPEmbedder(as(own, o), source),
  TransformerEmbedder: (own, o, source) => {
    return new TransformerEmbedder(as<TransformerEmbedderOptions>(own, o), source)
  },
  BERTEmbedder: (own, o, source) => new BERTEmbedder(as<BERTEmbedderOptions>(own, o), source),
}

/** Throws `invalid-argument`, `unknown-option` and `unsupported`. */
export function firstStageOf(config: unknown, o: StageOptions, source?: WeightsSource): FirstStage {
  return make(firstStages, { argument: 'firstStage', config }, o, source) as FirstStage
}

/** Throws `invalid-argument`, `unknown-option` and `unsupported`. */
export function condStageOf(config: unknown, o: StageSettings, source?: WeightsSource): CondStage {
  return make(condStages, { argument: 'condStage', config }, o, source) as CondStage
}

function make(
  kinds: typeof condStages,
  { argument, config }: { argument: string; config: unknown },
  o: StageSettings,
  source?: WeightsSource,
): FirstStage | CondStage {
  if (!isObject(config)) throw invalidArgument(argument, 'an object with a kind', config)
  const { kind, ...own } = config
  if (typeof kind === 'string' && Object.hasOwn(kinds, kind)) return kinds[kind](own, o, source)
  throw invalidArgument(`${argument}.kind`, `one of ${Object.keys(kinds).join(', ')}`, kind)
}

/** Throws `unsupported` for a stage of the user's own class. */
export function stageConfig(stage: FirstStage | CondStage, argument: string): JsonObject {
  const { config } = stage as { config?: unknown }
  if (isObject(config) && typeof config.kind === 'string' && Object.hasOwn(condStages, config.kind)) return config
  const message = `${argument}: only a stage of a class of this package has a configuration`
  throw new DiffusionError('unsupported', message, { argument, received: stage.constructor.name })
}
