/** Reads golden files of UNets: parameters, inputs, and what PyTorch made of them. */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { readSafetensors, type StoredTensor } from '../../lib/checkpoint/safetensors'
import type { StateDict } from '../../lib/nn/parameters'
import type { UNetOptions } from '../../lib/nn/unet/unet'
import { Tensor } from '../../lib/tensor'

const folder = path.join(__dirname, '..', '..', '..', 'test', 'fixtures')

export class Golden {
  private constructor(
    readonly name: string,
    readonly tensors: Readonly<Record<string, StoredTensor>>,
    // biome-ignore lint/suspicious/noExplicitAny: JSON of the golden file
    readonly config: any,
  ) {}

  /** `renamed`: what the file's tensors are to be called. */
  static async open(name: string, renamed: (name: string) => string = (name) => name): Promise<Golden> {
    const { tensors, metadata } = await readSafetensors(path.join(folder, name))
    const named = Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [renamed(name), tensor]))
    return new Golden(name, named, JSON.parse(metadata.config ?? '{}'))
  }

  /** Names after `prefix`. */
  names(prefix: string): string[] {
    return Object.keys(this.tensors)
      .filter((name) => name.startsWith(prefix))
      .map((name) => name.slice(prefix.length))
  }

  has(name: string): boolean {
    return name in this.tensors
  }

  floats(name: string): Float32Array {
    const { data } = this.tensors[name] ?? { data: undefined }
    if (data instanceof Float32Array) return data
    throw new Error(`${this.name} has no floats '${name}'`)
  }

  /** From I64. */
  integers(name: string): Int32Array {
    return Int32Array.from(this.tensors[name].data as BigInt64Array, Number)
  }

  /** UNet's options from the constructor's keyword arguments. */
  unetOptions(extra: Partial<UNetOptions> = {}): UNetOptions {
    const camelCase = (name: string) => name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase())
    const entries = Object.entries(this.config.unet).map(([name, value]) => [camelCase(name), value])
    return { ...Object.fromEntries(entries), ...extra }
  }

  /** This file's parameters over those of the files it refers to; of all these only `wanted`. */
  async parameters(wanted: (name: string) => boolean): Promise<StateDict> {
    const { params_from: base } = this.config
    const dict = base ? await (await Golden.open(base)).parameters(wanted) : {}
    for (const name of this.names('param/').filter(wanted)) dict[name] = stateTensor(this.tensors[`param/${name}`])
    return dict
  }
}

/** All tensors of a plain safetensors file. */
export async function stateDictOf(name: string): Promise<StateDict> {
  const { tensors } = await readSafetensors(path.join(folder, name))
  return Object.fromEntries(Object.entries(tensors).map(([key, tensor]) => [key, stateTensor(tensor)]))
}

export function readJson(name: string): Record<string, unknown> {
  return JSON.parse(readFileSync(path.join(folder, name), 'utf8'))
}

function stateTensor({ data, shape }: StoredTensor): Tensor {
  return Tensor.from(data as Float32Array, shape)
}
