/**
 * What diffusers' Skip blocks have beside residual blocks: the picture itself, at the resolution of each level. On the way down
 * it is filtered and halved and becomes a part of the map; on the way up each level adds to it, and it is a part of the output.
 * Song et al. 2021, NCSN++ (progressive_input and progressive 'input_skip' and 'output_skip'); filters after Karras et al. 2019.
 */
import type { Value } from '../../graph'
import { Conv2d, GroupNorm, type Layer, type NormOptions } from '../layers'
import type { BuildContext } from '../network'
import type { Scope } from '../parameters'

/** The picture as it is carried along one way; undefined on the way up until a level makes one. */
export interface Carried {
  picture?: Value
}

/** Halves a map by the filter [1, 3, 3, 1]. */
export const firDownsample: Layer = {
  build: ({ graph }, x) => graph.firResample(x, { taps: firTaps(8), down: 2, padding: [1, 1, 1, 1] }),
}
/** Doubles a map by the same filter. */
export const firUpsample: Layer = {
  build: ({ graph }, x) => graph.firResample(x, { taps: firTaps(4), up: 2, padding: [2, 2, 1, 1] }),
}

function firTaps(divisor: number): number[] {
  return [1, 3, 3, 1].map((tap) => tap / divisor)
}

/** Halves the picture and adds what a 1x1 convolution makes of it to the map. */
export class SkipDown {
  readonly #conv: Conv2d

  constructor(scope: Scope, o: { pictureChannels: number; channels: number }) {
    this.#conv = new Conv2d(scope.at('skip_conv'), o.pictureChannels, o.channels, { kernel: 1 })
  }

  build(context: BuildContext, x: Value, { down }: { readonly down: Carried }): Value {
    down.picture = firDownsample.build(context, down.picture!)
    return context.graph.add(this.#conv.build(context, down.picture), x)
  }
}

/** Doubles the picture, and adds what a convolution makes of the map; the map stays. At the top it only doubles. */
export class SkipUp {
  readonly #norm?: GroupNorm
  readonly #conv?: Conv2d

  constructor(scope: Scope, o: { pictureChannels: number; channels: number; norm: NormOptions; top: boolean }) {
    if (o.top) return
    this.#conv = new Conv2d(scope.at('skip_conv'), o.channels, o.pictureChannels, { kernel: 3, padding: 1 })
    this.#norm = new GroupNorm(scope.at('skip_norm'), o.channels, o.norm)
  }

  build(context: BuildContext, x: Value, { up }: { readonly up: Carried }): Value {
    const { graph } = context
    if (up.picture) up.picture = firUpsample.build(context, up.picture)
    if (this.#conv && this.#norm) {
      const more = this.#conv.build(context, graph.silu(this.#norm.build(context, x)))
      up.picture = up.picture ? graph.add(up.picture, more) : more
    }
    return x
  }
}
