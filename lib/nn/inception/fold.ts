/** A file's tensors of InceptionV3 become those of the network, whose convolutions have their norms in them. */
import { DiffusionError } from '../../errors'
import { sameShape, sizeOf, Tensor } from '../../tensor'
import type { ParameterTable, StateDict } from '../parameters'

interface Shaped {
  readonly shape: readonly number[]
}

/** A tensor of a file, of float32 numbers. */
export interface FileTensor extends Shaped {
  readonly data: ArrayLike<number>
}

/** Of torchvision's BatchNorm2d. */
const eps = 0.001
const statistics = ['weight', 'bias', 'running_mean', 'running_var'] as const

/** Names and shapes of the tensors that a file has of a network's parameters. */
export function inceptionTensors({ slots }: ParameterTable): { name: string; shape: readonly number[] }[] {
  return slots.flatMap(({ name, shape }) =>
    name.endsWith('.bn.bias')
      ? statistics.map((statistic) => ({ name: `${moduleOf(name)}.bn.${statistic}`, shape }))
      : [{ name, shape }],
  )
}

/**
 * y = gamma (w x - mean) / sqrt(variance + eps) + beta (Ioffe & Szegedy 2015) as w' x + b', computed in double, of tensors that
 * `checkInception` lets pass. Throws `state-mismatch` for numbers that are not finite, by the tensor's name.
 */
export function foldInception(
  table: ParameterTable,
  tensors: Readonly<Record<string, FileTensor>>,
  file: string,
): StateDict {
  const dict: StateDict = {}
  for (const { name, shape } of table.slots) {
    if (!name.endsWith('.bn.bias')) {
      if (!name.endsWith('.conv.weight')) dict[name] = finite(name, tensors[name].data, shape, file)
      continue
    }
    const [gamma, beta, mean, variance] = statistics.map((s) => tensors[`${moduleOf(name)}.bn.${s}`].data)
    const scales = Float64Array.from(gamma, (value, k) => value / Math.sqrt(variance[k] + eps))
    const biases = scales.map((scale, k) => beta[k] - mean[k] * scale)
    dict[name] = finite(`${moduleOf(name)}.bn`, biases, shape, file)
    const weight = `${moduleOf(name)}.conv.weight`
    const { data, shape: extents } = tensors[weight]
    const perChannel = sizeOf(extents.slice(1))
    const scaled = new Float32Array(data.length)
    for (const [k, scale] of scales.entries()) {
      for (let i = k * perChannel; i < (k + 1) * perChannel; i++) scaled[i] = data[i] * scale
    }
    dict[weight] = finite(weight, scaled, extents, file)
  }
  return dict
}

const moduleOf = (bias: string) => bias.slice(0, -'.bn.bias'.length)

function finite(name: string, values: ArrayLike<number>, shape: readonly number[], file: string): Tensor {
  const data = values instanceof Float32Array ? values : Float32Array.from(values)
  if (data.every((value) => Number.isFinite(value))) return Tensor.wrap(data, shape)
  throw mismatch(file, `${name} has numbers that are not finite`, name)
}

/**
 * Throws `state-mismatch`, by their names, for tensors that are missing, unexpected or of another shape; `file` is what they are of.
 */
export function checkInception(table: ParameterTable, tensors: Readonly<Record<string, Shaped>>, file: string): void {
  const wanted = new Map(inceptionTensors(table).map(({ name, shape }) => [name, shape]))
  const missing = [...wanted.keys()].filter((name) => !Object.hasOwn(tensors, name))
  const unexpected = Object.keys(tensors).filter((name) => !wanted.has(name))
  const wrong = [...wanted].filter(([name, shape]) => {
    return Object.hasOwn(tensors, name) && !sameShape(tensors[name].shape, shape)
  })
  const parts = [
    ...(missing.length > 0 ? [`missing: ${some(missing)}`] : []),
    ...(unexpected.length > 0 ? [`unexpected: ${some(unexpected)}`] : []),
    ...wrong.slice(0, 5).map(([name, shape]) => `${name} is [${tensors[name].shape}], not [${shape}]`),
  ]
  if (parts.length === 0) return
  throw mismatch(file, parts.join('; '), missing[0] ?? unexpected[0] ?? wrong[0][0])
}

/** A wrong file has hundreds. */
function some(names: readonly string[]): string {
  return names.length > 5 ? `${names.slice(0, 5).join(', ')} and ${names.length - 5} more` : names.join(', ')
}

function mismatch(file: string, problem: string, argument: string): DiffusionError {
  return new DiffusionError('state-mismatch', `${file} has not the weights of FID's InceptionV3; ${problem}`, {
    argument,
  })
}
