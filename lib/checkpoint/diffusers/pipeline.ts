/** model_index.json of a diffusers pipeline: of which parts it is, each in a folder of its name. */
import { stat } from 'node:fs/promises'
import path from 'node:path'
import { DiffusionError } from '../../errors'
import { isObject, type JsonObject, readJsonFile } from '../json'

export interface PipelinePart {
  readonly folder: string
  /** 'diffusers' or 'transformers'. */
  readonly library: string
  /** Its class there. */
  readonly kind: string
}

export interface Pipeline {
  /** The pipeline's class. */
  readonly kind: string
  readonly parts: Readonly<Record<string, PipelinePart>>
  /** All of model_index.json. */
  readonly index: JsonObject
}

const indexFile = 'model_index.json'

/** Undefined where the folder is no pipeline. Throws `io` and `bad-file`. */
export async function readPipeline(folder: string): Promise<Pipeline | undefined> {
  const file = path.join(folder, indexFile)
  if (!(await isFile(file))) return undefined
  const index = await readJsonFile(file)
  if (!isObject(index)) throw bad(file, 'it is not an object')
  const { _class_name: kind } = index
  if (typeof kind !== 'string') throw bad(file, "it has no '_class_name'")
  const parts: Record<string, PipelinePart> = Object.create(null)
  for (const [name, part] of Object.entries(index)) {
    if (!Array.isArray(part) || part[0] === null) continue
    const [library, kind] = part
    // A name, not a path: nothing outside of the folder is read.
    if (typeof library !== 'string' || typeof kind !== 'string' || !/^\w+$/.test(name)) {
      throw bad(file, `its part '${name}' is not a library and a class`)
    }
    parts[name] = { folder: path.join(folder, name), library, kind }
  }
  return { kind, parts, index }
}

async function isFile(file: string): Promise<boolean> {
  const found = await stat(file).catch(() => undefined)
  return found?.isFile() ?? false
}

function bad(file: string, problem: string): DiffusionError {
  return new DiffusionError('bad-file', `${file} is not of a diffusers pipeline: ${problem}`, {
    argument: 'path',
    received: file,
  })
}
