/** The features that FID, KID and the Inception score are computed of, by weights of a file that the user names. */
import { createHash } from 'node:crypto'
import { findWeights, type NamedDict } from '../checkpoint/find-weights'
import { plainNumbers } from '../checkpoint/plain-numbers'
import { readShapes, readStateDictFile } from '../checkpoint/state-dict-file'
import { Device, type DeviceName } from '../device'
import { DiffusionError, invalidArgument } from '../errors'
import type { NativeBuffer } from '../native'
import { checkInception, foldInception } from '../nn/inception/fold'
import { InceptionNetwork, inceptionClasses, inceptionSize } from '../nn/inception/network'
import type { StateDict } from '../nn/parameters'
import { parseOptions, type SchemaOf, value } from '../options'
import { ProgramCache } from '../program'
import { Tensor } from '../tensor'
import type { FeatureExtractor, Features } from './feature-extractor'

/** Of InceptionV3.fromFile. */
export interface InceptionV3Options {
  /** Where it is computed. Default 'auto'. */
  device?: DeviceName | Device
}

const schema = {
  device: value<DeviceName | Device>('a device name', (v) => typeof v === 'string' || v instanceof Device),
} satisfies SchemaOf<InceptionV3Options>

/** The same numbers for an image in any batch. */
const compile = { deterministic: true }

/**
 * The network that FID is defined by (Heusel et al. 2017), as pytorch-fid computes it: images of any size are resized to 299 x 299,
 * bilinearly without a filter, in float32.
 */
export class InceptionV3 implements FeatureExtractor {
  readonly features: number
  /** A hash of the weights. */
  readonly identity: string
  readonly device: Device

  readonly #network: InceptionNetwork
  readonly #weights: NativeBuffer
  /** Resizing, by the images' size; and the network, of which each has a copy of the weights in the form that it reads. */
  readonly #resizes: ProgramCache
  readonly #programs: ProgramCache
  #released = false

  private constructor(network: InceptionNetwork, weights: Float32Array, device: Device) {
    this.#network = network
    this.features = network.features
    this.identity = `inception-v3 ${createHash('sha256').update(weights).digest('hex')}`
    this.device = device
    this.#weights = device.upload(weights)
    this.#resizes = new ProgramCache(device)
    this.#programs = new ProgramCache(device, 2)
  }

  /**
   * Of pytorch-fid's pt_inception-2015-12-05-6726825d.pth, or the same tensors as safetensors. Throws `not-found`, `io`, `bad-file`,
   * `unsupported` for torchvision's own weights, whose features are others, and `state-mismatch`, by their names, for tensors that are
   * missing, unexpected, of another shape or not finite.
   */
  static async fromFile(path: string, options: InceptionV3Options = {}): Promise<InceptionV3> {
    const { device } = parseOptions('InceptionV3', options, schema)
    const network = new InceptionNetwork()
    const { flat } = await network.parameters.fromStateDict(await readInception(path, network))
    return new InceptionV3(network, flat, Device.open(device))
  }

  /**
   * Images [n, 3, height, width] in [-1, 1], rounded to 8 bits where they are to be compared with what others computed of files.
   * Features [n, 2048], of the last mean pool; logits [n, 1008], with the bias. Takes 8 MiB an image on the device. Throws `invalid-argument` and `disposed`.
   */
  async extract(images: Tensor): Promise<Required<Features>> {
    if (this.#released) throw new DiffusionError('disposed', 'InceptionV3 was used after release()')
    const [n, channels, height, width] = checked(images)
    const size = { height: inceptionSize, width: inceptionSize }
    const resize = this.#resizes.get(
      'resize',
      { n, height, width },
      (g) => {
        const given = g.input('images', [n, 1, 1, channels * height * width])
        return { resized: g.resizeBilinear(g.toNhwc(given, { channels, height, width }), size) }
      },
      compile,
    )
    const program = this.#programs.get(
      'inception',
      { n },
      (g) => ({ ...this.#network.build(g, g.input('x', [n, inceptionSize, inceptionSize, channels])) }),
      compile,
    )
    const calls = [this.#resizes, this.#programs].map((cache) => ({ cache, call: cache.begin() }))
    const resized = this.device.allocate(n * channels * inceptionSize ** 2)
    try {
      await resize.run({ images: await images.binding(this.device), resized })
      const { features, logits } = await program.run({ x: resized, weights: this.#weights })
      return {
        features: Tensor.wrap(features, [n, this.features]),
        logits: Tensor.wrap(logits, [n, inceptionClasses]),
      }
    } finally {
      resized.release()
      for (const { cache, call } of calls) cache.end(call)
    }
  }

  /** Gives all memory back. Using it afterwards throws `disposed`; releasing it again does nothing. */
  release(): void {
    if (this.#released) return
    this.#released = true
    this.#resizes.release()
    this.#programs.release()
    this.#weights.release()
  }

  [Symbol.dispose](): void {
    this.release()
  }
}

function checked(images: Tensor): readonly number[] {
  const fits = images instanceof Tensor && images.dtype === 'float32' && images.shape.length === 4
  if (fits && images.shape[1] === 3 && images.size > 0) return images.shape
  throw invalidArgument('images', 'a float32 Tensor of shape [n, 3, height, width]', images)
}

/** A parameter's name, by which the weights are found in the file. */
const anchor = 'Conv2d_1a_3x3.conv.weight'
/** Of the classifier beside the main one in torchvision's training. */
const auxiliary = 'AuxLogits.'

/** Names and shapes first: of another network's file, however large, nothing else is read. */
async function readInception(path: string, { parameters }: InceptionNetwork): Promise<StateDict> {
  let prefix = ''
  const choose = (dicts: readonly NamedDict[]) => {
    const [place = { key: dicts[0]?.key ?? '', prefix: '' }] = findWeights(dicts, [anchor])
    prefix = place.prefix
    // How many batches the norms' statistics are of says nothing.
    const wanted = (name: string) => name.startsWith(prefix) && !name.endsWith('.num_batches_tracked')
    return { key: place.key, wanted }
  }
  const shapes = bare(await readShapes(path, choose), prefix)
  const classes = Object.hasOwn(shapes, 'fc.weight') ? shapes['fc.weight'].shape[0] : inceptionClasses
  if (classes === 1000 || Object.keys(shapes).some((name) => name.startsWith(auxiliary))) {
    const message = `${path} has torchvision's own weights of inception_v3, trained for 1000 classes, which give other features than those that FID is defined by: pytorch-fid's pt_inception-2015-12-05-6726825d.pth`
    throw new DiffusionError('unsupported', message, { argument: 'path', received: path })
  }
  checkInception(parameters, shapes, path)
  const { tensors, others, budget } = await readStateDictFile(path, choose)
  if (others.length > 0) throw budget.bad(`'${others[0]}' is no tensor`)
  return foldInception(parameters, bare(plainNumbers(tensors, budget), prefix), path)
}

function bare<T>(tensors: Readonly<Record<string, T>>, prefix: string): Readonly<Record<string, T>> {
  return Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name.slice(prefix.length), tensor]))
}
