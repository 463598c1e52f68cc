/** What a model's name means: a run, a folder or a file, told apart by what is in it. */
import { access, stat } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { isDiffusersFolder } from '../checkpoint/diffusers/folder'
import { isHubName } from '../checkpoint/hub/access'
import { type HubOptions, hubSnapshot } from '../checkpoint/hub/snapshot'
import { openRegularFile } from '../checkpoint/regular-file'
import { readSafetensorsHeader } from '../checkpoint/safetensors'
import { isTorch } from '../checkpoint/state-dict-file'
import { DiffusionError, invalidArgument } from '../errors'
import { openBest } from '../train/checkpoint'
import { modelFormat } from '../train/model-file'
import { type DownloadOptions, download } from './download'

/** A model file or a run of this project; a diffusers folder; a checkpoint of ddpm.py with its configuration. */
export type SourceKind = 'model' | 'run' | 'diffusers' | 'ckpt'

export interface LocatedModel {
  readonly kind: SourceKind
  /** The file or folder that is read: that of which the given one is a part. */
  readonly path: string
  /** Of a file that came from there. */
  readonly beside?: URL
}

export interface LocateOptions extends DownloadOptions, HubOptions {
  /** Which weights of a model of the hub. */
  readonly variant?: string
}

/** The class-conditional model that comes with this package; models/README.md says how it was made. */
export const shippedModel = path.join(__dirname, '..', '..', '..', 'models', 'emoji-32.safetensors')

/**
 * A file by its URL is downloaded first; a name that is no file's may be a model's on the hub, and is fetched. Throws `not-found`, `io`, `bad-file` for what is no file or folder of a model, and
 * `invalid-argument` for a URL that is none.
 */
export async function locateModel(source: string | URL, o: LocateOptions = {}): Promise<LocatedModel> {
  if (source === '') throw invalidArgument('source', 'a path or a URL', source)
  const url = urlOf(source)
  const named = url ? await fileOf(url, o) : String(source)
  const located = await locateHere(named, o)
  return url && url.protocol !== 'file:' ? { ...located, beside: url } : located
}

async function locateHere(named: string, o: LocateOptions): Promise<LocatedModel> {
  const best = await bestOf(named)
  if (best !== undefined) return { kind: 'run', path: best }
  const stats = await stat(named).catch((cause) => {
    if (isHubName(named)) return undefined
    throw new DiffusionError('not-found', `${named} does not exist`, { argument: 'path', received: named, cause })
  })
  if (!stats) return { kind: 'diffusers', path: await hubSnapshot(named, o.variant, o) }
  if (o.revision !== undefined)
    throw invalidArgument('revision', 'none for a file or folder: the hub has revisions', o.revision)
  if (stats.isDirectory()) return folderOf(named)
  const folder = path.dirname(named)
  const has = (name: string) => exists(path.join(folder, name))
  // A part of a folder stands for the folder: of a checkpoint of a run, or of diffusers.
  if (await has('state.json')) return { kind: 'run', path: folder }
  const { base } = path.parse(named)
  if (base === 'model_index.json' || base === 'config.json' || /^diffusion_pytorch_model\b/.test(base)) {
    if (await isDiffusersFolder(folder)) return { kind: 'diffusers', path: folder }
  }
  await (await openRegularFile(named)).handle.close()
  if (await isTorch(named)) return { kind: 'ckpt', path: named }
  const { metadata } = await readSafetensorsHeader(named)
  return { kind: metadata.format === modelFormat ? 'model' : 'ckpt', path: named }
}

/** 'runs/photos@best' is the best checkpoint of that run, where no file has this name. Throws what openBest throws. */
async function bestOf(named: string): Promise<string | undefined> {
  const run = /^(.+)@best$/.exec(named)?.[1]
  if (run === undefined || (await exists(named)) || !(await exists(path.join(run, 'checkpoints')))) return undefined
  return (await openBest(run)).folder
}

