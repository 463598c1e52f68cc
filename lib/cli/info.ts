import { checkKey, readShapes } from '../checkpoint/state-dict-file'
import { isLatentCkpt } from '../convert/latent-source'
import { loadModel } from '../convert/load-model'
import { configOf, configOrNone, locateModel, shippedModel } from '../convert/locate'
import { isLucidrains } from '../convert/lucidrains'
import type { StateDict } from '../nn/weights'
import { openCheckpoint, readWeights } from '../train/checkpoint'
import { readModelFile } from '../train/model-file'
import type { Command, OptionTable } from './args'
import { sourceOf, sourceOptions } from './open-model'
import { createOutput } from './output'

const { 'no-ema': _, 'sigma-rel': __, ...options } = sourceOptions satisfies OptionTable

export const info: Command<typeof options> = {
  name: 'info',
  summary: 'Says what a model holds.',
  usage: '[<model>] [options]',
  positionals: 1,
  options,
  notes: `
A model is a model file, a run folder, a checkpoint folder, a diffusers folder, or a checkpoint of ddpm.py
or of lucidrains' denoising-diffusion-pytorch.

  ddpm info models/emoji-32.safetensors
  ddpm info runs/photos --json`,

  async run(values, [positional]) {
    const facts = await factsOf(sourceOf(values, positional) ?? shippedModel, values)
    const output = createOutput(values.json === true)
    output.event('info', facts)
    for (const [name, fact] of Object.entries(facts)) output.say(`${name.padEnd(11)} ${text(fact)}`)
    return 0
  },
}

type Facts = Record<string, unknown>

interface FactsOptions {
  readonly config?: string
  readonly variant?: string
  readonly revision?: string
  readonly key?: string
  readonly tokenizer?: string
  readonly parameterization?: 'eps' | 'v'
}

async function factsOf(source: string, o: FactsOptions): Promise<Facts> {
  const { kind, path, beside } = await locateModel(source, { variant: o.variant, revision: o.revision })
  switch (kind) {
    case 'run':
      return ofCheckpoint(path)
    case 'model':
      return ofModel(path)
    case 'diffusers':
      return { kind, folder: path, ...(await ofLoaded(path, { variant: o.variant })) }
    case 'ckpt':
      return { kind, file: path, ...(await ofCkpt(path, o, beside)) }
  }
}

async function ofCheckpoint(folder: string): Promise<Facts> {
  const checkpoint = await openCheckpoint(folder)
  const { state } = checkpoint
  const { model, ...training } = state.options
  return {
    kind: 'checkpoint',
    folder: checkpoint.folder,
    time: state.time,
    step: state.step,
    images: state.data.images,
    ...(state.heldOut && { heldOut: state.heldOut.images }),
    ...(state.monitor?.best && {
      best: { [String(state.options.monitor)]: state.monitor.best.value, step: state.monitor.best.step },
    }),
    parameters: parameterCount(await readWeights(checkpoint, { ema: false })),
    model,
    training,
  }
}

async function ofModel(file: string): Promise<Facts> {
  const { config, training, weights } = await readModelFile(file)
  return { kind: 'model', file, parameters: parameterCount(weights), model: config, training }
}

async function ofLoaded(path: string, o: Omit<FactsOptions, 'revision'>): Promise<Facts> {
  const ddpm = await loadModel(path, { ...o, device: 'cpu' })
  try {
    const { config, schedulerConfig: scheduler } = ddpm
    const warnings = ddpm.warnings()
    return {
      parameters: ddpm.parameterCount,
      model: config,
      ...(scheduler && { scheduler }),
      ...(warnings.length > 0 && { warnings }),
    }
  } finally {
    ddpm.dispose()
  }
}

/** Without a configuration, what can be said of the tensors alone. */
async function ofCkpt(
  file: string,
  { config: given, key, tokenizer, parameterization }: FactsOptions,
  from: URL | undefined,
): Promise<Facts> {
  if (await isLucidrains(file)) return ofLoaded(file, { config: given, key })
  if (await isLatentCkpt(file, key)) {
    const config = await configOrNone(file, given, from)
    return {
      config: config ?? 'none beside it',
      ...(await ofLoaded(file, { config, key, tokenizer, parameterization })),
    }
  }
  const config =
    given === undefined
      ? await configOf(file, undefined, from).catch(() => undefined)
      : await configOf(file, given, from)
  if (config !== undefined) return { config, ...(await ofLoaded(file, { config, key })) }
  const all = key === undefined ? readShapes(file) : readShapes(file, ofKey(key))
  const shapes = Object.values(await all).map(({ shape }) => shape)
  const numbers = shapes.reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0)
  return { config: 'none beside it', tensors: shapes.length, numbers }
}

function ofKey(key: string): Parameters<typeof readShapes>[1] {
  return (dicts) => {
    checkKey(key, dicts)
    return { key }
  }
}

function parameterCount(weights: StateDict): number {
  return Object.values(weights).reduce((sum, { size }) => sum + size, 0)
}

/** Levels of an object that are shown: a file's metadata may be as deep as they like. */
const maxDepth = 6

/** Objects as 'name: value' lists, one level inside another in braces. */
function text(fact: unknown, depth = 0): string {
  if (typeof fact !== 'object' || fact === null) return String(fact)
  if (depth === maxDepth) return '...'
  const shown = (v: unknown) => (typeof v === 'object' && v !== null ? `{ ${text(v, depth + 1)} }` : String(v))
  if (Array.isArray(fact)) return fact.length === 0 ? 'none' : fact.map(shown).join(',')
  return Object.entries(fact)
    .filter(([, v]) => v !== undefined && v !== null)
    .map(([name, v]) => `${name}: ${Array.isArray(v) ? text(v, depth + 1) : shown(v)}`)
    .join('  ')
}
