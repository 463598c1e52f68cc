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
 * Writes the data, one tensor after another, and the model, each as a whole or not at all; the model comes last. Where there are two
 * already, they are set aside before that, so that no model ever lies beside another's data: of a process that is killed in that moment
 * neither is left. `each` is called before every tensor, `check` when all are written. Throws `io`, and what these throw; what was
 * there is then there again.
 */
export async function writeTwoFiles(
  file: string,
  model: Message,
  weights: readonly OutsideInitializer[],
  { each, check }: { readonly each: () => void; readonly check?: () => Promise<void> },
): Promise<void> {
  const data = dataFileOf(file)
  const aside = new SetAside()
  let placed = false
  try {
    await atomicWrite(file, async (graph) => {
      for (const chunk of model.chunks()) await graph.writeFile(await bytesOf(chunk))
      await graph.sync() // all that it still needs is its name
      const replaces = await exists(data)
      await atomicWrite(data, async (target) => {
        await writeWeights(target, weights, each)
        await check?.()
        await target.sync()
        if (replaces) {
          await aside.take(file)
          await aside.take(data)
        }
        placed = true // as good as: it only wants its name
      })
    })
  } catch (error) {
    if (placed) await unlink(data).catch(() => {}) // the first error is the one to report
    await aside.putBack()
    throw error
  }
  await aside.drop()
}

/** Files under other names, until it is known which are to stay. */
class SetAside {
  readonly #moved: { readonly from: string; readonly to: string }[] = []

  /** Does nothing where it is not there. */
  async take(file: string): Promise<void> {
    if (!(await exists(file))) return
    const from = await realpath(file)
    const to = temporaryFile(path.dirname(from))
    try {
      await rename(from, to)
    } catch (error) {
      forgetTemporary(to)
      throw error
    }
    this.#moved.push({ from, to })
  }

  /** The last first. */
  putBack(): Promise<void> {
    return this.#end(({ from, to }) => rename(to, from))
  }

  drop(): Promise<void> {
    return this.#end(({ to }) => unlink(to))
  }

  async #end(each: (moved: { readonly from: string; readonly to: string }) => Promise<void>): Promise<void> {
    for (const moved of this.#moved.reverse()) {
      await each(moved).catch(() => {}) // a temporary name: a later command removes it
      forgetTemporary(moved.to)
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
