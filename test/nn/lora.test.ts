/** What is not trained, and low-rank updates beside it: gradients, banks, files. */
import assert from 'node:assert/strict'
import { Device, type DeviceName } from '../../lib/device'
import type { Precision } from '../../lib/native'
import type { LoraNetwork } from '../../lib/nn/lora/lora'
import { joinUpdates, mergeUpdates, updatesOf } from '../../lib/nn/lora/lora-weights'
import { withTrained } from '../../lib/nn/lora/trained'
import type { Network } from '../../lib/nn/network'
import type { StateDict } from '../../lib/nn/parameters'
import { UNet } from '../../lib/nn/unet/unet'
import { Tensor } from '../../lib/tensor'
import { assertCloseToScale } from '../support/compare'
import { Random } from '../support/random'
import { addInputs, compileGraph, runGraph, testedBackends } from '../support/run-graph'
import { smallUNet } from '../support/small-unet'
import { lossStep, stepFeeds } from './network-step'

const options = { ...smallUNet, normGroups: 8 } // with a channel a group, the embedding's gradient would be none
const layouts = { openai: options, diffusers: { ...options, layout: 'diffusers' as const } }
/** Every number other than zero, so that every gradient is one, too. */
async function someWeights(network: Network): Promise<StateDict> {
  const rng = new Random(3)
  const { slots } = network.parameters
  return Object.fromEntries(
    slots.map(({ name, shape }) => {
      const size = shape.reduce((a, b) => a * b, 1)
      const spread = shape.length > 1 ? 0.5 / Math.sqrt(size / shape[0]) : 0.1
      return [name, Tensor.from(rng.normals(size, spread, name.includes('norm') ? 1 : 0), shape)]
    }),
  )
}

async function gradients(device: DeviceName, network: Network, dict: StateDict, precision: Precision = 'fp32') {
  const table = network.parameters
  const { flat, frozen } = await table.fromStateDict(dict)
  const banks = { weights: flat, grads: new Float32Array(table.count), ...(frozen.length > 0 && { frozen }) }
  const feeds = stepFeeds(new Random(11), network)
  const result = await runGraph(device, feeds, (graph, inputs) => lossStep(network, graph, inputs), {
    banks,
    precision,
  })
  return { out: result.out, gradients: table.toStateDict(result.grads) }
}

describe('freeze', () => {
  for (const backend of testedBackends) {
    it(`${backend}: what is left has the same gradients, what is frozen none`, async () => {
      for (const precision of Device.open(backend).native.info().precisions) {
        const all = new UNet(options)
        const some = withTrained(new UNet(options), { freeze: ['input_blocks.*', '*.qkv.*', 'time_embed.*.bias'] })
        const dict = await someWeights(all)
        const [whole, part] = [
          await gradients(backend, all, dict, precision),
          await gradients(backend, some, dict, precision),
        ]
        assert.deepEqual(part.out, whole.out)
        const trained = some.parameters.slots.filter(({ frozen }) => !frozen).map(({ name }) => name)
        assert.deepEqual(Object.keys(part.gradients), trained)
        assert.ok(trained.length > 10 && trained.length < all.parameters.slots.length - 10)
        for (const name of trained) {
          const [ours, theirs] = [await part.gradients[name].data(), await whole.gradients[name].data()]
          assertCloseToScale(
            ours,
            theirs,
            precision === 'fp32' ? 1e-5 : 0.05 /* products that are computed apart round apart */,
            `${precision} ${name}`,
          )
        }
      }
    })
  }

  it('takes no memory for the gradients of what is frozen, and packs its weights once', () => {
    const network = withTrained(new UNet(options), { freeze: ['input_blocks.*'] })
    const { count, frozenCount } = network.parameters
    assert.equal(count + frozenCount, new UNet(options).parameters.count)
    const program = compileGraph('cpu', (graph) => {
      const inputs = addInputs(graph, stepFeeds(new Random(11), network))
      const { loss } = lossStep(network, graph, inputs)
      graph.adamw(graph.input('hyper', [1, 1, 1, 16]), graph.gradSumSquares(count), { count })
      return { loss }
    })
    const text = program.describe()
    program.release()
    assert.match(text, /^when frozen change: ConvPackWeights/m)
    assert.doesNotMatch(text, /^when weights change/m)
  })

  it('refuses names that there are not, and to leave nothing', () => {
    const refused = (freeze: string[], received: RegExp) =>
      assert.throws(() => withTrained(new UNet(options), { freeze }), { code: 'invalid-argument', message: received })
    refused(['input_block.*'], /nothing of the network matches 'input_block\.\*'/)
    refused(['*'], /leave something to train/)
    const used = new UNet(options)
    used.parameters.count
    assert.throws(() => withTrained(used, { freeze: ['time_embed.*'] }), { argument: 'model' })
  })
})