async function folderOf(folder: string): Promise<LocatedModel> {
  const has = (...names: string[]) => exists(path.join(folder, ...names))
  if ((await has('state.json')) || (await has('checkpoints'))) return { kind: 'run', path: folder }
  if (await has('latest')) return { kind: 'run', path: path.dirname(path.resolve(folder)) } // a run's checkpoints
  if (await isDiffusersFolder(folder)) return { kind: 'diffusers', path: folder }
  const parts = 'neither a run, with checkpoints, nor a diffusers folder, with model_index.json or unet/config.json'
  const message = `no model in ${folder}: it is ${parts}`
  throw new DiffusionError('not-found', message, { argument: 'path', received: folder })
}

function urlOf(source: string | URL): URL | undefined {
  if (!(source instanceof URL) && !/^(https?|file):/i.test(source)) return undefined
  if (!URL.canParse(String(source))) throw invalidArgument('path', 'a file, a folder, or a URL', source)
  return new URL(source)
}

/** What is on another machine is brought here first. */
async function fileOf(url: URL, o: DownloadOptions): Promise<string> {
  if (url.protocol === 'file:') return fileURLToPath(url)
  if (url.protocol === 'http:' || url.protocol === 'https:') return download(url, o)
  throw invalidArgument('path', 'a URL that begins with https:, http: or file:', url.href)
}

/** A checkpoint's configuration: that which is given, a file or a URL, or the YAML beside it. Throws `not-found`, `io`. */
export async function configOf(file: string, given: string | undefined, beside: URL | undefined): Promise<string> {
  const url = given === undefined ? undefined : urlOf(given)
  if (url) return fileOf(url, {})
  if (given !== undefined) return given
  return beside ? configBesideUrl(beside) : configBeside(file)
}

/** The same of a file that may do without: undefined where none is given or beside it. */
export async function configOrNone(file: string, given?: string, beside?: URL): Promise<string | undefined> {
  if (given !== undefined || beside === undefined) {
    return given === undefined && !(await hasConfigBeside(file)) ? undefined : configOf(file, given, beside)
  }
  return configBesideUrl(beside).catch((error) => {
    if ((error as DiffusionError).code === 'not-found') return undefined
    throw error
  })
}

function hasConfigBeside(file: string): Promise<boolean> {
  return configBeside(file).then(
    () => true,
    () => false,
  )
}

async function configBesideUrl(url: URL): Promise<string> {
  const { dir, name } = path.posix.parse(url.pathname)
  let problem: unknown
  for (const extension of ['.yaml', '.yml']) {
    const config = new URL(url)
    config.pathname = path.posix.join(dir, name + extension)
    try {
      return await download(config)
    } catch (error) {
      problem ??= error
    }
  }
  const where = url.origin + url.pathname
  const message = `config is missing: ${where} is a checkpoint, which needs its configuration: none given, and no ${name}.yaml beside it (${(problem as Error).message})`
  throw new DiffusionError('not-found', message, { argument: 'config', expected: 'a YAML file', cause: problem })
}

/** The YAML file beside a checkpoint. Throws `not-found`. */
export async function configBeside(file: string): Promise<string> {
  const { dir, name } = path.parse(file)
  for (const extension of ['.yaml', '.yml']) {
    const config = path.join(dir, name + extension)
    if (await exists(config)) return config
  }
  const message = `config is missing: ${file} is a checkpoint, which needs its configuration: none given, and no ${name}.yaml beside it`
  throw new DiffusionError('not-found', message, { argument: 'config', expected: 'a YAML file' })
}

/** Throws `invalid-argument`. */
export function superfluous(argument: string, owner: string, kind: SourceKind): DiffusionError {
  const message = `${argument} goes with ${owner}, and the source is of the kind '${kind}'`
  return new DiffusionError('invalid-argument', message, { argument })
}

function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  )
}
