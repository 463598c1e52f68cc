// Text encoders against transformers' CLIPTextModel, OpenCLIP and ldm's x_transformer: states, loss and all gradients.
import assert from 'node:assert/strict'
import type { Graph, Value } from '../../lib/graph'
import { CLIPTextModel, type CLIPTextOptions } from '../../lib/nn/text/clip'
import { pairMask } from '../../lib/nn/text/mask'
import { statesAt, type TextNetwork } from '../../lib/nn/text/network'
import { OpenCLIPTextModel } from '../../lib/nn/text/open-clip'
import { TransformerWrapper } from '../../lib/nn/text/x-transformer'
import { Tensor } from '../../lib/tensor'
import { type Feeds, type Outputs, runGraph, testedBackends, type Values } from '../support/run-graph'
import { assertScaled, checkGradients, tolerance } from './check-golden'
import { Golden } from './golden'

const camelCased = (options: Record<string, unknown>) =>
  Object.fromEntries(
    Object.entries(options).map(([name, v]) => [
      name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase()),
      v,
    ]),
  )

/** What each of several graphs of the network puts out, and the gradients that the last one leaves. */
type Run = (
  ids: string,
  build: (context: { graph: Graph; train: false }, values: Values, samples: number) => Record<string, Value>,
  feeds?: Feeds,
) => Promise<Outputs>

class Opened<T extends TextNetwork> {
  private constructor(
    readonly golden: Golden,
    readonly network: T,
    readonly weights: Record<string, Tensor>,
  ) {}

  static async open<T extends TextNetwork>(
    name: string,
    make: (config: Golden['config']) => T,
    more: Record<string, Tensor> = {},
  ) {
    const golden = await Golden.open(`${name}.safetensors`)
    return new Opened(golden, make(golden.config), { ...(await golden.parameters(() => true)), ...more })
  }

  /** Runs graphs of the ids by their name in the file. */
  async runOn(backend: (typeof testedBackends)[number]): Promise<Run> {
    const { flat } = await this.network.parameters.fromStateDict(this.weights)
    return (name, build, feeds = {}) => {
      const ids = this.golden.integers(name)
      const [samples] = this.golden.tensors[name].shape
      const all: Feeds = { ids: { dims: [ids.length, 1, 1, 1], data: ids }, ...feeds }
      const banks = { weights: flat, grads: new Float32Array(flat.length) }
      return runGraph(backend, all, (graph, values) => build({ graph, train: false }, values, samples), { banks })
    }
  }

  check(actual: Float32Array, name: string, scale = tolerance.out): void {
    assertScaled(actual, this.golden.floats(name), scale, 0, name)
  }

  /** Mean over samples of the mean over elements. */
  target(): Feeds {
    const { data, shape } = this.golden.tensors['in/target']
    const [n, length, width] = shape
    return {
      target: { dims: [n, 1, length, width], data: data as Float32Array },
      mean: { dims: [n, 1, 1, 1], data: new Float32Array(n).fill(1 / n) },
    }
  }
}

const lossOf = (graph: Graph, out: Value, { target, mean }: Values) => {
  const loss = graph.weightedSum(graph.loss(out, target, { type: 'l2' }), mean)
  graph.backward(loss)
  return loss
}

const maskFeed = (data: Float32Array, samples: number, length: number): Feeds => ({
  mask: { dims: [samples, 1, length, length], data },
})

/** Rows of `statesAt` for the ends of the texts. */
const rowsOf = (ids: Int32Array, samples: number, endOf: (ids: Int32Array) => number): Feeds => {
  const length = ids.length / samples
  const rows = Int32Array.from({ length: samples }, (_, n) => {
    return n * length + endOf(ids.subarray(n * length, (n + 1) * length))
  })
  return { rows: { dims: [samples, 1, 1, 1], data: rows } }
}

