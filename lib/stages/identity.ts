/** The first stage of a model in pixel space. */
import type { JsonObject } from '../checkpoint/json'
import { boolean, parseOptions, type SchemaOf } from '../options'
import type { Tensor } from '../tensor'

export interface IdentityFirstStageOptions {
  /** `quantize` gives what a codebook does, with no loss and no indices. Default false: x alone. */
  vqInterface?: boolean
}

const schema = { vqInterface: boolean(false) } satisfies SchemaOf<IdentityFirstStageOptions>

/** Gives what it is given. */
export class IdentityFirstStage {
  readonly vqInterface: boolean

  constructor(options: IdentityFirstStageOptions = {}) {
    this.vqInterface = parseOptions('IdentityFirstStage', options, schema).vqInterface
  }

  /** What makes it again, as plain JSON. */
  get config(): JsonObject {
    return { kind: 'IdentityFirstStage', vqInterface: this.vqInterface }
  }

  async encode(x: Tensor): Promise<Tensor> {
    return x
  }

  async decode(x: Tensor): Promise<Tensor> {
    return x
  }

  /** Of decode: the gradient itself. */
  async decodeGradient(_z: Tensor, gradient: Tensor): Promise<Tensor> {
    return gradient
  }

  async quantize(x: Tensor): Promise<Tensor | { quant: Tensor; loss: undefined; indices: undefined }> {
    return this.vqInterface ? { quant: x, loss: undefined, indices: undefined } : x
  }

  async forward(x: Tensor): Promise<Tensor> {
    return x
  }
}
