// Opens a diffusers folder whose weights are 300 MB of zeros, or does all but that, and prints its peak memory and the weights' bytes.
// Arguments: the format of the weights or 'nothing', and a folder to make it in.
import { closeSync, ftruncateSync, mkdirSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs'
import path from 'node:path'
import { unet2DConfig } from '../../lib/checkpoint/diffusers/unet'
import { DDPM } from '../../lib/index'
import type { WeightFormat } from '../../lib/native'
import { UNet } from '../../lib/nn/unet/unet'

function write(folder: string): void {
  const network = new UNet({
    imageSize: 16,
    inChannels: 3,
    outChannels: 3,
    modelChannels: 256,
    channelMult: [1, 2],
    numResBlocks: 3,
    attentionResolutions: [],
    layout: 'diffusers',
  })
  let position = 0
  const header = network.parameters.slots.map(({ name, shape }) => {
    const begin = position
    position += 4 * shape.reduce((a, b) => a * b, 1)
    return [name, { dtype: 'F32', shape, data_offsets: [begin, position] }] as const
  })
  const text = Buffer.from(JSON.stringify(Object.fromEntries(header)))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  mkdirSync(folder, { recursive: true })
  writeFileSync(
    path.join(folder, 'config.json'),
    JSON.stringify({ _class_name: 'UNet2DModel', ...unet2DConfig(network.options) }),
  )
  const file = openSync(path.join(folder, 'diffusion_pytorch_model.safetensors'), 'w')
  writeSync(file, Buffer.concat([length, text]))
  ftruncateSync(file, 8 + text.length + position) // a hole, which takes no disk
  closeSync(file)
}

async function main([what, parent]: string[]): Promise<void> {
  const folder = path.join(parent, 'holes')
  write(folder)
  let bytes = 0
  if (what !== 'nothing') {
    using ddpm = await DDPM.fromPretrained(folder, { device: 'cpu', weightFormat: what as WeightFormat })
    bytes = ddpm.memoryInfo().weightBytes
  }
  const [, kilobytes] = /VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))!
  console.log(JSON.stringify({ peak: 1024 * Number(kilobytes), bytes }))
}

void main(process.argv.slice(2))