for (const backend of testedBackends) {
  describe(`text encoders on ${backend}`, () => {
    for (const name of ['clip_text_gelu', 'clip_text_quick_gelu']) {
      const open = () =>
        Opened.open(name, ({ clip_text }) => new CLIPTextModel(camelCased(clip_text) as CLIPTextOptions))

      it(`${name}: states, loss and gradients are PyTorch's`, async () => {
        const clip = await open()
        const run = await clip.runOn(backend)
        const out = await run(
          'in/input_ids',
          (context, values, samples) => {
            const { hidden, last } = clip.network.build(context, values.ids, { samples })
            const penultimate = clip.network.normalize(context, hidden[hidden.length - 2])
            const states = Object.fromEntries(hidden.map((value, i) => [`hidden_states.${i}`, value]))
            return { ...states, penultimate, last_hidden_state: last, loss: lossOf(context.graph, last, values) }
          },
          clip.target(),
        )
        const { grads, loss, ...states } = out
        for (const [state, values] of Object.entries(states)) {
          if (state !== 'weights') clip.check(values, `out/${state}`)
        }
        clip.check(loss, 'out/loss', tolerance.loss)
        await checkGradients(clip.golden, clip.network.parameters.toStateDict(grads), clip.weights)
      })

      it(`${name}: the pooled states of texts of two lengths`, async () => {
        const clip = await open()
        const run = await clip.runOn(backend)
        for (const [ids, out] of [
          ['in/input_ids', 'out'],
          ['in/short/input_ids', 'out/short'],
        ]) {
          const [samples] = clip.golden.tensors[ids].shape
          const { last, pooled } = await run(
            ids,
            (context, values) => {
              const { last } = clip.network.build(context, values.ids, { samples })
              return { last, pooled: statesAt(context, last, values.rows) }
            },
            rowsOf(clip.golden.integers(ids), samples, (text) => clip.network.endOf(text)),
          )
          clip.check(last, `${out}/last_hidden_state`)
          clip.check(pooled, `${out}/pooler_output`)
        }
      })

      it(`${name}: padding that is not attended to`, async () => {
        const clip = await open()
        const run = await clip.runOn(backend)
        const [samples, length] = clip.golden.tensors['in/attention_mask'].shape
        const attended = clip.golden.integers('in/attention_mask')
        const { last } = await run(
          'in/input_ids',
          (context, { ids, mask }) => ({ last: clip.network.build(context, ids, { samples, mask }).last }),
          maskFeed(pairMask(length, { causal: true, attended }), samples, length),
        )
        clip.check(last, 'out/attention_mask/last_hidden_state')
      })
    }

    it("OpenCLIP: the last and the penultimate layer, and the text's projection", async () => {
      const clip = await Opened.open(
        'open_clip_text',
        ({ open_clip: { embed_dim: embedDim, text_cfg } }) =>
          new OpenCLIPTextModel({ embedDim, ...camelCased(text_cfg) }),
        { logit_scale: Tensor.from(Float32Array.of(1), []) },
      )
      const run = await clip.runOn(backend)
      const [samples] = clip.golden.tensors['in/ids'].shape
      const out = await run(
        'in/ids',
        (context, { ids, rows }) => {
          const { hidden, last } = clip.network.build(context, ids, { samples })
          const penultimate = clip.network.normalize(context, hidden[hidden.length - 2])
          return { last, penultimate, encode_text: clip.network.project(context, last, rows) }
        },
        rowsOf(clip.golden.integers('in/ids'), samples, (text) => clip.network.endOf(text)),
      )
      for (const name of ['last', 'penultimate', 'encode_text']) clip.check(out[name], `out/${name}`)
    })

    it("TransformerWrapper: states, logits, loss and gradients are PyTorch's", async () => {
      const wrapper = await Opened.open(
        'transformer_embedder',
        ({ embedder }) => new TransformerWrapper(camelCased(embedder) as never),
      )
      const run = await wrapper.runOn(backend)
      const { network, golden } = wrapper
      const out = await run(
        'in/ids',
        (context, values, samples) => {
          const { last } = network.build(context, values.ids, { samples })
          return { out: last, logits: network.logits(context, last), loss: lossOf(context.graph, last, values) }
        },
        wrapper.target(),
      )
      wrapper.check(out.out, 'out/out')
      wrapper.check(out.logits, 'out/logits')
      wrapper.check(out.loss, 'out/loss', tolerance.loss)
      const gradients = network.parameters.toStateDict(out.grads)
      await checkGradients(golden, gradients, wrapper.weights, tolerance, (name) => name.includes('to_logits'))

      const short = await run('in/short_ids', (context, { ids }, samples) => {
        return { out: network.build(context, ids, { samples }).last }
      })
      wrapper.check(short.out, 'out/short')

      const [samples, length] = golden.tensors['in/mask'].shape
      const attended = golden.integers('in/mask')
      const masked = await run(
        'in/ids',
        (context, { ids, mask }) => ({ out: network.build(context, ids, { samples, mask }).last }),
        maskFeed(pairMask(length, { attended, ofQueries: true }), samples, length),
      )
      wrapper.check(masked.out, 'out/masked')
    })
  })
}

