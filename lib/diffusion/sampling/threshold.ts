/**
 * Dynamic thresholding: Saharia et al. 2022, section 2.3. The predicted x_0 of each sample is clipped to [-s, s] and divided by s, a
 * quantile of its absolute values: what the fused step's clipping to [-1, 1] does where x_0 is divided by s before.
 */
import type { Graph, Value } from '../../graph'
import type { Threshold } from '../process/settings'

/** s of each sample, [n, 1, 1, 1]; `x0` flat. Without noise in the image it is 1: nothing within [-1, 1] is changed. */
export function thresholdOf(g: Graph, x0: Value, { ratio, max }: Threshold): Value {
  return g.absQuantile(x0, { ratio, least: Math.min(1, max), most: max })
}
