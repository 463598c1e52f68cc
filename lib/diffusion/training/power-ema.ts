/**
 * Averages of the weights by power functions of time, and any such average from snapshots of a few: Karras et al. 2024, "Analyzing and
 * Improving the Training Dynamics of Diffusion Models", section 3 and appendix C. Their lengths are parts of the whole training.
 */
import { invalidArgument } from '../../errors'
import type { Weights } from '../../nn/weights'
import type { Core } from '../process/core'
import { average } from './ema'
import type { Shards } from './shards'

/** The widest: weights that grow evenly from the first step. Its gamma is 0. */
export const widestSigmaRel = Math.sqrt(1 / 12)

/** The exponent of the profile whose standard deviation is `sigmaRel` of the training: eq. 123, by bisection. */
export function gammaOf(sigmaRel: number): number {
  let [low, high] = [0, 1e8]
  for (let i = 0; i < 200; i++) {
    const gamma = (low + high) / 2
    if (sigmaRelOf(gamma) > sigmaRel) low = gamma
    else high = gamma
  }
  return (low + high) / 2
}

export function sigmaRelOf(gamma: number): number {
  return Math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))
}

/** How much of the average stays in update `step`, counted from 1: eq. 127. */
export function powerDecay(step: number, gamma: number): number {
  return (1 - 1 / step) ** (gamma + 1)
}

/** One average at one step. */
export interface EmaProfile {
  readonly step: number
  readonly sigmaRel: number
}

/**
 * What each snapshot is multiplied by in the sum that is nearest to the profile `target` in the mean square: algorithm 3. Of a
 * snapshot itself that is 1, and 0 for the others. Throws `invalid-argument` where there are none, or two are the same.
 */
export function reconstruct(snapshots: readonly EmaProfile[], target: EmaProfile): Float64Array {
  if (snapshots.length === 0) throw invalidArgument('snapshots', 'at least one', snapshots)
  const names = new Set(snapshots.map(({ step, sigmaRel }) => `${step} ${sigmaRel}`))
  if (names.size < snapshots.length) throw invalidArgument('snapshots', 'ones that differ', 'two that are the same')
  const rows = snapshots.map((a) => [...snapshots.map((b) => overlap(a, b)), overlap(a, target)])
  return solve(rows)
}

/** The integral of the product of two profiles (gamma + 1) t^gamma / T^(gamma + 1), times T of the first: eq. 143. */
function overlap(a: EmaProfile, b: EmaProfile): number {
  const [p, q] = [gammaOf(a.sigmaRel), gammaOf(b.sigmaRel)]
  const ratio = a.step < b.step ? (a.step / b.step) ** (q + 1) : (b.step / a.step) ** p
  return (((p + 1) * (q + 1)) / (p + q + 1)) * ratio
}

/** Gauss's elimination with pivots; the last column is the right side. */
function solve(rows: number[][]): Float64Array {
  const n = rows.length
  for (let k = 0; k < n; k++) {
    const pivot = rows.slice(k).reduce((best, row, i) => (Math.abs(row[k]) > Math.abs(rows[best][k]) ? k + i : best), k)
    ;[rows[k], rows[pivot]] = [rows[pivot], rows[k]]
    for (let i = k + 1; i < n; i++) {
      const factor = rows[i][k] / rows[k][k]
      for (let j = k; j <= n; j++) rows[i][j] -= factor * rows[k][j]
    }
  }
  const x = new Float64Array(n)
  for (let k = n - 1; k >= 0; k--) {
    let sum = rows[k][n]
    for (let j = k + 1; j < n; j++) sum -= rows[k][j] * x[j]
    x[k] = sum / rows[k][k]
  }
  return x
}

/** Those of a training, each in a bank of its own. */
export class PowerEmas {
  readonly #gammas: readonly number[]
  /** The update that was averaged in last. */
  #averaged = 0

  constructor(readonly sigmaRels: readonly number[]) {
    for (const sigmaRel of sigmaRels) {
      if (sigmaRel > 1e-3 && sigmaRel < widestSigmaRel) continue
      throw invalidArgument('emaSigmaRels', `numbers from 0.001 to ${widestSigmaRel.toFixed(4)}`, sigmaRel)
    }
    if (new Set(sigmaRels).size < sigmaRels.length) throw invalidArgument('emaSigmaRels', 'different ones', sigmaRels)
    this.#gammas = sigmaRels.map(gammaOf)
  }

  /** After update `step`, counted from 1; once for each. */
  async update(core: Core, weights: Weights, step: number, shards?: Shards): Promise<void> {
    if (step === this.#averaged || step < 1) return
    this.#averaged = step
    const runs = this.#gammas.map((gamma, i) =>
      average(core, { weights, shards, bank: `ema-${i}`, decay: powerDecay(step, gamma) }),
    )
    await Promise.all(runs)
  }

  /** As they are after update `step`. */
  resume(step: number): void {
    this.#averaged = step
  }
}
