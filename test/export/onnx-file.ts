/** What an ONNX file holds, read with the field numbers of onnx.proto. */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { decode, type Fields, integers, messages, strings } from './protobuf-reader'

export interface OnnxFile {
  readonly irVersion: number
  readonly opset: { domain: string; version: number }[]
  readonly nodes: {
    op: string
    name: string
    inputs: string[]
    outputs: string[]
    attributes: Record<string, unknown>
  }[]
  readonly initializers: Map<string, { type: number; dims: number[]; data: Buffer; external?: Record<string, string> }>
  readonly inputs: Record<string, { type: number; dims: (number | string)[] }>
  readonly outputs: Record<string, { type: number; dims: (number | string)[] }>
}

export function readOnnx(file: string): OnnxFile {
  const model = decode(readFileSync(file))
  const [graph] = messages(model, 7)
  return {
    irVersion: integers(model, 1)[0],
    opset: messages(model, 8).map((id) => ({ domain: strings(id, 1)[0], version: integers(id, 2)[0] })),
    nodes: messages(graph, 1).map((node) => ({
      op: strings(node, 4)[0],
      name: strings(node, 3)[0],
      inputs: strings(node, 1),
      outputs: strings(node, 2),
      attributes: Object.fromEntries(
        messages(node, 5).map((attribute) => [strings(attribute, 1)[0], attributeValue(attribute)]),
      ),
    })),
    initializers: new Map(
      messages(graph, 5).map((tensor) => [
        strings(tensor, 8)[0],
        { type: integers(tensor, 2)[0], dims: integers(tensor, 1), ...dataOf(tensor, path.dirname(file)) },
      ]),
    ),
    inputs: ports(messages(graph, 11)),
    outputs: ports(messages(graph, 12)),
  }
}

/** Within the model, or where its external_data says. */
function dataOf(tensor: Fields, folder: string): { data: Buffer; external?: Record<string, string> } {
  if (integers(tensor, 14)[0] !== 1) return { data: tensor[9][0] as Buffer }
  if (tensor[9]) throw new Error('data in two places')
  const external = Object.fromEntries(messages(tensor, 13).map((entry) => [strings(entry, 1)[0], strings(entry, 2)[0]]))
  const [offset, length] = [Number(external.offset), Number(external.length)]
  const data = readFileSync(path.join(folder, external.location)).subarray(offset, offset + length)
  if (data.length !== length) throw new Error(`${data.length} bytes of ${length}`)
  return { data, external }
}

function attributeValue(attribute: Fields): unknown {
  switch (integers(attribute, 20)[0]) {
    case 1:
      return (attribute[2][0] as Buffer).readFloatLE()
    case 2:
      return integers(attribute, 3)[0]
    case 3:
      return strings(attribute, 4)[0]
    case 7:
      return integers(attribute, 8)
    default:
      throw new Error('an attribute without a known type')
  }
}

function ports(infos: Fields[]): OnnxFile['inputs'] {
  return Object.fromEntries(
    infos.map((info) => {
      const [tensor] = messages(messages(info, 2)[0], 1)
      const dims = messages(messages(tensor, 2)[0], 1).map((dim) => (dim[1] ? integers(dim, 1)[0] : strings(dim, 2)[0]))
      return [strings(info, 1)[0], { type: integers(tensor, 1)[0], dims }]
    }),
  )
}

/** A copy: the bytes need not be aligned. */
export function floatsOf(data: Buffer): Float32Array {
  return new Float32Array(new Uint8Array(data).buffer)
}
