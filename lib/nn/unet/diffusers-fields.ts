/** What the configurations of diffusers' UNets have in common. */
import { DiffusionError, describe, invalidArgument } from '../../errors'
import * as options from '../../options'
import { limits, type UNetOptions } from './options'

/** config.json of a UNet2DModel or UNet2DConditionModel (diffusers 0.0.4 to 0.35); names that begin with an underscore are about the file. */
export type UNet2DConfig = Readonly<Record<string, unknown>>

export interface DiffusersUNet {
  readonly options: UNetOptions
  /** Fields that the class does not have: diffusers ignores them, too. */
  readonly ignored: { readonly names: readonly string[]; readonly owner: string; readonly known: readonly string[] }
}

/** What a block of a level is made of; `resample`: 'type' as downsample_type and upsample_type say. */
export interface BlockType {
  readonly attention: boolean
  readonly resample: 'conv' | 'resnet' | 'skip' | 'type'
}
export const oneOrMore = { min: 1 }

export function ownFields(config: UNet2DConfig): Record<string, unknown> {
  return Object.fromEntries(Object.entries(config).filter(([name]) => !name.startsWith('_')))
}

export function blockTypes<T extends string>(
  known: Readonly<Record<T, BlockType>>,
  fallback: readonly T[],
): options.Field<readonly T[]> {
  const one = options.oneOf(Object.keys(known) as T[])
  // Early versions have UNetResAttnDownBlock2D and its like.
  const today = (given: unknown) => (typeof given === 'string' ? given.replace(/^UNetRes(?=Attn|Down|Up)/, '') : given)
  const list = options.array(
    { ...one, check: (given, name) => one.check(today(given), name) },
    fallback as never,
    limits.levels,
  )
  return list as options.Field<readonly T[]>
}

/** [height, width], or one number for both. */
export function sampleSize(fallback?: readonly [number, number]): options.Field<readonly [number, number]> {
  const number = options.integer(undefined, oneOrMore)
  const check = (given: unknown, name: string): readonly [number, number] => {
    const [height, width, ...more] = Array.isArray(given) ? given : [given, given]
    if (more.length > 0) throw invalidArgument(name, 'a number, or height and width', given)
    return [number.check(height, name), number.check(width, name)]
  }
  return { fallback: fallback as readonly [number, number], check }
}

/** What is known but not supported with other values; the first is the default. */
export function only<T>(owner: string, ...values: readonly [T, ...T[]]): options.Field<T> {
  const check = (given: unknown, name: string): NonNullable<T> => {
    if (values.includes(given as T)) return given as NonNullable<T>
    const known = values.map((value) => (value === undefined ? 'null' : describe(value)))
    throw unsupported(owner, name, known.join(' and '), given)
  }
  return { fallback: values[0], check }
}

/** Downsampling rates of the levels with attention, of those that a residual block leaves, and of skip blocks. */
export function levelsOf(
  blocks: readonly BlockType[],
  type: 'conv' | 'resnet',
): Record<'attention' | 'resnet' | 'skip', number[]> {
  const rates = (has: (block: BlockType) => boolean) =>
    blocks.flatMap((block, level) => (has(block) ? [2 ** level] : []))
  return {
    attention: rates(({ attention }) => attention),
    resnet: rates(({ resample }) => (resample === 'type' ? type : resample) === 'resnet'),
    skip: rates(({ resample }) => resample === 'skip'),
  }
}

export function unsupported(owner: string, argument: string, expected: string, value: unknown): DiffusionError {
  const received = describe(value)
  return new DiffusionError('unsupported', `${owner}'s ${argument}: only ${expected} is supported, got ${received}`, {
    argument,
    expected,
    received,
  })
}
