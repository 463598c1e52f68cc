/** The perceptual loss of ldm's first stages: lpips' distance by VGG16, with weights of files that the user names. */
import { plainTensors } from '../checkpoint/plain-numbers'
import { openStateDictFile } from '../checkpoint/state-dict-file'
import { DiffusionError, invalidArgument, quote } from '../errors'
import type { Graph, Value } from '../graph'
import type { NativeBuffer } from '../native'
import { LpipsNetwork, slices } from '../nn/lpips/network'
import type { StateDict } from '../nn/weights'
import { parseOptions } from '../options'
import type { Binding } from '../program'
import { checkTensor, sizeOf, Tensor } from '../tensor'
import { Stage, type StageOptions, stageSchema } from './stage'

/** What a step needs to go down this distance; maps are flat, [n, 1, 1, d]. */
interface Descent {
  /** Of the images, [n, c, h, w]. */
  readonly shape: readonly number[]
  readonly x: Binding
  /** What is changed, and what is behind it up to the images. */
  readonly image: NativeBuffer
  readonly end: (graph: Graph, image: Value) => Value
  /** What each image's distance counts for. */
  readonly weights: Float32Array
  /** Is given the gradient with respect to `image`. */
  readonly gradient: NativeBuffer
}

/** Zhang et al. 2018; never trained. */
export class LPIPS extends Stage {
  readonly #network: LpipsNetwork

  private constructor(network: LpipsNetwork, dict: StateDict, options: StageOptions) {
    super('LPIPS', network.parameters, parseOptions('LPIPS', options, stageSchema), async () => dict)
    this.#network = network
  }

  /**
   * Of one file or several, PyTorch's or safetensors, that have VGG16's convolutions by torchvision's names ('features.0.weight', as in its
   * vgg16-397923af.pth) or taming-transformers' ('net.slice1.0.weight'), and lpips' linear layers ('lin0.model.1.weight', as in its weights/v0.1/vgg.pth). Throws
   * `not-found`, `io`, `bad-file`, and `state-mismatch` for tensors that are missing or of another shape.
   */
  static async fromFiles(paths: readonly string[], options: StageOptions = {}): Promise<LPIPS> {
    if (!Array.isArray(paths) || paths.length === 0) throw invalidArgument('paths', 'names of files', paths)
    const found: StateDict = {}
    for (const path of paths) Object.assign(found, await readParts(path))
    const channels = slices.map((numbers) => wanted(found, `features.${numbers[0]}.weight`, paths).shape[0])
    const network = new LpipsNetwork(channels)
    const dict: StateDict = {}
    for (const { name, shape } of network.parameters.slots) {
      const tensor = wanted(found, name, paths)
      if (sizeOf(tensor.shape) !== sizeOf(shape)) {
        const message = `${name} has shape [${tensor.shape.join(', ')}], where [${shape.join(', ')}] is expected`
        throw new DiffusionError('state-mismatch', message, { argument: name })
      }
      const values = (await tensor.values()) as Float32Array
      dict[name] = Tensor.wrap(name.startsWith('lin') ? roots(values, name) : values, shape)
    }
    return new LPIPS(network, dict, options)
  }

