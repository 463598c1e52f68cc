/**
 * ddpm.py's apply_model with split_input_params, in the graph: the network of each patch, and the weighted mean of what it says. It is
 * linear in what the network says, so that gradients go through it.
 */
import { DiffusionError, invalidArgument } from '../../errors'
import type { Graph, Value } from '../../graph'
import type { Conditioning } from '../../nn/network'
import type { Shape } from '../../tensor'
import type { Pieces } from '../process/denoiser'
import { type ParsedSplit, Patches } from './split-input'

/** Conditions that lie on the map as x does, by their names in a batch. */
const maps = ['image', 'LR_image', 'segmentation', 'bbox_img']

/** Throws `unsupported` for a model whose conditions can't be given to patches. */
export function checkSplit(o: { conditioningKey?: string; condStageKey: string; model?: unknown }): void {
  const { conditioningKey: key, condStageKey, model } = o
  const refuse = (argument: string, reason: string) => {
    throw new DiffusionError('unsupported', `splitInputParams: ${reason}`, { argument })
  }
  if (typeof model === 'function') refuse('model', 'needs a network, not a function')
  if (key === 'hybrid') refuse('conditioningKey', "'hybrid' has more than one condition")
  if (condStageKey === 'coordinates_bbox') refuse('condStageKey', 'boxes are not cut for patches')
  if (key === 'concat' && !maps.includes(condStageKey)) {
    refuse('condStageKey', `a map is cut where it is ${maps.join(', ')}, not ${condStageKey}`)
  }
}

export class SplitNetwork implements Pieces {
  constructor(readonly params: ParsedSplit) {}

  /** Throws `invalid-argument` where patches don't fit or leave pixels without weight: upstream's are NaN there. */
  pieces([n, c, h, w]: Shape): { readonly count: number; readonly shape: Shape } {
    const { ks, tieBraker } = this.params
    const patches = new Patches([h, w], this.params)
    if (ks.includes(1)) throw invalidArgument('ks', 'at least 2 pixels each way', ks)
    if (tieBraker && patches.grid.includes(1)) {
      throw invalidArgument('tieBraker', 'false where patches lie in one row or column', tieBraker)
    }
    if (!patches.covers) {
      const expected = `steps from patch to patch that reach all of ${h} x ${w} pixels`
      throw invalidArgument('stride', expected, this.params.stride)
    }
    return { count: patches.count, shape: [n, c, ...ks] }
  }

  build(
    graph: Graph,
    x: Value,
    { concat, estimate, ...whole }: Conditioning,
    apply: (x: Value, conditioning: Conditioning, piece: number) => Value,
  ): Value {
    const [n, h, w] = x.dims
    const [kh, kw] = this.params.ks
    const patches = new Patches([h, w], this.params)
    // Each pixel is a sample of its own, whose "timestep" is its place in the patch.
    const places = Int32Array.from({ length: n * kh * kw }, (_, i) => i % (kh * kw))
    const place = graph.constant(places, [places.length, 1, 1, 1])
    let sum: Value | undefined
    for (let i = 0; i < patches.count; i++) {
      const [top, left] = patches.corner(i)
      const padding = [top, left, h - kh - top, w - kw - left]
      const cut = (map: Value) => graph.firResample(map, { taps: [1], padding: padding.map((v) => -v) })
      const own = { ...whole, concat: concat && cut(concat), estimate: estimate && cut(estimate) }
      const made = apply(cut(x), own, i)
      const channels = made.dims[3]
      const pixels = graph.reshape(made, [places.length, 1, 1, channels])
      const weights = graph.constant(patches.shares(i), [kh * kw, 1, 1, 1])
      const weighted = graph.reshape(graph.timestepAffine(pixels, weights, place), [n, kh, kw, channels])
      const part = graph.firResample(weighted, { taps: [1], padding })
      sum = sum ? graph.add(sum, part) : part
    }
    return sum!
  }
}
