/** Blocks that are computed again in the backward pass: the same numbers to the bit, in less memory. */
import assert from 'node:assert/strict'
import { Device, type DeviceName } from '../../lib/device'
import { Graph } from '../../lib/graph'
import type { Precision } from '../../lib/native'
import { UNet } from '../../lib/nn/unet/unet'
import { Random } from '../support/random'
import { addInputs, compileGraph, runGraph, testedBackends } from '../support/run-graph'
import { smallUNet } from '../support/small-unet'
import { lossStep, stepFeeds, stepOutput } from './network-step'

const base = { ...smallUNet, dropout: 0.2 }
const networks = {
  'added embedding, convolutions between levels': base,
  'scale and shift, resampling in blocks, classes': {
    ...base,
    useScaleShiftNorm: true,
    resblockUpdown: true,
    numClasses: 5,
  },
  'a vector': { ...base, vectorDim: 6 },
  'transformers with context': { ...base, useSpatialTransformer: true, transformerDepth: 2, contextDim: 24 },
  "diffusers' names, three projections": { ...base, layout: 'diffusers' as const, middleScale: 2 },
}

async function gradients(device: DeviceName, unet: UNet, precision: Precision) {
  const weights = unet.parameters.initialize(3).map((w, i) => w + 0.05 * Math.sin(i)) // those that are zero, too
  const banks = { weights, grads: new Float32Array(unet.parameters.count) }
  const feeds = stepFeeds(new Random(5), unet)
  return runGraph(device, feeds, (graph, inputs) => lossStep(unet, graph, inputs), { banks, precision })
}

/** Of each network fp32 and, where there are widths of 16 bits, one of these in turn; one of all, where a GPU's kernels run on a CPU. */
function precisionsFor(backend: DeviceName, network: number): readonly Precision[] {
  const narrow = Device.open(backend)
    .native.info()
    .precisions.filter((precision) => precision !== 'fp32')
  if (backend.startsWith('cuda-host')) return [(['fp32', ...narrow] as const)[network % (1 + narrow.length)]]
  return narrow.length > 0 ? ['fp32', narrow[network % narrow.length]] : ['fp32']
}

describe('useCheckpoint', () => {
  for (const backend of testedBackends) {
    for (const [i, [title, options]] of Object.entries(networks).entries()) {
      it(`${backend}: the same loss and gradients to the bit: ${title}`, async () => {
        for (const precision of precisionsFor(backend, i)) {
          const kept = await gradients(backend, new UNet(options), precision)
          const again = await gradients(backend, new UNet({ ...options, useCheckpoint: true }), precision)
          assert.deepEqual(again.loss, kept.loss)
          assert.ok(kept.gradient.some((v) => v !== 0) && kept.grads.some((v) => v !== 0))
          for (const name of ['gradient', 'grads'] as const) {
            const at = again[name].findIndex((v, i) => !Object.is(v, kept[name][i]))
            assert.equal(at, -1, `${precision} ${name}[${at}]: ${again[name][at]}, not ${kept[name][at]}`)
          }
        }
      })
    }
  }

  it('takes less memory, and none without a backward pass', () => {
    const deep = { ...base, numResBlocks: 3, dropout: 0 }
    const arena = (useCheckpoint: boolean, train: boolean) => {
      const unet = new UNet({ ...deep, useCheckpoint })
      const program = compileGraph('cpu', (graph) => {
        const inputs = addInputs(graph, stepFeeds(new Random(5), unet))
        return train ? lossStep(unet, graph, inputs) : { out: stepOutput(unet, graph, inputs, false) }
      })
      const bytes = program.memory().arena
      program.release()
      return bytes
    }
    assert.ok(arena(true, true) < 0.6 * arena(false, true), `${arena(true, true)} of ${arena(false, true)} bytes`)
    assert.equal(arena(true, false), arena(false, false))
  })
})

describe('graph.recomputed', () => {
  const refused = { name: 'Error', code: 'invalid-argument' }

  it('is part of one around it, and ends with an error', () => {
    const graph = new Graph()
    const x = graph.input('x', [1, 2, 2, 4])
    graph.recomputed(() => graph.recomputed(() => graph.silu(x)))
    assert.throws(() => graph.recomputed(() => graph.slice(x, { start: 3, count: 2 })), refused)
    graph.recomputed(() => graph.silu(x))
  })

  it('refuses what changes something, and gradients of what is not closed', () => {
    const graph = new Graph()
    const hyper = graph.input('hyper', [1, 1, 1, 16])
    assert.throws(() => graph.recomputed(() => graph.ema(hyper, { count: 16 })), {
      ...refused,
      message: /that changes nothing/,
    })
    const scalar = graph.input('x', [1, 1, 1, 1])
    assert.throws(() => graph.recomputed(() => graph.backward(scalar)), { ...refused, argument: 'region' })
    assert.throws(() => graph.native.region(false), { ...refused, expected: 'an open one' })
  })
})
