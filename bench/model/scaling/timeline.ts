/** A training step of a UNet with AdamW and an average, compiled as for a GPU that is not here: when its gradients are there. */
import { Device } from '../../../lib/device'
import { appendUpdate } from '../../../lib/diffusion/training/optimizer'
import { Graph } from '../../../lib/graph'
import type { Precision, ProgramStep } from '../../../lib/native'
import type { UNetOptions } from '../../../lib/nn/unet/options'
import { UNet } from '../../../lib/nn/unet/unet'
import type { Gpu } from '../gpus'
import { timeOf } from '../time'
import type { Timeline } from './exchange'

/** Tokens of a prompt. */
const tokens = 77

/** The program's steps. It takes no memory for weights or values. */
function stepsOf(unet: UNet, options: UNetOptions, batch: number, precision: Precision): readonly ProgramStep[] {
  const { imageSize, inChannels, contextDim } = options
  const graph = new Graph()
  const x = graph.input('x', [batch, imageSize, imageSize, inChannels])
  const t = graph.input('t', [batch, 1, 1, 1], 'i32')
  const context = contextDim ? graph.input('context', [batch, 1, tokens, contextDim]) : undefined
  const y = unet.build({ graph, train: true }, x, t, { context })
  const loss = graph.loss(y, graph.input('target', y.dims), { type: 'l2' })
  graph.backward(graph.weightedSum(loss, graph.input('lossWeights', loss.dims)))
  const { sumSquares } = appendUpdate(graph, { optimizer: 'adamw', count: unet.parameters.count, ema: true })
  const outputs = { loss: loss.id, sumSquares: sumSquares.id }
  const program = graph.native.compile(Device.open('cuda-host').native, outputs, { precision, reserve: false })
  try {
    return program.steps().filter(({ prologue }) => !prologue)
  } finally {
    program.release()
  }
}

/** One GPU in a process: its devices are opened once. Without dropout. */
export function timelineOf(gpu: Gpu, precision: Precision, given: UNetOptions, batch: number): Timeline {
  process.env.DDPM_HOST_MULTIPROCESSORS = String(gpu.multiprocessors)
  const options = { ...given, dropout: 0 }
  const unet = new UNet(options)
  const steps = stepsOf(unet, options, batch, precision)
  const norm = steps.findIndex(({ op }) => op === 'SumSquares')
  const bank = steps[norm].tensors.x.storage
  const written: { begin: number; end: number; seconds: number }[] = []
  let seconds = 0
  for (const step of steps.slice(0, norm)) {
    seconds += timeOf(step, gpu).seconds
    for (const { storage, offset, dims, access } of Object.values(step.tensors)) {
      if (storage !== bank || access === 'read') continue
      const begin = offset / 4
      written.push({ begin, end: begin + dims.reduce((a, b) => a * b), seconds })
    }
  }
  const update = steps.slice(norm).reduce((sum, step) => sum + timeOf(step, gpu).seconds, 0)
  return { count: unet.parameters.count, written, gradients: seconds, update }
}
