/** Golden data: test/fixtures, made by PyTorch (the source is in each file's metadata). */
import path from 'node:path'
import { readSafetensors, type SafetensorsFile } from '../../lib/checkpoint/safetensors'
import { DDPM } from '../../lib/diffusion/models/ddpm'
import type { DDPMOptions } from '../../lib/diffusion/options/ddpm-options'
import { type Device, type StateDict, Tensor } from '../../lib/index'
import { testDevice } from '../support/devices'

const folder = path.join(__dirname, '..', '..', '..', 'test', 'fixtures')

// biome-ignore lint/suspicious/noExplicitAny: each file's configuration has a form of its own
type Json = any

export class Fixture {
  readonly config: Json
  readonly tolerance: Json

  /** Names whose numbers were asked for. */
  readonly read = new Set<string>()

  private constructor(readonly file: SafetensorsFile) {
    this.config = JSON.parse(file.metadata.config)
    this.tolerance = JSON.parse(file.metadata.tolerance ?? '{}')
  }

  static async load(name: string): Promise<Fixture> {
    return new Fixture(await readSafetensors(path.join(folder, `${name}.safetensors`)))
  }

  has(name: string): boolean {
    return name in this.file.tensors
  }

  /** Names that begin with a prefix, without it. */
  names(prefix: string): string[] {
    return Object.keys(this.file.tensors)
      .filter((name) => name.startsWith(prefix))
      .map((name) => name.slice(prefix.length))
  }

  numbers(name: string): Float32Array {
    const entry = this.file.tensors[name]
    if (!entry) throw new Error(`the fixture has no ${name}`)
    this.read.add(name)
    return entry.data instanceof Float32Array ? entry.data : Float32Array.from(entry.data, Number)
  }

  integers(name: string): Int32Array {
    return Int32Array.from(this.numbers(name))
  }

  shape(name: string): readonly number[] {
    return this.file.tensors[name].shape
  }

  tensor(name: string): Tensor {
    return Tensor.from(this.numbers(name), this.shape(name))
  }

  /** Row i along the first dimension. */
  row(name: string, i: number): Tensor {
    const [, ...shape] = this.shape(name)
    const size = shape.reduce((a, b) => a * b, 1)
    return Tensor.from(this.numbers(name).slice(i * size, (i + 1) * size), shape)
  }

  /** param/*, by the network's names. */
  params(): StateDict {
    return Object.fromEntries(this.names('param/').map((name) => [name, this.tensor(`param/${name}`)]))
  }
}

/** snake_case keys of a configuration as the options are called here. */
export function camelCase(config: Json): Json {
  const name = (key: string) => key.replace(/_([a-z0-9])/g, (_, c: string) => c.toUpperCase())
  return Object.fromEntries(Object.entries(config).map(([key, value]) => [name(key), value]))
}

/** The UNet that most files use, with the weights that are recorded in unet_basic. */
export async function goldenModel(fixture: Fixture, options: DDPMOptions = {}): Promise<DDPM> {
  const ddpm = new DDPM({
    unetConfig: camelCase(fixture.config.unet),
    ...camelCase(fixture.config.ddpm),
    device: testDevice,
    ...options,
  })
  await ddpm.loadStateDict(await paramsOf(path.basename(fixture.config.params_from, '.safetensors')))
  return ddpm
}

const loaded = new Map<string, Promise<StateDict>>()

function paramsOf(name: string): Promise<StateDict> {
  let params = loaded.get(name)
  if (!params) {
    params = Fixture.load(name).then((fixture) => fixture.params())
    loaded.set(name, params)
  }
  return params
}

/** When what was released is free: the device frees a buffer after the job that used it last is put away. */
export async function settled(device: Device): Promise<void> {
  await device.synchronize()
  await new Promise((resolve) => setImmediate(resolve))
  await device.synchronize()
}

/** Random numbers for all weights, those that begin as zero included. */
export async function randomize(ddpm: DDPM): Promise<DDPM> {
  const slots = ddpm.network?.parameters.slots ?? []
  const dict: StateDict = {}
  for (const [i, { name, shape }] of slots.entries()) {
    const values = await Tensor.randn(shape, { seed: i }).data()
    dict[name] = Tensor.from(
      values.map((v) => 0.2 * v),
      shape,
    )
  }
  await ddpm.loadStateDict(dict)
  return ddpm
}
