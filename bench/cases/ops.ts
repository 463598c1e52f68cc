/** Single ops at the shapes of the CIFAR-10 UNet. */
import type { Case } from '../harness'
import { type GraphBuilder, graphCase } from './graph-case'

interface Conv {
  readonly n: number
  readonly size: number
  readonly c: number
  readonly k: number
  readonly r: number
  readonly stride: number
}

function conv({ n, size, c, k, r, stride }: Conv, backward: boolean): Case {
  const out = size / stride
  const flops = 2 * n * out * out * k * c * r * r * (backward ? 3 : 1)
  const name = `${r}x${r} ${c}->${k}${stride > 1 ? ` stride ${stride}` : ''} ${size}x${size} batch ${n}`
  const pad = (r - 1) >> 1
  const build = (b: GraphBuilder) => {
    const x = b.input([n, size, size, c])
    // The first convolution makes the second one's dgrad necessary; an elementwise op does it for less.
    const inner = backward ? b.graph.addSample(x, b.graph.linear(b.input([n, 1, 1, 1]), b.parameter(c, 1))) : x
    return b.graph.conv2d(inner, b.parameter(k, c, r, r), b.parameter(k), { stride, padding: [pad, pad, pad, pad] })
  }
  return graphCase(`conv ${name}${backward ? ' forward+backward' : ''}`, flops, build, { backward })
}

const convs: readonly Conv[] = [
  { n: 1, size: 32, c: 128, k: 128, r: 3, stride: 1 },
  { n: 16, size: 32, c: 128, k: 128, r: 3, stride: 1 },
  { n: 1, size: 16, c: 256, k: 256, r: 3, stride: 1 },
  { n: 16, size: 16, c: 256, k: 256, r: 3, stride: 1 },
  { n: 16, size: 8, c: 512, k: 256, r: 3, stride: 1 },
  { n: 16, size: 4, c: 256, k: 256, r: 3, stride: 1 },
  { n: 16, size: 32, c: 128, k: 128, r: 3, stride: 2 },
  { n: 16, size: 32, c: 3, k: 128, r: 3, stride: 1 },
  { n: 16, size: 32, c: 128, k: 3, r: 3, stride: 1 },
  { n: 16, size: 16, c: 512, k: 256, r: 1, stride: 1 },
]

/** Nearest upsampling by 2 and the 3x3 convolution after it; `size` is that of the result. */
function upsampledConv(n: number, size: number, c: number): Case {
  const build = (b: GraphBuilder) => {
    const x = b.graph.upsampleNearest(b.input([n, size / 2, size / 2, c]), { factor: 2 })
    return b.graph.conv2d(x, b.parameter(c, c, 3, 3), b.parameter(c), { stride: 1, padding: [1, 1, 1, 1] })
  }
  return graphCase(`upsample + conv 3x3 ${c}->${c} ${size}x${size} batch ${n}`, 18 * n * size ** 2 * c ** 2, build)
}

function groupNormSilu(n: number, size: number, c: number, backward: boolean): Case {
  const build = (b: GraphBuilder) => {
    const x = b.input([n, size, size, c])
    const inner = backward ? b.graph.addSample(x, b.graph.linear(b.input([n, 1, 1, 1]), b.parameter(c, 1))) : x
    return b.graph.silu(b.graph.groupNorm(inner, b.parameter(c), b.parameter(c), { groups: 32, eps: 1e-5 }))
  }
  const name = `group norm + SiLU ${size}x${size}x${c} batch ${n}${backward ? ' forward+backward' : ''}`
  return graphCase(name, undefined, build, { backward })
}

function attention(n: number, size: number, c: number, heads: number, backward: boolean): Case {
  const tokens = size * size
  const build = (b: GraphBuilder) => {
    const x = b.input([n, size, size, 3 * c])
    const inner = backward ? b.graph.addSample(x, b.graph.linear(b.input([n, 1, 1, 1]), b.parameter(3 * c, 1))) : x
    const scale = 1 / Math.sqrt(c / heads)
    return b.graph.attentionQkv(inner, { heads, scale, order: 'heads-first' })
  }
  const name = `attention ${tokens} tokens, ${heads} x ${c / heads} batch ${n}${backward ? ' forward+backward' : ''}`
  return graphCase(name, 4 * n * tokens * tokens * c * (backward ? 3.5 : 1), build, { backward })
}

export const opCases: readonly Case[] = [
  ...convs.map((c) => conv(c, false)),
  ...convs.map((c) => conv(c, true)),
  upsampledConv(1, 32, 256),
  upsampledConv(16, 32, 256),
  graphCase('linear 512->512 batch 16', 2 * 16 * 512 * 512, (b) =>
    b.graph.linear(b.input([16, 1, 1, 512]), b.parameter(512, 512), b.parameter(512)),
  ),
  groupNormSilu(16, 32, 128, false),
  groupNormSilu(16, 32, 128, true),
  attention(16, 16, 256, 1, false),
  attention(16, 16, 256, 4, false),
  attention(16, 16, 256, 4, true),
  attention(1, 64, 256, 4, false),
  attention(1, 64, 256, 4, true),
]
