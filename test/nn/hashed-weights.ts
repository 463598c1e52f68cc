/** Weights that both sides of a golden file make of names and shapes, so that the file does not have to hold them. */
import type { ParameterTable, StateDict } from '../../lib/nn/parameters'
import { sizeOf, Tensor } from '../../lib/tensor'

/** Uniform in [-1/2, 1/2): element i of the tensor that is the `index`-th by name. */
function uniform(index: number, i: number): number {
  let v = Math.imul(i + 1, 2654435761) + Math.imul(Math.imul(index + 1, 40503), 65537)
  v = Math.imul(v ^ (v >>> 15), 2246822519)
  v ^= v >>> 13
  return (v >>> 0) / 2 ** 32 - 0.5
}

/** Of variance 1 / fan-in; norms' scales around 1, Fourier frequencies up to 4. */
export function hashedWeights({ slots }: ParameterTable): StateDict {
  const sorted = slots.toSorted((a, b) => (a.name < b.name ? -1 : 1))
  return Object.fromEntries(
    sorted.map(({ name, shape }, index) => {
      const fanIn = sizeOf(shape.slice(1))
      const of = (u: number) => {
        if (shape.length > 1) return u * Math.sqrt(12 / fanIn)
        if (name.startsWith('time_proj')) return 8 * u
        return name.endsWith('weight') ? 1 + 0.4 * u : 0.2 * u
      }
      const data = Float32Array.from({ length: sizeOf(shape) }, (_, i) => of(uniform(index, i)))
      return [name, Tensor.from(data, shape)]
    }),
  )
}
