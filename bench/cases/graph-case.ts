/** A case that runs one compiled graph with random inputs, on the default CPU device. */
import { Device } from '../../lib/device'
import { Graph, type ParameterSlot, type Value } from '../../lib/graph'
import type { Dims, NativeBuffer } from '../../lib/native'
import { sizeOf } from '../../lib/tensor'
import type { Case, Prepared } from '../harness'

export class GraphBuilder {
  readonly graph = new Graph()
  readonly inputs = new Map<string, number>()
  /** Elements of the parameter banks. */
  parameters = 0

  input(dims: Dims): Value {
    const name = `input${this.inputs.size}`
    this.inputs.set(name, sizeOf(dims))
    return this.graph.input(name, dims)
  }

  parameter(...shape: number[]): Value {
    const slot: ParameterSlot = { name: `p${this.parameters}`, shape, offset: this.parameters }
    this.parameters += 16 * Math.ceil(sizeOf(shape) / 16)
    return this.graph.parameter(slot)
  }
}

/** `build` returns the outputs; with `backward` the gradients of inputs and parameters are computed instead. */
export function graphCase(
  name: string,
  flops: number | undefined,
  build: (b: GraphBuilder) => Value,
  o: { backward?: boolean } = {},
): Case {
  return {
    name,
    flops,
    async prepare(): Promise<Prepared> {
      const device = Device.open('cpu')
      const builder = new GraphBuilder()
      const { graph } = builder
      let output = build(builder)
      if (o.backward) output = withGradients(builder, output)
      const program = graph.native.compile(device.native, { output: output.id }, {})
      const bindings: Record<string, NativeBuffer> = { output: device.allocate(sizeOf(output.dims)) }
      for (const [input, elements] of builder.inputs) bindings[input] = device.upload(randomArray(elements))
      if (builder.parameters > 0) {
        bindings.weights = device.upload(randomArray(builder.parameters))
        if (o.backward) bindings.grads = device.allocate(builder.parameters)
      }
      return {
        run: () => program.run(bindings),
        memory: () => program.memory().total,
        dispose() {
          program.release()
          for (const buffer of Object.values(bindings)) buffer.release()
        },
      }
    },
  }
}

/** loss = mean square of (y - target); what is returned is the gradient of the first input. */
function withGradients(builder: GraphBuilder, y: Value): Value {
  const { graph } = builder
  const [n] = y.dims
  const target = builder.input(y.dims)
  const weight = builder.input([n, 1, 1, 1])
  const loss = graph.weightedSum(graph.loss(y, target, { type: 'l2' }), weight)
  graph.backward(loss)
  return loss
}

export function randomArray(elements: number): Float32Array {
  const data = new Float32Array(elements)
  let state = 1
  for (let i = 0; i < elements; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0
    data[i] = state / 2 ** 31
  }
  return data
}
