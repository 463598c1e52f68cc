/** What turns images into the numbers that sets of images are compared by. */
import type { Tensor } from '../tensor'

/** Of a batch of n images. */
export interface Features {
  /** [n, features] */
  readonly features: Tensor
  /** What softmax makes probabilities of, [n, classes], for the Inception score. Default: none. */
  readonly logits?: Tensor
}

/** A network whose features sets of images are compared by: `InceptionV3`, or one of yours. */
export interface FeatureExtractor {
  /** How many there are of an image. */
  readonly features: number
  /** Tells it from extractors with other weights. Statistics are kept on the disk by it. Default: they are not kept. */
  readonly identity?: string
  /** Of images [n, 3, height, width] in [-1, 1], of any size. Those of an image do not depend on the others of its batch. */
  extract(images: Tensor): Promise<Features>
  /** Gives its memory back. */
  release(): void
}