describe('text encoders', () => {
  it('have the names and shapes of the state dicts, which come back to the bit', async () => {
    const opened = [
      await Opened.open('clip_text_gelu', ({ clip_text }) => new CLIPTextModel(camelCased(clip_text) as never)),
      await Opened.open(
        'transformer_embedder',
        ({ embedder }) => new TransformerWrapper(camelCased(embedder) as never),
      ),
      await Opened.open(
        'open_clip_text',
        ({ open_clip: { embed_dim: embedDim, text_cfg } }) =>
          new OpenCLIPTextModel({ embedDim, ...camelCased(text_cfg) }),
        { logit_scale: Tensor.from(Float32Array.of(2), []) },
      ),
    ]
    for (const { network, weights } of opened) {
      const { flat } = await network.parameters.fromStateDict(weights)
      const again = network.parameters.toStateDict(flat)
      assert.deepEqual(Object.keys(again).sort(), Object.keys(weights).sort())
      for (const [name, tensor] of Object.entries(again)) {
        assert.deepEqual(tensor.shape, weights[name].shape, name)
        assert.deepEqual(await tensor.data(), await weights[name].data(), name)
      }
    }
  })

  it('refuse texts that are too long, and heads that do not divide the channels', () => {
    assert.throws(() => new CLIPTextModel({ hiddenSize: 20, numAttentionHeads: 8 }), { argument: 'numAttentionHeads' })
    assert.throws(() => new OpenCLIPTextModel({ width: 20, heads: 8 }), { argument: 'heads' })
    assert.throws(() => new TransformerWrapper({ nEmbed: 8, nLayer: 1 } as never), { argument: 'vocabSize' })
    assert.throws(() => new CLIPTextModel({ hiddenAct: 'relu' } as never), { argument: 'hiddenAct' })
  })

  it('where a text ends: at the first of the largest id, or of the end token that the configuration names', () => {
    const clip = new CLIPTextModel({ hiddenSize: 8, numHiddenLayers: 1 })
    assert.deepEqual([clip.endOf([5, 9, 3, 9]), clip.endOf([1])], [1, 0])
    const later = new CLIPTextModel({ hiddenSize: 8, numHiddenLayers: 1, eosTokenId: 3 })
    assert.deepEqual([later.endOf([5, 9, 3, 9, 3]), later.endOf([5, 9])], [2, 0])
  })

  it('masks: causal, of keys, of queries', () => {
    assert.deepEqual([...pairMask(2, { causal: true })], [1, 0, 1, 1])
    const attended = Int32Array.of(1, 0, 1, 1)
    assert.deepEqual([...pairMask(2, { attended })], [1, 0, 1, 0, 1, 1, 1, 1])
    assert.deepEqual([...pairMask(2, { attended, ofQueries: true })], [1, 0, 0, 0, 1, 1, 1, 1])
  })
})