  /** The distance of each image of x from that of y, [n, 3, h, w] or [n, 1, h, w] from -1 to 1, sides of at least 16: [n]. */
  async forward(x: Tensor, y: Tensor): Promise<Tensor> {
    checkImages(x)
    checkTensor(y, 'y', x.shape)
    const { shape } = x
    const build = (graph: Graph) => {
      const [a, b] = ['x', 'y'].map((name) => mapOf(graph, graph.input(name, flat(shape)), shape))
      return { distance: this.#network.build(graph, a, b) }
    }
    const inputs = { x: await x.binding(this.device), y: await y.binding(this.device) }
    const { distance } = await this.compute('distance', { shape: shape.join('x') }, build, inputs)
    return Tensor.wrap(distance, [shape[0]])
  }

  /** @internal The distances, and the gradient of their weighted sum. */
  async descend({ shape, x, image, end, weights, gradient }: Descent): Promise<Float32Array> {
    return this.call(async () => {
      const program = await this.program('descend', { shape: shape.join('x') }, (graph) => {
        const made = graph.input('image', flat(shape))
        const given = mapOf(graph, graph.input('x', flat(shape)), shape)
        const distance = graph.untrained(() => this.#network.build(graph, given, end(graph, mapOf(graph, made, shape))))
        const weighted = graph.weightedSum(distance, graph.input('weights of images', distance.dims))
        const [found] = graph.backward(weighted, [made])
        return { distance, gradient: found! }
      })
      const { distance } = await program.run({
        ...{ x, image, gradient, 'weights of images': weights },
        frozen: this.weights.bank('weights'),
      })
      return distance
    })
  }
}

const flat = ([n, ...rest]: readonly number[]) => [n, 1, 1, sizeOf(rest)] as const

function mapOf(graph: Graph, value: Value, [, channels, height, width]: readonly number[]): Value {
  return graph.toNhwc(value, { channels, height, width })
}

/** Halved four times. */
const leastSize = 16

/** @internal Throws `invalid-argument` for images that the network can't see. */
export function checkLpipsShape(argument: string, [, channels, height, width]: readonly number[]): void {
  if ((channels === 1 || channels === 3) && Math.min(height, width) >= leastSize) return
  const expected = `images of 1 or 3 channels and at least ${leastSize} pixels each way`
  throw invalidArgument(argument, expected, [channels, height, width])
}

function checkImages(x: Tensor): void {
  checkTensor(x, 'x')
  if (x.shape.length !== 4 || x.size === 0) {
    throw invalidArgument('x', 'a shape [n, c, height, width]', x.shape)
  }
  checkLpipsShape('x', x.shape)
}

/** taming-transformers' names of the convolutions: the slice they are in before torchvision's number. */
const ofTaming = /^net\.slice\d\.(\d+)\.(weight|bias)$/
const linear = /^(lin\d)\.model\.\d\.weight$/

/** By LpipsNetwork's names; undefined for what it has not. */
function ownName(name: string): string | undefined {
  if (name.startsWith('features.')) return name
  const conv = ofTaming.exec(name)
  if (conv) return `features.${conv[1]}.${conv[2]}`
  return linear.exec(name)?.[1]
}

async function readParts(path: string): Promise<StateDict> {
  const { tensors, budget } = await openStateDictFile(path, (dicts) => {
    const known = dicts.find(({ names }) => names.some((name) => ownName(name) !== undefined))
    return { key: known?.key ?? dicts[0]?.key ?? '', wanted: (name) => ownName(name) !== undefined }
  })
  const entries = Object.entries(plainTensors(tensors, budget))
  if (entries.length > 0) {
    return Object.fromEntries(entries.map(([name, tensor]) => [ownName(name)!, tensor]))
  }
  const message = `${path} has neither convolutions of VGG16 (features.0.weight) nor linear layers of lpips (lin0.model.1.weight)`
  throw new DiffusionError('state-mismatch', message, { argument: 'paths', received: path })
}

function wanted(found: StateDict, name: string, paths: readonly string[]): Tensor {
  if (found[name]) return found[name]
  const whose = name.startsWith('lin') ? 'of lpips' : 'of VGG16'
  const message = `${paths.map(quote).join(' and ')}: no ${name} ${whose}`
  throw new DiffusionError('state-mismatch', message, { argument: 'paths', expected: name })
}

/** lpips keeps its weights from being negative. */
function roots(values: Float32Array, name: string): Float32Array {
  const wrong = values.find((value) => !(value >= 0))
  if (wrong === undefined) return values.map(Math.sqrt)
  throw new DiffusionError('state-mismatch', `${name} has a weight of ${wrong}, where all are at least 0`, {
    argument: name,
  })
}
