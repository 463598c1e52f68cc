/** The messages of an ONNX file, as far as they are needed; field numbers are those of onnx.proto (IR version 8). */
import { type LazyBytes, Message } from './protobuf'

/** Operators are those of this version of the ONNX operator set; IR version 8 came with opset 15 and is that of 17. */
export const opset = 17
const irVersion = 8

/** TensorProto.DataType. */
export const elementType = { float: 1, int64: 7 } as const
export type ElementType = keyof typeof elementType

/** A plain number is an integer; `float` marks one that is not. */
export type Attribute = number | string | readonly number[] | { readonly float: number }

export interface OnnxNode {
  readonly op: string
  /** Names of values; '' is an absent optional input. */
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  readonly attributes: Readonly<Record<string, Attribute>>
}

/** A constant of the model. */
export interface Initializer {
  readonly name: string
  readonly type: ElementType
  readonly dims: readonly number[]
  /** Row-major and little-endian. */
  readonly data: LazyBytes
  /** A parameter of the network, which a file beside the model's may hold. */
  readonly isWeight: boolean
  /** Where `data` is, when it is not in the model: TensorProto.external_data. */
  readonly external?: ExternalPlace
}

export type OutsideInitializer = Initializer & { readonly external: ExternalPlace }

export const isOutside = (initializer: Initializer): initializer is OutsideInitializer => !!initializer.external

export interface ExternalPlace {
  /** The name of a file in the folder of the model's. */
  readonly location: string
  /** In bytes. */
  readonly offset: number
}

/** An input or output of the model. A dim that is a name is free, and the same wherever the name is the same. */
export interface Port {
  readonly name: string
  readonly type: ElementType
  readonly dims: readonly (number | string)[]
}

export interface OnnxModel {
  readonly name: string
  readonly producer: string
  readonly doc: string
  readonly nodes: readonly OnnxNode[]
  readonly initializers: readonly Initializer[]
  readonly inputs: readonly Port[]
  readonly outputs: readonly Port[]
}

/** ModelProto. */
export function encodeModel(model: OnnxModel): Message {
  const graph = new Message() // GraphProto
  model.nodes.forEach((node, index) => {
    graph.message(1, encodeNode(node, `${node.op}_${index}`))
  })
  graph.string(2, model.name)
  for (const initializer of model.initializers) graph.message(5, encodeInitializer(initializer))
  graph.string(10, model.doc)
  for (const port of model.inputs) graph.message(11, encodePort(port))
  for (const port of model.outputs) graph.message(12, encodePort(port))
  return new Message()
    .int(1, irVersion)
    .string(2, model.producer)
    .message(7, graph)
    .message(8, new Message().string(1, '').int(2, opset)) // OperatorSetIdProto; '' is the domain of ONNX itself
}

/** NodeProto. */
function encodeNode(node: OnnxNode, name: string): Message {
  const message = new Message()
  for (const input of node.inputs) message.string(1, input)
  for (const output of node.outputs) message.string(2, output)
  message.string(3, name).string(4, node.op)
  for (const [key, value] of Object.entries(node.attributes)) message.message(5, encodeAttribute(key, value))
  return message
}

/** AttributeProto; field 20 is its type. */
function encodeAttribute(name: string, value: Attribute): Message {
  const message = new Message().string(1, name)
  if (typeof value === 'number') return message.int(3, value).int(20, 2)
  if (typeof value === 'string') return message.string(4, value).int(20, 3)
  if ('float' in value) return message.float(2, value.float).int(20, 1)
  for (const item of value) message.int(8, item)
  return message.int(20, 7)
}

/** TensorProto; field 13 has StringStringEntryProtos, field 14 says that they are meant. */
function encodeInitializer({ name, type, dims, data, external }: Initializer): Message {
  const message = new Message()
  for (const dim of dims) message.int(1, dim)
  message.int(2, elementType[type]).string(8, name)
  if (!external) return message.bytes(9, data)
  for (const [key, value] of Object.entries({ ...external, length: data.length })) {
    message.message(13, new Message().string(1, key).string(2, String(value)))
  }
  return message.int(14, 1)
}

/** ValueInfoProto, around TypeProto.Tensor and TensorShapeProto. */
function encodePort({ name, type, dims }: Port): Message {
  const shape = new Message()
  for (const dim of dims) {
    shape.message(1, typeof dim === 'number' ? new Message().int(1, dim) : new Message().string(2, dim))
  }
  const tensor = new Message().int(1, elementType[type]).message(2, shape)
  return new Message().string(1, name).message(2, new Message().message(1, tensor))
}
