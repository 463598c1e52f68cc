/** Weights that both sides of a golden file make of names and shapes, so that the file does not have to hold them. */
import type { StateDict } from '../../lib/nn/parameters'
import { sizeOf, Tensor } from '../../lib/tensor'

/** Uniform in [-1/2, 1/2): element i of the tensor that is the `index`-th by name. */
function uniform(index: number, i: number): number {
  let v = Math.imul(i + 1, 2654435761) + Math.imul(Math.imul(index + 1, 40503), 65537)
  v = Math.imul(v ^ (v >>> 15), 2246822519)
  v ^= v >>> 13
  return (v >>> 0) / 2 ** 32 - 0.5
}

function hashed(shape: readonly number[], of: (i: number) => number): Tensor {
  const data = new Float32Array(sizeOf(shape))
  for (let i = 0; i < data.length; i++) data[i] = of(i)
  return Tensor.wrap(data, shape)
}

/** Images in [-1, 1), of no weights' stream. */
export function hashedImages(shape: readonly number[]): Tensor {
  return hashed(shape, (i) => 2 * uniform(10_000, i))
}

interface Named {
  readonly name: string
  readonly shape: readonly number[]
}

/** Of variance 1 / fan-in; norms' scales around 1, their running variances around 1/2, Fourier frequencies up to 4. */
export function hashedWeights({ slots }: { readonly slots: readonly Named[] }): StateDict {
  const sorted = slots.toSorted((a, b) => (a.name < b.name ? -1 : 1))
  return Object.fromEntries(
    sorted.map(({ name, shape }, index) => {
      const fanIn = sizeOf(shape.slice(1))
      const of = (u: number) => {
        if (shape.length > 1) return u * Math.sqrt(12 / fanIn)
        if (name.startsWith('time_proj')) return 8 * u
        if (name.endsWith('running_var')) return 0.5 + 0.4 * u
        return name.endsWith('weight') ? 1 + 0.4 * u : 0.2 * u
      }
      return [name, hashed(shape, (i) => of(uniform(index, i)))]
    }),
  )
}
