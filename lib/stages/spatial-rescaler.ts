/** ldm's SpatialRescaler (modules/encoders/modules.py): an image condition at the size of the latents. */
import type { JsonObject } from '../checkpoint/json'
import { invalidArgument } from '../errors'
import { Rescaler, type RescalerOptions, rescalerSchema } from '../nn/rescaler'
import { parseOptions, type SchemaOf } from '../options'
import { sizeOf, Tensor } from '../tensor'
import { Stage, type StageNodes, type StageOptions, stageSchema, type WeightsSource } from './stage'

/** Of SpatialRescaler. */
export interface SpatialRescalerOptions extends RescalerOptions, StageOptions {}

const schema = { ...rescalerSchema, ...stageSchema } satisfies SchemaOf<SpatialRescalerOptions>

/** Its weights, if any, are trained: 'channel_mapper.weight', 'channel_mapper.bias'. */
export class SpatialRescaler extends Stage {
  /** @internal */
  readonly network: Rescaler
  /** It is trained with the diffusion model. */
  readonly trainable = true

  /** `source`: where the weights are read from; they are drawn without. Throws `invalid-argument`, `unknown-option`. */
  constructor(options: SpatialRescalerOptions = {}, source?: WeightsSource) {
    const { device, precision, weightFormat, seed, deterministic, ...o } = parseOptions(
      'SpatialRescaler',
      options,
      schema,
    )
    const network = new Rescaler(o)
    const own = { device, precision, weightFormat, seed, deterministic }
    super('SpatialRescaler', network.parameters, own, source)
    this.network = network
  }

  /** What makes it again, as plain JSON: `kind`, its class, and its options but for device, seed and precision. */
  get config(): JsonObject {
    return { kind: 'SpatialRescaler', ...this.network.options }
  }

  /** @internal `encode` as part of a graph. */
  async nodes(x: Tensor): Promise<StageNodes> {
    const { inChannels } = this.network.options
    if (!(x instanceof Tensor) || x.shape.length !== 4 || x.shape[1] !== inChannels || x.size === 0) {
      throw invalidArgument('x', `a float32 Tensor of shape [n, ${inChannels}, height, width]`, x)
    }
    const [n, channels, height, width] = x.shape
    return {
      key: x.shape.join('x'),
      bindings: { stageMap: await x.binding(this.device) },
      build: ({ graph }) => {
        const flat = graph.input('stageMap', [n, 1, 1, channels * height * width])
        return this.network.build(graph, graph.toNhwc(flat, { channels, height, width }))
      },
    }
  }

  /** x [n, inChannels, h, w], at [n, outChannels, floor(h * multiplier), ...] after each stage. Throws `invalid-argument`. */
  async encode(x: Tensor): Promise<Tensor> {
    const { key, bindings, build } = await this.nodes(x)
    const [n, , height, width] = x.shape
    const shape = [n, this.network.outChannels, this.network.sizeOf(height), this.network.sizeOf(width)]
    return this.call(async () => {
      const program = await this.program('rescale', { key }, (graph) => {
        return { y: graph.toNchw(build({ graph, train: false })) }
      })
      const y = this.device.allocate(sizeOf(shape))
      const weights = this.network.parameters.count > 0 ? this.weights.bindings('weights') : {}
      await program.run({ ...weights, ...bindings, y })
      return Tensor.onDevice(this.device, y, shape, { owned: true })
    })
  }
}
