/** What latent diffusion needs of its first stage and of its conditioning stage, whatever they are. */
import type { StateDict } from '../../nn/weights'
import type { Seed } from '../../options'
import type { Tensor } from '../../tensor'

/** The distribution of an image's latents. */
export interface Posterior {
  /** [n, c, h, w]. */
  mode(): Tensor | Promise<Tensor>
  /** `noise`: of the latents' shape; default: drawn by `seed`. */
  sample(options?: { noise?: Tensor; seed?: Seed; sampleOffset?: number }): Tensor | Promise<Tensor>
}

/** What both stages offer. */
export interface LatentStage {
  /** Its weights. */
  stateDict?(): Promise<StateDict>
  /** Replaces them; with `strict` false, what the dict lacks stays. May give { missing, unexpected }, names. */
  loadStateDict?(dict: StateDict, options?: { readonly strict?: boolean }): Promise<unknown>
  /** Reads its weights, where they are not there yet. */
  prepare?(): Promise<void>
  /** Gives the device's memory back until it is used again. */
  offload?(): Promise<void>
  /** Gives all memory back. */
  dispose?(): void
}

/** AutoencoderKL, VQModelInterface, IdentityFirstStage. */
export interface FirstStage extends LatentStage {
  /** What each side of an image is divided by. Default 1. */
  readonly factor?: number
  /** Channels of the latents. Default: the model's. */
  readonly embedDim?: number
  /** Of images. Default: the latents'. */
  readonly outChannels?: number
  /** Images [n, c, h, w] in [-1, 1]. */
  encode(x: Tensor): Promise<Tensor | Posterior>
  /** Latents, not scaled. */
  decode(z: Tensor, options?: { signal?: AbortSignal }): Promise<Tensor>
  /** The gradient of the sum of `gradient` times decode(z), with respect to z: for differentiableDecodeFirstStage, which needs it. */
  decodeGradient?(z: Tensor, gradient: Tensor, options?: { forceNotQuantize?: boolean }): Promise<Tensor>
}

/** A text encoder, a class embedder, a rescaler of images. */
export interface CondStage extends LatentStage {
  encode(input: never): Promise<Tensor | Posterior>
}

export function isPosterior(encoded: Tensor | Posterior): encoded is Posterior {
  return typeof (encoded as Partial<Posterior> | undefined)?.mode === 'function'
}
