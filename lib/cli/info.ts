import { stat } from 'node:fs/promises'
import type { StateDict } from '../nn/weights'
import { openCheckpoint, readWeights } from '../train/checkpoint'
import { readModelFile } from '../train/model-file'
import { type Command, type OptionTable, UsageError } from './args'
import { createOutput } from './output'

const options = {} as const satisfies OptionTable

export const info: Command<typeof options> = {
  name: 'info',
  summary: 'Says what a model file or a checkpoint holds.',
  usage: '<model file, run folder or checkpoint folder>',
  positionals: 1,
  options,
  notes: `
  ddpm info models/emoji-32.safetensors
  ddpm info runs/photos --json`,

  async run(values, [file]) {
    if (file === undefined) throw new UsageError('the file or folder is missing')
    const facts = (await stat(file).catch(() => undefined))?.isDirectory()
      ? await ofCheckpoint(file)
      : await ofModel(file)
    const output = createOutput(values.json === true)
    output.event('info', facts)
    for (const [name, fact] of Object.entries(facts)) output.say(`${name.padEnd(11)} ${text(fact)}`)
    return 0
  },
}

async function ofCheckpoint(folder: string): Promise<Record<string, unknown>> {
  const checkpoint = await openCheckpoint(folder)
  const { state } = checkpoint
  const { model, ...training } = state.options
  return {
    kind: 'checkpoint',
    folder: checkpoint.folder,
    time: state.time,
    step: state.step,
    images: state.data.images,
    parameters: parameterCount(await readWeights(checkpoint, { ema: false })),
    model,
    training,
  }
}

async function ofModel(file: string): Promise<Record<string, unknown>> {
  const { config, training, weights } = await readModelFile(file)
  return { kind: 'model', file, parameters: parameterCount(weights), model: config, training }
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
  if (Array.isArray(fact)) return fact.map(shown).join(',')
  return Object.entries(fact)
    .map(([name, v]) => `${name}: ${Array.isArray(v) ? text(v, depth + 1) : shown(v)}`)
    .join('  ')
}
