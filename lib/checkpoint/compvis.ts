/**
 * What configurations of CompVis' latent-diffusion are made of: `target`, the Python class, and `params`, its keyword arguments, which
 * become options by tables of names. What has no counterpart here is refused by its name.
 */
import { DiffusionError, describe, invalidArgument } from '../errors'
import { unknownOption } from '../options'
import { isObject, type JsonObject } from './json'

/** What instantiate_from_config is called with. */
export interface Instantiation {
  /** Python's full name of a class. */
  readonly target: string
  readonly params: JsonObject
}

/** Throws `invalid-argument` and `unknown-option`; `name` is the field's. */
export function instantiationOf(value: unknown, name: string): Instantiation {
  const { target, params, ...others } = objectOf(value, name)
  const [extra] = Object.keys(others)
  if (extra !== undefined) throw unknownOption(name, extra, ['target', 'params'])
  if (typeof target !== 'string') throw invalidArgument(`${name}.target`, 'the name of a class', target)
  return { target, params: params === undefined || params === null ? {} : objectOf(params, `${name}.params`) }
}

export interface Names {
  /** Arguments with the same meaning here: snake_case to camelCase. */
  readonly names: readonly string[]
  /** Arguments that would change the model, with the one value that does not; null never does. */
  readonly fixed?: JsonObject
  /** Arguments that the caller has taken out, for messages. */
  readonly known?: readonly string[]
}

/** Values are checked by whom the options are for. Throws `unknown-option` and `unsupported`. */
export function translate(owner: string, params: JsonObject, { names, fixed = {}, known = [] }: Names): JsonObject {
  const result: JsonObject = {}
  for (const [name, value] of Object.entries(params)) {
    if (names.includes(name)) result[camelCase(name)] = value
    else if (!Object.hasOwn(fixed, name)) {
      throw unknownOption(owner, name, [...names, ...Object.keys(fixed), ...known])
    } else if (value !== fixed[name] && value !== null) throw unsupportedValue(name, describe(fixed[name]), value)
  }
  return result
}

export function camelCase(name: string): string {
  return name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())
}

export function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}

export function objectOf(value: unknown, name: string): JsonObject {
  if (isObject(value)) return value
  throw invalidArgument(name, 'a mapping', value)
}

export function unsupportedValue(argument: string, expected: string, value: unknown): DiffusionError {
  const received = describe(value)
  const message = `${argument}: only ${expected} is supported, got ${received}`
  return new DiffusionError('unsupported', message, { argument, expected, received })
}
