/** An autoencoder as latent-diffusion has them: Encoder, Decoder, the 1x1 convolutions between, and perhaps a codebook. */
import { invalidArgument } from '../../errors'
import type { Value } from '../../graph'
import { Conv2d } from '../layers'
import type { BuildContext } from '../network'
import { ParameterTable, Scope } from '../parameters'
import { LayerCounter } from './blocks'
import { Decoder } from './decoder'
import { Encoder } from './encoder'
import type { AutoencoderShape } from './options'
import { Quantizer, type QuantizerShape } from './quantizer'

export class Autoencoder {
  readonly parameters = new ParameterTable()
  readonly #encoder: Encoder
  readonly #decoder: Decoder
  readonly quantizer?: Quantizer
  readonly #quantConv: Conv2d
  readonly #postQuantConv: Conv2d

  /** `codebook`: an entry has `embedDim` numbers. Without one the encoder puts out means and log variances. */
  constructor(
    readonly shape: AutoencoderShape,
    readonly embedDim: number,
    readonly codebook?: QuantizerShape,
  ) {
    if (shape.doubleZ !== (codebook === undefined)) {
      const expected = codebook ? 'false, for a codebook' : 'true, for means and log variances'
      throw invalidArgument('doubleZ', expected, shape.doubleZ)
    }
    const scope = new Scope(this.parameters)
    const layers = new LayerCounter()
    this.#encoder = new Encoder(scope.at('encoder'), shape, layers)
    this.#decoder = new Decoder(scope.at('decoder'), shape, layers)
    if (codebook) this.quantizer = new Quantizer(scope.at('quantize'), codebook)
    const twice = codebook ? 1 : 2
    this.#quantConv = new Conv2d(scope.at('quant_conv'), twice * shape.zChannels, twice * embedDim, { kernel: 1 })
    this.#postQuantConv = new Conv2d(scope.at('post_quant_conv'), embedDim, shape.zChannels, { kernel: 1 })
  }

  /** What each side of a map is divided by on the way to latents. */
  get factor(): number {
    return 2 ** (this.shape.channels.length - 1)
  }

  /** Images [n, h, w, inChannels] to moments [n, h', w', 2 embedDim], or with a codebook to latents before it, of embedDim. */
  encode(context: BuildContext, x: Value): Value {
    return this.#quantConv.build(context, this.#encoder.build(context, x))
  }

  /** Latents [n, h', w', embedDim] to images [n, factor h', factor w', outChannels]. */
  decode(context: BuildContext, z: Value): Value {
    return this.#decoder.build(context, this.#postQuantConv.build(context, z))
  }

  /** The same up to the last convolution, and up to what is behind it: `decodedEnd`. */
  decodedParts(context: BuildContext, z: Value): { readonly features: Value; readonly image: Value } {
    return this.#decoder.parts(context, this.#postQuantConv.build(context, z))
  }

  decodedEnd(context: Pick<BuildContext, 'graph'>, image: Value): Value {
    return this.#decoder.end(context, image)
  }
}
