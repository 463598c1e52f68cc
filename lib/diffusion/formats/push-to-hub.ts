/** A model's folder and its card, sent to the Hugging Face hub. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { type CardFacts, modelCard } from '../../checkpoint/hub/model-card'
import { type UploadOptions, type UploadResult, uploadFolder } from '../../checkpoint/hub/upload'
import { boolean, func, parseOptions, type SchemaOf, string, value } from '../../options'
import { type SavePretrainedOptions, savePretrainedSchema } from '../options/ddpm-options'

/** Of DDPM.pushToHub. */
export interface PushToHubOptions extends SavePretrainedOptions, UploadOptions {
  /** Of the model, by the hub's name for it, such as 'mit'; for the model card. Default: the card says nothing of it. */
  readonly license?: string
  /** Replace a model card that is there. Default false: it stays as it is. */
  readonly overwriteCard?: boolean
}

export type PushToHubResult = UploadResult

const schema = {
  ...savePretrainedSchema,
  revision: string(),
  private: boolean(),
  commitMessage: string(),
  onUpload: func<NonNullable<UploadOptions['onUpload']>>(),
  signal: value<AbortSignal>('an AbortSignal', (v) => v instanceof AbortSignal),
  license: value<string>(
    "a license's name on the hub, such as 'mit'",
    (v) => typeof v === 'string' && /^[\w.+-]+$/.test(v),
  ),
  overwriteCard: boolean(false),
} satisfies SchemaOf<PushToHubOptions>

const cardFile = 'README.md'

/** `save` writes the folder; `facts` of the model that is written. */
export async function pushToHub(
  name: string,
  options: PushToHubOptions,
  save: (folder: string, o: SavePretrainedOptions) => Promise<void>,
  facts: (o: SavePretrainedOptions) => Omit<CardFacts, 'name' | 'revision' | 'license' | 'variant'>,
): Promise<PushToHubResult> {
  const { license, overwriteCard, weights, maxShardSize, variant, ...upload } = parseOptions(
    'pushToHub',
    options,
    schema,
  )
  const folder = await mkdtemp(path.join(os.tmpdir(), 'ddpm-push-'))
  try {
    await save(folder, { weights, maxShardSize, variant })
    const card = modelCard({ ...facts({ weights }), name, revision: upload.revision, license, variant })
    await writeFile(path.join(folder, cardFile), card)
    return await uploadFolder(name, folder, { ...upload, variant, keep: overwriteCard ? [] : [cardFile] })
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}
