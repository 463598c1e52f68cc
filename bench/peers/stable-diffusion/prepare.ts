/**
 * Writes the model and its ONNX files: node prepare.js <folder> [--small]. The last line that it prints is JSON. A process of its own, so
 * that what it takes is not counted.
 */
import path from 'node:path'
import { readSafetensors } from '../../../lib/checkpoint/safetensors'
import { Device } from '../../../lib/device'
import { LatentDiffusion } from '../../../lib/diffusion/models/latent-diffusion'
import { writeOnnx } from '../../../lib/export/onnx'
import { OnnxGraph } from '../../../lib/export/onnx-graph'
import type { Graph, Value } from '../../../lib/graph'
import { Autoencoder } from '../../../lib/nn/autoencoder/autoencoder'
import { autoencoderShape } from '../../../lib/nn/autoencoder/options'
import { restored } from '../../../lib/nn/layout'
import { UNet } from '../../../lib/nn/unet/unet'
import { Program } from '../../../lib/program'
import { sizeOf, Tensor } from '../../../lib/tensor'
import { flopsOf } from '../../model/work'
import { writeFolder } from '../../stable-diffusion/model-files'
import { type ModelShape, shapeOf } from '../../stable-diffusion/shape'
import { decoderInputs, fileOf, latentSize, type Prepared, type Size, unetInputs } from './parts'

async function main([folder, flag]: string[]): Promise<void> {
  const size = { small: flag === '--small' }
  const shape = shapeOf(size.small)
  const files = fileOf(folder)
  await writeFolder(files.model, shape)
  await exportUNet(folder, size)
  const decoder = await exportDecoder(folder, shape, size)
  const unet = new UNet(shape.unet)
  const prepared: Prepared = {
    flops: { unet: unetFlops(unet, size), decoder: decoderFlops(decoder, size) },
    parameters: {
      unet: unet.parameters.size,
      decoder: decoder.parameters.slots.reduce((n, { name, shape }) => n + (isDecoders(name) ? sizeOf(shape) : 0), 0),
    },
  }
  console.log(JSON.stringify(prepared))
}

async function exportUNet(folder: string, size: Size): Promise<void> {
  const files = fileOf(folder)
  using model = await LatentDiffusion.fromPretrained(files.model, { device: 'cpu' })
  const side = latentSize(size)
  const written = await model.exportOnnx(files.onnx('unet'), { height: side, width: side, externalData: true })
  console.log(written.join(', '))
}

/** With the names of the folder's weights. */
async function exportDecoder(folder: string, { first }: ModelShape, size: Size): Promise<Autoencoder> {
  const files = fileOf(folder)
  const autoencoder = new Autoencoder({ ...autoencoderShape(first.ddconfig), layout: 'diffusers' }, first.embedDim)
  const { parameters } = autoencoder
  const { tensors } = await readSafetensors(path.join(files.vae, 'diffusion_pytorch_model.safetensors'))
  const stored = Object.entries(tensors).map(([name, { data, shape }]) => [
    name,
    Tensor.from(data as Float32Array, shape),
  ])
  const { flat } = await parameters.fromStateDict(Object.fromEntries(stored))
  const graph = new OnnxGraph(({ offset, shape }) => {
    return restored(flat.slice(offset, offset + sizeOf(shape)), { shape }, async () => {})
  })
  const side = latentSize(size)
  const z = graph.imageInput('z', { height: side, width: side, channels: first.embedDim })
  graph.output('image', autoencoder.decode({ graph, train: false }, z))
  const { nodes, initializers, inputs, outputs } = graph
  const about = { name: 'decoder', producer: 'ddpm-native', doc: 'z: latents, NCHW' }
  const model = { ...about, nodes, initializers, inputs, outputs }
  console.log((await writeOnnx(files.onnx('decoder'), model, { externalData: true })).join(', '))
  return autoencoder
}

const isDecoders = (name: string) => /^(decoder|post_quant_conv)\./.test(name)

function unetFlops(unet: UNet, size: Size): number {
  const { x, context } = unetInputs(size, unet.contextDim!)
  const [n, channels, height, width] = x.shape
  const [, length, dim] = context.shape
  return flops((g) => {
    const tokens = g.input('context', [n, 1, length, dim])
    return unet.build({ graph: g, train: false }, g.input('x', [n, height, width, channels]), time(g, n), {
      context: tokens,
    })
  })
}

const time = (g: Graph, n: number) => g.input('t', [n, 1, 1, 1], 'i32')

function decoderFlops(decoder: Autoencoder, size: Size): number {
  const [n, channels, height, width] = decoderInputs(size).z.shape
  return flops((g) => decoder.decode({ graph: g, train: false }, g.input('z', [n, height, width, channels])))
}

/** Of a program that is compiled and not run. */
function flops(build: (g: Graph) => Value): number {
  const program = Program.compile(Device.open('cpu'), (g) => ({ y: build(g) }), { deterministic: false })
  const total = program.steps().reduce((sum, step) => sum + (step.prologue ? 0 : flopsOf(step)), 0)
  program.release()
  return total
}

void main(process.argv.slice(2))
