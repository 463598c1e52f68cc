/** Files of low-rank updates, by PEFT's and diffusers' names and by kohya's (sd-scripts). */
import { DiffusionError, quote } from '../errors'
import type { LoraUpdate, LoraUpdates } from '../nn/lora/lora-weights'
import { Tensor } from '../tensor'
import { type StoredTensor, writeSafetensors } from './safetensors'
import { readStateDictFile } from './state-dict-file'

/** How the names of a file are made: 'unet.<module>.lora_A.weight', or 'lora_unet_<module with _>.lora_down.weight' with alphas. */
export type LoraNames = 'peft' | 'kohya'

type Part = 'down' | 'up' | 'alpha'

/** What is at the end of a name, by whoever wrote it, and what it is. */
const suffixes: readonly (readonly [string, Part])[] = [
  ['.lora_A.weight', 'down'],
  ['.lora_B.weight', 'up'],
  ['.lora_A.default.weight', 'down'],
  ['.lora_B.default.weight', 'up'],
  ['.lora_down.weight', 'down'],
  ['.lora_up.weight', 'up'],
  ['.lora.down.weight', 'down'],
  ['.lora.up.weight', 'up'],
  ['.lora_linear_layer.down.weight', 'down'],
  ['.lora_linear_layer.up.weight', 'up'],
  ['_lora.down.weight', 'down'],
  ['_lora.up.weight', 'up'],
  ['.alpha', 'alpha'],
]
/** Other kinds of updates, whose numbers mean something else. */
const otherKinds: readonly (readonly [RegExp, string])[] = [
  [/\.lora_mid\.weight$/, "LyCORIS' Tucker form (lora_mid)"],
  [/\.hada_w|\.lokr_w/, "LyCORIS' LoHa or LoKr"],
  [/dora_scale|lora_magnitude_vector/, 'DoRA'],
]
/** Before the names of the network's modules. */
const prefixes = [
  'base_model.model.',
  'unet.',
  'model.diffusion_model.',
  'diffusion_model.',
  'lora_unet_',
  'lora_unet.',
]
/** Of a pipeline's text encoder. */
const textPrefixes = ['text_encoder.', 'base_model.model.', 'lora_te1_', 'lora_te_']
const ofText = /^(text_encoder|lora_te|base_model\.model\.text)/

/** What updates may be of: modules by name. */
export interface LoraModules {
  readonly unet: Iterable<string>
  /** Other names of them, and those that they have in `unet`. */
  readonly aliases?: ReadonlyMap<string, string>
  /** Of the text encoder by transformers' names, 'text_model.encoder.layers.0.mlp.fc1'; without one, its updates are ignored. */
  readonly text?: Iterable<string>
}

export interface LoraFile {
  readonly unet: LoraUpdates
  readonly text: LoraUpdates
  /** Names that are of no update of these networks. */
  readonly ignored: readonly string[]
}

type Parts = Map<string, Partial<Record<Part, StoredTensor>>>

/**
 * Updates by the names of modules. An alpha that is not in the file is the rank. Throws `not-found`, `io`, `bad-file`, `unsupported`
 * for other kinds of updates, and `state-mismatch` for a module that there is not.
 */
export async function readLora(
  file: string,
  { unet, aliases = new Map(), text: textModules }: LoraModules,
): Promise<LoraFile> {
  const { tensors } = await readStateDictFile(file)
  const known = byAnyName([...aliases, ...[...unet].map((name) => [name, name] as const)])
  const knownText = textModules && byAnyName([...textModules].map((name) => [name, name] as const))
  const [parts, textParts]: Parts[] = [new Map(), new Map()]
  const ignored: string[] = []
  for (const [name, tensor] of Object.entries(tensors)) {
    const other = otherKinds.find(([pattern]) => pattern.test(name))
    if (other) throw new DiffusionError('unsupported', `${file}: ${other[1]} is not supported`, { argument: 'loras' })
    const suffix = suffixes.find(([end]) => name.endsWith(end))
    const isText = ofText.test(name)
    if (!suffix || (isText && !knownText)) {
      ignored.push(name)
      continue
    }
    const given = name.slice(0, -suffix[0].length)
    const module = isText ? moduleOf(given, knownText!, textPrefixes) : moduleOf(given, known, prefixes)
    if (module === undefined) {
      const message = `${file} does not fit the model: the network has no layer for ${quote(name)}`
      throw new DiffusionError('state-mismatch', message, { argument: 'loras', received: name })
    }
    const own = isText ? textParts : parts
    own.set(module, { ...own.get(module), [suffix[1]]: tensor })
  }
  if (parts.size + textParts.size === 0)
    throw bad(file, 'it has no low-rank updates of a network (lora_A and lora_B, or lora_down and lora_up)')
  const updatesOf = (all: Parts) => new Map([...all].map(([module, p]) => [module, updateOf(file, module, p)]))
  return { unet: updatesOf(parts), text: updatesOf(textParts), ignored }
}

