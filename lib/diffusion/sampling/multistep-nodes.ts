/** The parts of a multistep sampler's step that the fused posterior step does not have; see plan.ts for the formula. */
import type { Graph, Value } from '../../graph'
import { columnName, type SamplingPlan } from './plan'

export type Multistep = Pick<SamplingPlan, 'history' | 'corrects' | 'starts'>

/**
 * `next` is the fused step's: its x0 is m_0, its y has the terms of m_0, of x where nothing is corrected, of the output and of the
 * noise. Inputs m1, m2, ..., base, the plan's columns [rows, 1, 1, 1], and `one`, a column of ones. Outputs y, m0, state and x0.
 */
export function multistepNodes(
  g: Graph,
  o: Multistep & { x: Value; row: Value; rows: number; next: { y: Value; x0: Value } },
): Record<'y' | 'm0' | 'state' | 'x0', Value> {
  const { x, row } = o
  const column = (name: string) => g.input(name, [o.rows, 1, 1, 1])
  const one = column('one')
  const scaled = (value: Value, name: string) => g.timestepAffine(value, column(name), row)
  const plus = (sum: Value, value: Value, name: string) => g.timestepAffine(sum, one, row, value, column(name))
  const earlier = Array.from({ length: o.history }, (_, i) => g.input(`m${i + 1}`, x.dims))
  const m = [o.next.x0, ...earlier]
  const plusAll = (sum: Value, use: 'correct' | 'start') =>
    m.reduce((total, value, i) => plus(total, value, columnName(use, `m${i}`)), sum)

  let state = x
  let y = o.next.y
  if (o.corrects) {
    const base = g.input('base', x.dims)
    state = plus(scaled(x, columnName('correct', 'point')), base, columnName('correct', 'base'))
    state = plusAll(state, 'correct')
    y = plus(y, state, columnName('next', 'state'))
  }
  for (const [i, value] of earlier.entries()) y = plus(y, value, columnName('next', `m${i + 1}`))
  const x0 = o.starts ? plusAll(scaled(state, columnName('start', 'state')), 'start') : o.next.x0
  return { y, m0: o.next.x0, state, x0 }
}
