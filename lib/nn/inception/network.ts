/** InceptionV3 as FID is defined by: the network of pytorch-fid's pt_inception-2015-12-05-6726825d.pth, which is TensorFlow's of 2015. */
import type { Graph, Value } from '../../graph'
import { Linear } from '../layers'
import { ParameterTable, Scope } from '../parameters'
import { blockA, blockB, blockC, blockD, blockE } from './blocks'
import { Convolutions, chain, halvingPool, imageChannels, type Layer, maxPool, meanPool } from './layers'

/** Height and width that images are resized to. */
export const inceptionSize = 299
/** 1000 of ImageNet, and some that were never trained. */
export const inceptionClasses = 1008

export interface InceptionOptions {
  /** How much of each layer's channels there is, a multiple of 1/16: for tests. Default 1. */
  readonly width?: number
}

export interface InceptionOutputs {
  /** The mean over the last map, [n, 1, 1, features]: pytorch-fid's block 3, 'pool_3' in TensorFlow. */
  readonly features: Value
  /** [n, 1, 1, inceptionClasses] */
  readonly logits: Value
}

export class InceptionNetwork {
  /** By torchvision's names, with each norm folded into the convolution before it: `foldInception` makes them of a file's. */
  readonly parameters = new ParameterTable()
  /** 2048, times the width. */
  readonly features: number

  readonly #maps: Layer
  readonly #classifier: Linear

  constructor({ width = 1 }: InceptionOptions = {}) {
    const root = new Scope(this.parameters)
    const c = new Convolutions(root, width)
    this.#maps = chain(
      c.conv('Conv2d_1a_3x3', [imageChannels, 32], { kernel: 3, stride: 2, padding: 'valid' }),
      c.conv('Conv2d_2a_3x3', [32, 32], { kernel: 3, padding: 'valid' }),
      c.conv('Conv2d_2b_3x3', [32, 64], { kernel: 3 }),
      halvingPool,
      c.conv('Conv2d_3b_1x1', [64, 80]),
      c.conv('Conv2d_4a_3x3', [80, 192], { kernel: 3, padding: 'valid' }),
      halvingPool,
      blockA(c.at('Mixed_5b'), 192, 32),
      blockA(c.at('Mixed_5c'), 256, 64),
      blockA(c.at('Mixed_5d'), 288, 64),
      blockB(c.at('Mixed_6a'), 288),
      blockC(c.at('Mixed_6b'), 768, 128),
      blockC(c.at('Mixed_6c'), 768, 160),
      blockC(c.at('Mixed_6d'), 768, 160),
      blockC(c.at('Mixed_6e'), 768, 192),
      blockD(c.at('Mixed_7a'), 768),
      blockE(c.at('Mixed_7b'), 1280, meanPool),
      blockE(c.at('Mixed_7c'), 2048, maxPool), // as in the graph of 2015, by whatever mistake
    )
    this.features = 2048 * width
    this.#classifier = new Linear(root.at('fc'), this.features, inceptionClasses)
  }

  /** x [n, inceptionSize, inceptionSize, 3] in [-1, 1]. */
  build(graph: Graph, x: Value): InceptionOutputs {
    const maps = this.#maps(graph, x)
    const features = graph.avgPool(maps, { kernel: maps.dims[1] })
    return { features, logits: this.#classifier.build({ graph, train: false }, features) }
  }
}