/** With kohya's names, which have _ for every point. */
function byAnyName(named: readonly (readonly [string, string])[]): ReadonlyMap<string, string> {
  return new Map(named.flatMap(([name, own]) => [[name, own] as const, [name.replaceAll('.', '_'), own] as const]))
}

function moduleOf(name: string, known: ReadonlyMap<string, string>, before: readonly string[]): string | undefined {
  const found = known.get(name) ?? known.get(ofProcessor(name))
  if (found !== undefined) return found
  const prefix = before.find((p) => name.startsWith(p))
  return prefix === undefined ? undefined : moduleOf(name.slice(prefix.length), known, before)
}

/** diffusers before 0.22 had updates in attention's processors: 'attn1.processor.to_out_lora', 'self_attn.to_q_lora'. */
function ofProcessor(name: string): string {
  return name
    .replace(/\.processor\.to_out$/, '.to_out.0')
    .replace(/\.processor\.(to_[qkv])$/, '.$1')
    .replace(/self_attn\.to_(q|k|v|out)$/, 'self_attn.$1_proj')
}

function updateOf(file: string, module: string, { down, up, alpha }: Partial<Record<Part, StoredTensor>>): LoraUpdate {
  if (!down || !up) throw bad(file, `${quote(module)} has one of two parts of an update`)
  if (down.shape.length < 2 || up.shape.length < 2) throw bad(file, `${quote(module)} has an update that is no matrix`)
  const rank = down.shape[0]
  const scale = alpha ? Number(alpha.data[0]) / rank : 1
  if (!(rank > 0) || !Number.isFinite(scale))
    throw bad(file, `${quote(module)} has an update of rank ${rank}, scale ${scale}`)
  return { down: floats(file, module, down), up: floats(file, module, up), scale }
}

function floats(file: string, module: string, { data, shape, dtype }: StoredTensor): Tensor {
  if (data instanceof Float32Array) return Tensor.wrap(data, shape)
  throw bad(file, `${quote(module)} is of ${dtype}, not of floating-point numbers`)
}

function bad(file: string, why: string): DiffusionError {
  return new DiffusionError('bad-file', `${file}: ${why}`, { argument: 'loras', received: file })
}

/** Atomically, with scale 1: alpha is the rank. Throws `io`. */
export async function writeLora(
  file: string,
  updates: LoraUpdates,
  names: LoraNames,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const tensors: Record<string, StoredTensor> = {}
  const add = (name: string, data: Float32Array, shape: readonly number[]) => {
    tensors[name] = { dtype: 'F32', shape, data }
  }
  for (const [module, { down, up }] of updates) {
    const kohya = `lora_unet_${module.replaceAll('.', '_')}`
    const [a, b] =
      names === 'peft' ? [`unet.${module}.lora_A`, `unet.${module}.lora_B`] : [`${kohya}.lora_down`, `${kohya}.lora_up`]
    add(`${a}.weight`, await down.data(), down.shape)
    add(`${b}.weight`, await up.data(), up.shape)
    if (names === 'kohya') add(`${kohya}.alpha`, Float32Array.of(down.shape[0]), [])
  }
  await writeSafetensors(file, tensors, { format: 'pt', ...metadata })
}
