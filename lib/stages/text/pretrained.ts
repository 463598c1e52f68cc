/** Text encoders from folders as transformers and diffusers write them. */
import { existsSync } from 'node:fs'
import path from 'node:path'
import { readWeights, transformersFiles } from '../../checkpoint/diffusers/weights'
import { readJsonFile } from '../../checkpoint/json'
import { DiffusionError, invalidArgument } from '../../errors'
import type { ResolvedCLIPTextOptions } from '../../nn/text/clip'
import { type CLIPTextConfig, clipTextConfig } from '../../nn/text/clip-config'
import { type LDMBertConfig, ldmBertConfig, transformerName } from '../../nn/text/ldm-bert'
import type { StateDict } from '../../nn/weights'
import type { WeightsSource } from '../stage'

/** A text encoder as transformers' CLIPTextModel. */
export interface CLIPParts {
  readonly options: ResolvedCLIPTextOptions
  /** Of the stage's own dict, by transformers' names: 'text_model.embeddings.token_embedding.weight'. */
  weights(dict: StateDict): Promise<StateDict>
  /** What texts are padded with, where that is not for the tokenizer to say. */
  readonly padId?: number
}

export interface CLIPFolder {
  readonly config: CLIPTextConfig
  readonly weights: WeightsSource
  /** The folder of its tokenizer, where there is one. */
  readonly tokenizer?: string
}

/**
 * A pipeline's folder with text_encoder and tokenizer in it, or a text model's own. Weights are read when asked for, those of the text
 * model, under `prefix`. Throws `not-found`, `io`, `bad-file`, `invalid-argument` and `unsupported`.
 */
export async function readCLIPFolder(folder: string, prefix: string, variant?: string): Promise<CLIPFolder> {
  if (typeof folder !== 'string' || folder === '') throw invalidArgument('folder', 'a path', folder)
  const own = ['text_encoder', ''].find((inner) => existsSync(path.join(folder, inner, 'config.json')))
  if (own === undefined) {
    const expected = 'text_encoder/config.json, or config.json'
    throw new DiffusionError('not-found', `${folder} has no text encoder: expected ${expected}`, {
      argument: 'folder',
      expected,
      received: folder,
    })
  }
  const tokenizer = [path.join(folder, 'tokenizer'), path.join(folder, own)].find((place) => {
    return existsSync(path.join(place, 'tokenizer.json')) || existsSync(path.join(place, 'vocab.json'))
  })
  return {
    config: clipTextConfig(await readJsonFile(path.join(folder, own, 'config.json'))),
    tokenizer,
    weights: async () => {
      const all = await readWeights(path.join(folder, own), variant, transformersFiles)
      const text = Object.entries(all).filter(([name]) => name.startsWith('text_model.'))
      return Object.fromEntries(text.map(([name, tensor]) => [`${prefix}.${name}`, tensor] as const))
    },
  }
}

export interface LDMBertFolder {
  readonly config: LDMBertConfig
  readonly weights: WeightsSource
}

/** A folder of diffusers' LDMBertModel; its weights are read when asked for. Throws `not-found`, `io`, `bad-file` and `unsupported`. */
export async function readLDMBertFolder(folder: string, variant?: string): Promise<LDMBertFolder> {
  return {
    config: ldmBertConfig(await readJsonFile(path.join(folder, 'config.json'))),
    weights: async () => {
      const all = await readWeights(folder, variant, transformersFiles)
      return Object.fromEntries(Object.entries(all).map(([name, tensor]) => [transformerName(name), tensor]))
    },
  }
}