describe('low-rank updates', () => {
  for (const backend of testedBackends) {
    for (const [layout, unet] of Object.entries(layouts)) {
      it(`${backend}, ${layout}: gradients are those of the merged weights, through B A`, async () => {
        const lora = withTrained(new UNet(unet), { lora: { rank: 2 } }) as LoraNetwork
        const dict = await someWeights(lora)
        const plain = new UNet(unet)
        const own = Object.fromEntries(plain.parameters.slots.map(({ name }) => [name, dict[name]]))
        const merged = await mergeUpdates(own, updatesOf(lora.adapters, dict))
        const [beside, within] = [await gradients(backend, lora, dict), await gradients(backend, plain, merged)]
        assertCloseToScale(beside.out, within.out, 1e-4, 'out')
        assert.equal(Object.keys(beside.gradients).length, 2 * lora.adapters.length)
        for (const { module, weight, down, up } of lora.adapters) {
          const [outs, ...rest] = weight.shape
          const ins = rest.reduce((a, b) => a * b, 1)
          const [W, A, B] = await Promise.all(
            [within.gradients[weight.name], dict[down.name], dict[up.name]].map((tensor) => tensor.data()),
          )
          const [dA, dB] = [new Float32Array(2 * ins), new Float32Array(outs * 2)]
          for (let o = 0; o < outs; o++) {
            for (let r = 0; r < 2; r++) {
              for (let i = 0; i < ins; i++) {
                dB[o * 2 + r] += W[o * ins + i] * A[r * ins + i]
                dA[r * ins + i] += W[o * ins + i] * B[o * 2 + r]
              }
            }
          }
          assertCloseToScale(await beside.gradients[down.name].data(), dA, 1e-3, `${module} A`)
          assertCloseToScale(await beside.gradients[up.name].data(), dB, 1e-3, `${module} B`)
        }
      })
    }
  }

  it('are nothing at first, and of the layers that are chosen', async () => {
    const lora = withTrained(new UNet(options), { lora: { rank: 3, targets: ['*.qkv', '*.proj_out'] } }) as LoraNetwork
    assert.ok(lora.adapters.length > 0)
    for (const { module, down, up } of lora.adapters) {
      assert.match(module, /\.(qkv|proj_out)$/)
      assert.deepEqual([down.shape[0], up.shape[1], down.frozen, up.frozen], [3, 3, false, false])
    }
    const { weights } = { weights: lora.parameters.initialBanks(5) }
    const start = lora.parameters.toStateDict(weights.flat, weights.frozen)
    const base = new UNet(options)
    const plain = base.parameters.toStateDict(base.parameters.initialize(5))
    for (const [name, tensor] of Object.entries(plain)) assert.deepEqual(await start[name].data(), await tensor.data())
    const [a, b] = [await gradients('cpu', lora, start), await gradients('cpu', base, plain)]
    assert.deepEqual(a.out, b.out)
  })

  it('of several files are one', async () => {
    const rng = new Random(9)
    const update = (rank: number, scale: number) => ({
      down: Tensor.from(rng.normals(rank * 6), [rank, 6]),
      up: Tensor.from(rng.normals(4 * rank), [4, rank]),
      scale,
    })
    const parts = [new Map([['a', update(2, 0.5)]]), new Map([['a', update(3, -2)]]), new Map([['b', update(1, 1)]])]
    const zero = {
      'a.weight': Tensor.from(new Float32Array(24), [4, 6]),
      'b.weight': Tensor.from(new Float32Array(24), [4, 6]),
    }
    let expected: StateDict = zero
    for (const part of parts) expected = await mergeUpdates(expected, part)
    const joined = await joinUpdates(parts)
    assert.deepEqual([...joined.keys()], ['a', 'b'])
    assert.deepEqual(joined.get('a')!.down.shape, [5, 6])
    const actual = await mergeUpdates(zero, joined)
    for (const name of ['a.weight', 'b.weight'])
      assertCloseToScale(await actual[name].data(), await expected[name].data(), 1e-6, name)
  })

  it('refuse modules that there are not', () => {
    const refused = (lora: object, argument: string) =>
      assert.throws(() => withTrained(new UNet(options), { lora: lora as never }), {
        code: 'invalid-argument',
        argument,
      })
    refused({ rank: { 'middle_block.9.qkv': 2 } }, 'lora')
    refused({ rank: 4, targets: ['*.to_q'] }, 'lora.targets')
    refused({ rank: 0 }, 'rank')
    refused({}, 'lora.rank')
    assert.throws(() => withTrained(new UNet(options), { lora: { rank: 1 }, freeze: ['time_embed.*'] }), {
      argument: 'freeze',
    })
  })
})
