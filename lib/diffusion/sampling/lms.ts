/** Linear multistep in sigma (Adams-Bashforth for unequal steps): k-diffusion's LMS. Multistep in the noise, never clipped. */
import type { NoiseLevel } from './noise-levels'
import type { Evaluation } from './plan'
import { eachStep, noiseStepFrom, type SigmaOptions } from './sigma-space'

/** Order 1 to 4; the first steps have lower ones. */
export function lmsEvaluations(levels: readonly NoiseLevel[], o: SigmaOptions & { order: number }): Evaluation[] {
  return eachStep(levels, o, (level, { sigma: to }, i) => {
    const nodes = Array.from({ length: Math.min(o.order, i + 1) }, (_, k) => levels[i - k].sigma)
    // The slope dx / dsigma is the noise.
    return [noiseStepFrom({ ...o, level, to, next: [1, ...nodes.map((_, k) => lagrangeIntegral(nodes, k, to))] })]
  })
}

/** Of the polynomial that is 1 at node k and 0 at the others (4 at most), from the first node to `to`. */
function lagrangeIntegral(nodes: readonly number[], k: number, to: number): number {
  const [center, half] = [(to + nodes[0]) / 2, (to - nodes[0]) / 2]
  const value = (sigma: number) =>
    nodes.reduce((product, node, j) => (j === k ? product : (product * (sigma - node)) / (nodes[k] - node)), 1)
  // Two points of Gauss' are exact up to degree 3.
  const offset = half / Math.sqrt(3)
  return half * (value(center - offset) + value(center + offset))
}
