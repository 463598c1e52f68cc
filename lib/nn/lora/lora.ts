/**
 * Low-rank updates of a network's linear layers and convolutions (Hu et al. 2022, LoRA): beside y = W x there is B (A x), with
 * few numbers in A and B. A scale, alpha / rank in other libraries, is part of B.
 */
import { invalidArgument } from '../../errors'
import type { LinearSlots, Value } from '../../graph'
import type { BuildContext, Conditioning, Network, NetworkGraph, Preparation, Prepared } from '../network'
import { type Parameter, type ParameterTable, Scope, uniformFanIn, zeros } from '../parameters'

/** Ranks by the names of modules, such as 'middle_block.1.qkv'. */
export type Ranks = ReadonlyMap<string, number>

/** A, [rank, in] or [rank, in, kh, kw], and B, [out, rank] or [out, rank, 1, 1]; their names are PEFT's. */
export interface Adapter {
  readonly module: string
  readonly weight: Parameter
  readonly down: Parameter
  readonly up: Parameter
}

const suffix = '.weight'

/** The modules that can have an update: linear layers, those of attention among them, and convolutions. */
export function adaptable(table: ParameterTable): Map<string, Parameter> {
  const weights = table.slots.filter(({ layer, name }) => layer !== undefined && name.endsWith(suffix))
  return new Map(weights.map((slot) => [slot.name.slice(0, -suffix.length), slot]))
}

/**
 * A network with updates. Their parameters, `module`.lora_A.weight and .lora_B.weight, are in the table of the network that it is
 * made of, whose own are frozen. It is the same network as before until B, which is 0 at first, is trained or loaded.
 */
export class LoraNetwork implements Network {
  readonly adapters: readonly Adapter[]

  /** Takes `base` for its own. Throws `invalid-argument` for a module that it has not got. */
  constructor(
    readonly base: Network,
    readonly ranks: Ranks,
  ) {
    const table = base.parameters
    const modules = adaptable(table)
    this.adapters = [...ranks].map(([module, rank]) => {
      const weight = modules.get(module)
      if (!weight)
        throw invalidArgument('lora', 'modules of the network that are linear layers or convolutions', module)
      return addAdapter(table, module, weight, rank)
    })
    const own = new Set(this.adapters.flatMap(({ down, up }) => [down.name, up.name]))
    table.freeze((name) => !own.has(name))
  }

  get inChannels() {
    return this.base.inChannels
  }
  get outChannels() {
    return this.base.outChannels
  }
  get imageSize() {
    return this.base.imageSize
  }
  get imageWidth() {
    return this.base.imageWidth
  }
  get divisor() {
    return this.base.divisor
  }
  get selfCondition() {
    return this.base.selfCondition
  }
  get numTimesteps() {
    return this.base.numTimesteps
  }
  get positiveTimesteps() {
    return this.base.positiveTimesteps
  }
  get numClasses() {
    return this.base.numClasses
  }
  get contextDim() {
    return this.base.contextDim
  }
  get vectorDim() {
    return this.base.vectorDim
  }
  get concatChannels() {
    return this.base.concatChannels
  }
  get vectorIsOptional() {
    return this.base.vectorIsOptional
  }
  get parameters() {
    return this.base.parameters
  }

  get preparation(): Preparation | undefined {
    const { preparation } = this.base
    if (!preparation) return undefined
    return {
      ...preparation,
      told: (context, t, conditioning) => preparation.told(this.#adapted(context), t, conditioning),
      attended: (context, tokens) => preparation.attended(this.#adapted(context), tokens),
    }
  }

  build(context: BuildContext, x: Value, t: Value, conditioning?: Conditioning, prepared?: Prepared): Value {
    return this.base.build(this.#adapted(context), x, t, conditioning, prepared)
  }

  #adapted(context: BuildContext): BuildContext {
    return { ...context, graph: withAdapters(context.graph, this.adapters) }
  }
}

/** The network itself, of one with updates. */
export function baseOf<N extends Network>(network: N | LoraNetwork | undefined): Network | undefined {
  return network instanceof LoraNetwork ? network.base : network
}

function addAdapter(table: ParameterTable, module: string, weight: Parameter, rank: number): Adapter {
  const scope = new Scope(table, module)
  const [outs, ...ins] = weight.shape
  const isConv = weight.layer === 'conv2d'
  const fanIn = ins.reduce((a, b) => a * b, 1)
  const down = scope.parameter('lora_A.weight', [rank, ...(isConv ? ins : [fanIn])], uniformFanIn(fanIn))
  const up = scope.parameter('lora_B.weight', [outs, rank, ...(isConv ? [1, 1] : [])], zeros)
  return { module, weight, down, up }
}

/** The graph, but that layers with an adapter have its update added to what they compute. */
function withAdapters(graph: NetworkGraph, adapters: readonly Adapter[]): NetworkGraph {
  const byWeight = new Map(adapters.map((adapter) => [adapter.weight.name, adapter]))
  const byValue = new Map<Value['id'], Adapter>()
  const updated = (y: Value, adapter: Adapter | undefined, down: (weight: Value) => Value) => {
    if (!adapter) return y
    return graph.add(y, graph.linear(down(graph.parameter(adapter.down)), graph.parameter(adapter.up)))
  }
  const own: Partial<NetworkGraph> = {
    parameter(slot) {
      const value = graph.parameter(slot)
      const adapter = byWeight.get(slot.name)
      if (adapter) byValue.set(value.id, adapter)
      return value
    },
    linear(x, weight, bias) {
      return updated(graph.linear(x, weight, bias), byValue.get(weight.id), (down) => graph.linear(x, down))
    },
    linears(x, layers: readonly LinearSlots[]) {
      const adapterOf = (i: number) => byWeight.get(layers[i].weight.name)
      return graph.linears(x, layers).map((y, i) => updated(y, adapterOf(i), (down) => graph.linear(x, down)))
    },
    conv2d(x, weight, bias, o) {
      const adapter = byValue.get(weight.id)
      return updated(graph.conv2d(x, weight, bias, o), adapter, (down) => graph.conv2d(x, down, undefined, o))
    },
  }
  return new Proxy(graph, {
    get(target, name: keyof NetworkGraph) {
      const method = own[name] ?? target[name]
      return typeof method === 'function' ? method.bind(target as never) : method
    },
  })
}
