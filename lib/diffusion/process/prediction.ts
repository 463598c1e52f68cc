/**
 * What the output of a network means, and what it sees, at every noise level of the variance preserving process
 * x = a x_0 + b noise, a^2 + b^2 = 1: one table, from which losses, samplers, learned variances and bits/dim take their coefficients.
 * Other processes are this one in other coordinates: Karras et al.'s x_0 + sigma noise is x / a with sigma = b / a, and the straight
 * line (1 - t) x_0 + t noise of flow matching is x / (a + b) with t = b / (a + b).
 */

import { invalidArgument } from '../../errors'

/**
 * What the network predicts: the noise, the clean image, v = a*noise - b*x_0 (Salimans & Ho 2022), F of EDM (Karras et al. 2022,
 * table 1), or noise - x_0, the velocity of flow matching (Lipman et al. 2023; Liu et al. 2023).
 */
export type Parameterization = 'eps' | 'x0' | 'v' | 'edm' | 'flow'
export const parameterizations: readonly Parameterization[] = ['eps', 'x0', 'v', 'edm', 'flow']

/** A parameterization with all that its formulas need: EDM's is given by the standard deviation of the data. */
export type Prediction = Exclude<Parameterization, 'edm'> | { readonly sigmaData: number }

/** Throws `invalid-argument` for a sigmaData without meaning. */
export function predictionOf(o: { parameterization: Parameterization; sigmaData?: number }): Prediction {
  const { parameterization, sigmaData = defaultSigmaData } = o
  if (parameterization !== 'edm' && o.sigmaData !== undefined) {
    throw invalidArgument('sigmaData', `nothing with parameterization '${parameterization}'`, o.sigmaData)
  }
  return parameterization === 'edm' ? { sigmaData } : parameterization
}

/** Of images in [-1, 1]: Karras et al. 2022, table 1. */
export const defaultSigmaData = 0.5

/** Coefficients [p, q] of two things. */
export type Row = readonly [number, number]

interface Meaning {
  /** The output is p x_0 + q noise. */
  readonly target: (a: number, b: number) => Row
  /** The network is given this times x. Default 1. */
  readonly input?: (a: number, b: number) => number
  /** The network is told this in place of the timestep. */
  readonly time?: (a: number, b: number, numTimesteps: number) => number
}

const table: Readonly<Record<Exclude<Parameterization, 'edm'>, Meaning>> = {
  eps: { target: () => [0, 1] },
  x0: { target: () => [1, 0] },
  v: { target: (a, b) => [-b, a] },
  // The time is diffusers': from 0 to T.
  flow: { target: () => [-1, 1], input: (a, b) => 1 / (a + b), time: (a, b, T) => (T * b) / (a + b) },
}

function meaningOf(prediction: Prediction): Meaning {
  return typeof prediction === 'string' ? table[prediction] : edm(prediction.sigmaData)
}

/** Karras et al. 2022, table 1: F = (x_0 - c_skip (x_0 + sigma noise)) / c_out, c_in and c_noise. */
function edm(sigmaData: number): Meaning {
  return {
    target: (a, b) => {
      const deviation = Math.hypot(b, a * sigmaData)
      return [b / (sigmaData * deviation), (-a * sigmaData) / deviation]
    },
    input: (a, b) => 1 / Math.hypot(b, a * sigmaData),
    time: (a, b) => Math.log(b / a) / 4,
  }
}

/** [p, q] of the output p x_0 + q noise; `bar` is alpha_bar, a^2. */
export function targetRow(prediction: Prediction, a: number, b: number): Row {
  return meaningOf(prediction).target(a, b)
}

/** x_0 as p x + q output. */
export function startRow(prediction: Prediction, bar: number): Row {
  const [a, b] = [Math.sqrt(bar), Math.sqrt(1 - bar)]
  const [p, q] = targetRow(prediction, a, b)
  if (q === 0) return [0, 1 / p]
  const determinant = p * b - q * a
  return [-q / determinant, b / determinant]
}

/** The noise as p x + q output. */
export function noiseRow(prediction: Prediction, bar: number): Row {
  const [a, b] = [Math.sqrt(bar), Math.sqrt(1 - bar)]
  const [p, q] = targetRow(prediction, a, b)
  if (p === 0) return [0, 1 / q]
  const determinant = p * b - q * a
  return [p / determinant, -a / determinant]
}

export function inputScale(prediction: Prediction): Meaning['input'] {
  return meaningOf(prediction).input
}

export function toldTime(prediction: Prediction): Meaning['time'] {
  return meaningOf(prediction).time
}

/** In terms of the processes that these are known for. */
export function onnxMeaning(output: Parameterization): { output: string; input?: string; time?: string } {
  if (output === 'edm') {
    return { output, input: '(x_0 + sigma noise) / sqrt(sigma^2 + sigma_data^2)', time: 'log(sigma) / 4' }
  }
  return output === 'flow' ? { output, input: '(1 - s) x_0 + s noise', time: 'T s' } : { output }
}
