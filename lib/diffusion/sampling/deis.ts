/** DEIS: Zhang & Chen 2023, "log rho": Adams-Bashforth for a noise that is a polynomial in log(sigma). Never clipped. */
import type { NoiseLevel } from './noise-levels'
import type { Evaluation } from './plan'
import { eachStep, noiseStepFrom, type SigmaOptions } from './sigma-space'

/** Order 1 to 3; the first steps have lower ones, and with `lowerOrderFinal` the last has order 1 and the one before 2 at most. */
export function deisEvaluations(
  levels: readonly NoiseLevel[],
  o: SigmaOptions & { order: number; lowerOrderFinal: boolean },
): Evaluation[] {
  return eachStep(levels, o, (level, { sigma: to }, i) => {
    const most = o.lowerOrderFinal ? levels.length - i : o.order
    const nodes = Array.from({ length: Math.min(o.order, i + 1, most) }, (_, k) => levels[i - k].sigma)
    return [noiseStepFrom({ ...o, level, to, next: [1, ...nodes.map((_, k) => integral(nodes, k, to))] })]
  })
}

/** Of the polynomial in log(sigma) that is 1 at node k and 0 at the others, from the first node to `to`. */
function integral(nodes: readonly number[], k: number, to: number): number {
  const logs = nodes.map((node) => Math.log(node / nodes[0]))
  // Its coefficients, by powers of v = log(sigma / first node).
  let polynomial = [1]
  for (const [j, log] of logs.entries()) {
    if (j === k) continue
    const shifted = [0, ...polynomial].map((c, power) => c - log * (polynomial[power] ?? 0))
    polynomial = shifted.map((c) => c / (logs[k] - log))
  }
  return (
    nodes[0] * ((to === 0 ? 0 : antiderivative(polynomial, Math.log(to / nodes[0]))) - antiderivative(polynomial, 0))
  )
}

/** Of e^v p(v): e^v (p - p' + p'' - ...), which is 0 at minus infinity. */
function antiderivative(polynomial: readonly number[], v: number): number {
  let sum = 0
  for (let p = polynomial, sign = 1; p.length > 0; sign = -sign) {
    sum += sign * p.reduceRight((value, c) => value * v + c, 0)
    p = p.slice(1).map((c, power) => c * (power + 1))
  }
  return Math.exp(v) * sum
}
