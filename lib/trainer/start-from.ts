/** Where a training starts that is not from nothing: another model's options, weights and averages, and its classes. */
import { readSource } from '../convert/source'
import { emaName, modelPrefix } from '../diffusion/formats/state'
import type { DDPM } from '../diffusion/models/ddpm'
import { LatentDiffusion } from '../diffusion/models/latent-diffusion'
import { DiffusionError, invalidArgument } from '../errors'
import { augmentationLayer } from '../nn/unet/vector-embedding'
import type { StateDict } from '../nn/weights'
import { sizeOf, Tensor } from '../tensor'
import { checkIsTold } from '../train/network-options'
import type { ModelConfig, ResolvedTrainOptions } from '../train/options'

/** What the class labels' table is called in either layout. */
const labelTables = ['label_emb.weight', 'class_embedding.weight']
/** What a network may have besides, by parts of names: it changes nothing until it is trained, or something is told. */
const added = ['.lora_', `${augmentationLayer}.`]

/** The model that `from` names, on the CPU, its low-rank updates merged. To be disposed of. Throws as readSource does. */
export async function openStart(from: string): Promise<DDPM> {
  const { ddpm } = await readSource(from)
  if (ddpm instanceof LatentDiffusion) {
    ddpm.dispose()
    throw new DiffusionError('unsupported', `${from} is a latent model, from which no training starts`, {
      argument: 'from',
    })
  }
  if (!ddpm.config.lora && !ddpm.config.freeze) return ddpm
  using withUpdates = ddpm
  return await withUpdates.merged()
}

/** Its options, but for what is of a training: whether averages are kept, and what is trained. */
export function startConfig(start: DDPM): ModelConfig {
  const { useEma: _, emaDecay: __, freeze: ___, lora: ____, precision: _____, ...config } = start.config
  const { architecture, ...options } = config.unetConfig as Record<string, unknown>
  const isOther = architecture !== undefined && architecture !== 'unet'
  return { ...config, unetConfig: isOther ? { architecture, ...options } : options }
}

/** The options with the classes of the data that the model has not got after its own, and after all of them the null class. */
export function withMoreClasses(options: ResolvedTrainOptions, classNames: readonly string[]): ResolvedTrainOptions {
  const { unetConfig, ...model } = options.model
  checkIsTold(unetConfig, 'classes')
  const own = (model.classNames ?? []) as readonly string[]
  if (unetConfig.numClasses !== undefined && own.length === 0) {
    throw invalidArgument('model.classNames', 'names of the classes that the model has already', undefined)
  }
  const names = [...own, ...classNames.filter((name) => !own.includes(name))]
  return {
    ...options,
    model: {
      ...model,
      classNames: names,
      nullClass: names.length,
      classDropout: model.classDropout || 0.1,
      unetConfig: { ...unetConfig, numClasses: names.length + 1 },
    },
  }
}

/**
 * Gives a new model the weights and averages of the one that it starts from. Where some of the weights are frozen, they are the
 * averaged ones, since nothing would make them so any more. Throws `state-mismatch` where the options ask for other layers.
 */
export async function takeOver(ddpm: DDPM, start: DDPM): Promise<void> {
  const state = await start.stateDict()
  const averaged = start.config.useEma === true
  const settled = ddpm.config.lora !== undefined || ddpm.config.freeze !== undefined
  const dict: StateDict = {}
  for (const { name } of start.network!.parameters.slots) {
    const [weight, average] = [state[modelPrefix + name], averaged ? state[emaName(name)] : undefined]
    const fitted = (tensor: Tensor) => (labelTables.includes(name) ? rowsFor(ddpm, start, tensor) : tensor)
    dict[modelPrefix + name] = await fitted((settled && average) || weight)
    if (ddpm.config.useEma && average) dict[emaName(name)] = await fitted(average)
  }
  for (const table of labelTables) startWithoutClasses(ddpm, dict, table)
  const { missing } = await ddpm.loadStateDict(dict, { strict: false })
  const lost = missing.find((name) => name.startsWith(modelPrefix) && !added.some((part) => name.includes(part)))
  if (lost === undefined) return
  const message = `the model that the training starts from has no ${lost.slice(modelPrefix.length)}, which the options ask for`
  throw new DiffusionError('state-mismatch', message, { argument: 'from' })
}

/** Of the labels' table: a class keeps its row, and a new one begins as no class at all. */
async function rowsFor(ddpm: DDPM, start: DDPM, table: Tensor): Promise<Tensor> {
  const names = ddpm.classNames
  const [rows, width] = table.shape
  if (names.length === 0 || ddpm.network?.numClasses === undefined) return table
  const data = await table.data()
  const row = (i: number) => data.subarray(i * width, (i + 1) * width)
  const unnamed = start.nullClass === undefined ? mean(data, rows, width) : row(start.nullClass)
  const next = new Float32Array(ddpm.network.numClasses * width)
  for (let i = 0; i < ddpm.network.numClasses; i++) {
    const before = i < names.length ? start.classNames.indexOf(names[i]) : -1
    next.set(before < 0 ? unnamed : row(before), i * width)
  }
  return Tensor.wrap(next, [ddpm.network.numClasses, width])
}

/** Of a model that had no classes: until they are trained, they change nothing. */
function startWithoutClasses(ddpm: DDPM, dict: StateDict, table: string): void {
  const slot = ddpm.network?.parameters.get(table)
  if (!slot || modelPrefix + table in dict) return
  const zeros = () => Tensor.from(new Float32Array(sizeOf(slot.shape)), slot.shape)
  dict[modelPrefix + table] = zeros()
  if (ddpm.config.useEma) dict[emaName(table)] = zeros()
}

function mean(data: Float32Array, rows: number, width: number): Float32Array {
  const sums = new Float64Array(width)
  for (let i = 0; i < data.length; i++) sums[i % width] += data[i]
  return Float32Array.from(sums, (sum) => sum / rows)
}
