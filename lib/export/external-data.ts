/**
 * Weights in a file beside the model's (https://onnx.ai/onnx/repo-docs/ExternalData.html): a message of Protocol Buffers has less than
 * 2 GiB.
 */
import { type FileHandle, realpath, rename, stat, unlink } from 'node:fs/promises'
import path from 'node:path'
import { atomicWrite } from '../checkpoint/atomic-write'
import { forgetTemporary, temporaryFile } from '../checkpoint/temporary-file'
import { invalidArgument } from '../errors'
import type { Initializer, OutsideInitializer } from './onnx-model'
import type { LazyBytes, Message } from './protobuf'

/** Where files are mapped, tensors begin with a page; Windows maps by 64 KiB, which is only worth it for those that are large. */
const alignmentOf = (bytes: number) => (bytes < 2 ** 20 ? 2 ** 12 : 2 ** 16)

/** The name that optimum gives the file, in the folder of the model's. */
export const dataNameOf = (file: string) => `${path.basename(file)}_data`

export const dataFileOf = (file: string) => path.join(path.dirname(file), dataNameOf(file))

/** Gives all weights, however small, a place in the file `location`: so a graph holds none that another training would change. */
export function placeOutside(initializers: readonly Initializer[], location: string): Initializer[] {
  let end = 0
  return initializers.map((initializer) => {
    if (!initializer.isWeight) return initializer
    const { length } = initializer.data
    const offset = Math.ceil(end / alignmentOf(length)) * alignmentOf(length)
    end = offset + length
    return { ...initializer, external: { location, offset } }
  })
}

/** Throws `invalid-argument` where `file` can't be one of two, or its name would mean a folder somewhere. */
export async function checkTwoFiles(file: string): Promise<void> {
  const location = dataNameOf(file)
  if (/[\\/]/.test(location)) throw invalidArgument('path', 'a name without backslashes, for external data', file)
  const there = await stat(file).catch(() => undefined)
  if (there && !there.isFile() && !there.isDirectory()) {
    throw invalidArgument('path', 'a file and no device or pipe, for external data', file)
  }
}

/**
 * Writes the data, one tensor after another, and the model, each as a whole or not at all. The model comes last, and one that is
 * replaced goes first, so that none ever lies beside another's data. `each` is called before every tensor, `check` when all are
 * written. Throws `io`, and what these throw; what was there is then there again.
 */
export async function writeTwoFiles(
  file: string,
  model: Message,
  weights: readonly OutsideInitializer[],
  { each, check }: { readonly each: () => void; readonly check?: () => Promise<void> },
): Promise<void> {
  const data = dataFileOf(file)
  const isNew = !(await exists(data))
  let undo = async () => {}
  let aside: string | undefined
  try {
    await atomicWrite(file, async (graph) => {
      for (const chunk of model.chunks()) await graph.writeFile(await bytesOf(chunk))
      await graph.sync() // all that it still needs is its name
      await atomicWrite(data, async (target) => {
        await writeWeights(target, weights, each)
        await check?.()
        await target.sync()
        if (isNew || !(await exists(file))) return
        const old = await realpath(file)
        const place = temporaryFile(path.dirname(old))
        await rename(old, place)
        aside = place
        undo = () => rename(place, old)
      })
      if (isNew) undo = () => unlink(data)
    })
  } catch (error) {
    await undo().catch(() => {}) // the first error is the one to report
    throw error
  } finally {
    if (aside !== undefined) {
      await unlink(aside).catch(() => {}) // it is back where it was, or replaced
      forgetTemporary(aside)
    }
  }
}

async function writeWeights(
  target: Pick<FileHandle, 'writeFile'>,
  weights: readonly OutsideInitializer[],
  each: () => void,
): Promise<void> {
  let at = 0
  for (const { data, external } of weights) {
    each()
    await target.writeFile(new Uint8Array(external.offset - at))
    await target.writeFile(await data.make())
    at = external.offset + data.length
  }
}

/** Of a part of a message. */
export async function bytesOf(chunk: Uint8Array | LazyBytes): Promise<Uint8Array> {
  return chunk instanceof Uint8Array ? chunk : chunk.make()
}

function exists(file: string): Promise<boolean> {
  return stat(file).then(
    () => true,
    () => false,
  )
}
