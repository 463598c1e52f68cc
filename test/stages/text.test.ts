// The text stages: from prompts to context tokens.
import assert from 'node:assert/strict'
import { cpSync, mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { writeSafetensors } from '../../lib/checkpoint/safetensors'
import type { DeviceName } from '../../lib/device'
import { FrozenCLIPEmbedder, type FrozenCLIPEmbedderOptions } from '../../lib/stages/text/clip'
import { FrozenOpenCLIPEmbedder } from '../../lib/stages/text/open-clip'
import { BERTEmbedder, TransformerEmbedder } from '../../lib/stages/text/transformer'
import { Tensor } from '../../lib/tensor'
import { applyWeights } from '../../lib/text/prompt-weights'
import { Tokenizer } from '../../lib/text/tokenizer'
import { assertScaled, tolerance } from '../nn/check-golden'
import { Golden } from '../nn/golden'
import { assertSameBits } from '../support/compare'
import { testDevice } from '../support/devices'
import { testedBackends } from '../support/run-graph'
import { temporaryFolder } from '../train/support'

const tokenizer = path.join(__dirname, '..', '..', '..', 'test', 'fixtures', 'clip_tokenizer')

const camelCased = (options: Record<string, unknown>) =>
  Object.fromEntries(
    Object.entries(options).map(([name, v]) => [
      name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase()),
      v,
    ]),
  )

const prefixed = (dict: Record<string, Tensor>, prefix: string) =>
  Object.fromEntries(Object.entries(dict).map(([name, tensor]) => [`${prefix}${name}`, tensor]))

const idsOf = (golden: Golden, name: string) => Tensor.from(golden.integers(name), golden.tensors[name].shape)

async function check(y: Tensor, golden: Golden, name: string) {
  assertScaled(await y.data(), golden.floats(name), tolerance.out, 0, name)
}

for (const backend of testedBackends) {
  describe(`text stages on ${backend}`, () => {
    const openClip = async (device: DeviceName, o: FrozenCLIPEmbedderOptions = {}) => {
      const golden = await Golden.open('clip_text_quick_gelu.safetensors')
      const stage = new FrozenCLIPEmbedder({ textConfig: camelCased(golden.config.clip_text), device, ...o })
      const positions = { 'transformer.text_model.embeddings.position_ids': Tensor.from(new Int32Array(16), [1, 16]) }
      const weights = prefixed(await golden.parameters(() => true), 'transformer.')
      await stage.loadStateDict({ ...weights, ...positions })
      return { golden, stage }
    }

    it('FrozenCLIPEmbedder: last, pooled and hidden states, and without the last layers', async () => {
      const { golden, stage } = await openClip(backend)
      using _ = stage
      const ids = idsOf(golden, 'in/input_ids')
      using last = await stage.encode(ids)
      assert.deepEqual(last.shape, [3, 16, 32])
      await check(last, golden, 'out/last_hidden_state')
      await check(await stage.encode(idsOf(golden, 'in/short/input_ids')), golden, 'out/short/last_hidden_state')
      await check(await stage.encode(ids, { clipSkip: 1 }), golden, 'out/penultimate')

      const { stage: pooled } = await openClip(backend, { layer: 'pooled' })
      using one = await pooled.encode(ids)
      assert.deepEqual(one.shape, [3, 1, 32])
      await check(one, golden, 'out/pooler_output')
      for (const [layerIdx, name] of [
        [0, 'hidden_states.0'],
        [2, 'hidden_states.2'],
        [-1, 'hidden_states.3'],
        [-3, 'hidden_states.1'],
      ] as const) {
        const { stage: hidden } = await openClip(backend, { layer: 'hidden', layerIdx })
        await check(await hidden.encode(ids), golden, `out/${name}`)
        hidden.dispose()
      }
      pooled.dispose()
    })

    it('FrozenOpenCLIPEmbedder: the last and the penultimate layer', async () => {
      const golden = await Golden.open('open_clip_text.safetensors')
      const { embed_dim: embedDim, text_cfg } = golden.config.open_clip
      const weights = prefixed(await golden.parameters(() => true), 'model.')
      for (const layer of ['last', 'penultimate'] as const) {
        const textConfig = { embedDim, ...camelCased(text_cfg) }
        using stage = new FrozenOpenCLIPEmbedder({ textConfig, layer, device: backend })
        await stage.loadStateDict({ ...weights, 'model.logit_scale': Tensor.from(Float32Array.of(1), []) })
        await check(await stage.encode(idsOf(golden, 'in/ids')), golden, `out/${layer}`)
      }
    })

    it('BERTEmbedder and TransformerEmbedder', async () => {
      const golden = await Golden.open('transformer_embedder.safetensors')
      const o = camelCased(golden.config.embedder) as { nEmbed: number; nLayer: number; vocabSize: number }
      const weights = await golden.parameters(() => true)
      for (const stage of [
        new BERTEmbedder({ ...o, device: backend }),
        new TransformerEmbedder({ ...o, device: backend }),
      ]) {
        await stage.loadStateDict(weights)
        await check(await stage.encode(idsOf(golden, 'in/ids')), golden, 'out/out')
        await check(await stage.encode(idsOf(golden, 'in/short_ids')), golden, 'out/short')
        stage.dispose()
      }
    })
  })
}

describe('a text stage', () => {
  const textConfig = {
    vocabSize: 530,
    hiddenSize: 16,
    intermediateSize: 32,
    numHiddenLayers: 1,
    numAttentionHeads: 2,
    maxPositionEmbeddings: 12,
  }
  const make = (o: FrozenCLIPEmbedderOptions = {}) => {
    return new FrozenCLIPEmbedder({ textConfig, tokenizer, device: testDevice, ...o })
  }

  it('encodes a prompt as its tokens, and prompts of a batch as each alone', async () => {
    using stage = make()
    const prompts = ['a photo of the red cat', '']
    using both = await stage.encode(prompts)
    assert.deepEqual(both.shape, [2, 12, 16])
    const { ids, texts, length } = await stage.tokenize(prompts)
    assertSameBits(await both.data(), await (await stage.encode(Tensor.from(ids, [texts, length]))).data(), 'by ids')
    assertSameBits(await both.data(), await (await stage.encode(await stage.tokenize(prompts))).data(), 'tokenized')
    const alone = await (await stage.encode('')).data()
    assertScaled((await both.data()).slice(alone.length), alone, 1e-5, 0, 'the second alone')
  })

  it('tells of a prompt that is cut', async () => {
    using stage = make()
    await stage.encode('the cat '.repeat(10))
    assert.match(stage.warnings()[0], /cut to 12 tokens/)
    await stage.encode('the cat')
    assert.deepEqual(stage.warnings(), [])
  })

  it('weighs the words of a prompt', async () => {
    using stage = make()
    const plain = await (await stage.encode('the red cat')).data()
    const o = { promptWeights: true }
    const weighted = await (await stage.encode('the (red:1.5) cat', o)).data()
    const weights = new Float32Array(12).fill(1)
    weights[2] = 1.5
    applyWeights(plain, weights, 1)
    assertScaled(weighted, plain, 1e-6, 0, 'weighted')
    const brackets = await (await stage.encode('the (red:1.5) cat')).data()
    assert.notDeepEqual([...brackets], [...weighted])
    assertSameBits(
      await (await stage.encode('the red cat', o)).data(),
      await (await stage.encode('the red cat')).data(),
      'no weights',
    )
    using pooled = make({ layer: 'pooled' })
    await assert.rejects(pooled.encode('the (red:1.5) cat', o), { argument: 'promptWeights' })
  })

  it('pads as its kind does: with the end token, OpenCLIP with 0', async () => {
    using first = make()
    assert.deepEqual([...(await first.tokenize('the')).ids.subarray(0, 5)], [528, 513, 529, 529, 529])
    const config = { embedDim: 8, contextLength: 6, vocabSize: 530, width: 16, heads: 2, layers: 2 }
    using second = new FrozenOpenCLIPEmbedder({ textConfig: config, tokenizer, device: testDevice })
    assert.deepEqual([...(await second.tokenize('the')).ids], [528, 513, 529, 0, 0, 0])
    using short = make({ maxLength: 4 })
    assert.equal((await short.encode('the')).shape[1], 4)
  })

  it('says that it is trained with the model, or not', () => {
    assert.deepEqual([make().trainable, make({ freeze: false }).trainable], [false, true])
    assert.equal(new BERTEmbedder({ nEmbed: 8, nLayer: 1, device: testDevice }).trainable, true)
  })

  it("has ldm's names", async () => {
    using stage = new BERTEmbedder({ nEmbed: 8, nLayer: 1, vocabSize: 10, device: testDevice })
    assert.ok('transformer.attn_layers.layers.1.1.net.0.0.weight' in (await stage.stateDict()))
    using clip = make()
    assert.ok('transformer.text_model.encoder.layers.0.mlp.fc1.bias' in (await clip.stateDict()))
  })

  it('refuses a vocabulary larger than the embedding, what is no text, and ids that it does not know', async () => {
    const small = { ...textConfig, vocabSize: 529 }
    using stage = make({ textConfig: small })
    await assert.rejects(stage.encode('the'), { code: 'invalid-argument', argument: 'tokenizer' })
    const opened = await Tokenizer.fromPretrained(tokenizer)
    assert.throws(() => make({ textConfig: small, tokenizer: opened }), { argument: 'tokenizer' })

    using clip = make()
    for (const prompt of [7, ['the', 7], null, undefined, {}]) {
      await assert.rejects(clip.encode(prompt as never), { code: 'invalid-argument', argument: 'prompt' })
    }
    const ids = (values: number[], shape = [1, values.length]) => Tensor.from(Int32Array.from(values), shape)
    await assert.rejects(clip.encode(ids([528, 530])), { code: 'invalid-argument', argument: 'ids' })
    await assert.rejects(clip.encode(ids([528, -1])), { code: 'invalid-argument', argument: 'ids' })
    await assert.rejects(clip.encode(ids(Array(13).fill(0))), { code: 'invalid-argument', argument: 'ids' })
    await assert.rejects(clip.encode(ids([1, 2], [2])), { argument: 'ids' })
    await assert.rejects(clip.encode(Tensor.from([1, 2], [1, 2])), { argument: 'ids' })

    using bare = make({ tokenizer: undefined })
    await assert.rejects(bare.encode('the'), { code: 'not-configured', argument: 'tokenizer' })
    using missing = make({ tokenizer: path.join(tokenizer, 'none') })
    await assert.rejects(missing.encode('the'), { code: 'not-found' })
  })

  it('refuses options that do not go together', async () => {
    assert.throws(() => make({ maxLength: 13 }), { argument: 'maxLength' })
    const ids = { nEmbed: 8, nLayer: 1, vocabSize: 9, useTokenizer: false, device: testDevice }
    assert.throws(() => new BERTEmbedder({ ...ids, tokenizer }), { argument: 'tokenizer' })
    using own = new BERTEmbedder(ids)
    await assert.rejects(own.encode('the'), { code: 'not-configured' })
    assert.throws(() => make({ layer: 'hidden' }), { argument: 'layerIdx' })
    assert.throws(() => make({ layer: 'hidden', layerIdx: 2 }), { argument: 'layerIdx' })
    assert.throws(() => make({ layerIdx: 1 }), { argument: 'layerIdx' })
    assert.throws(() => new FrozenCLIPEmbedder({ version: 'other/model' }), { argument: 'version' })
    assert.throws(() => new FrozenOpenCLIPEmbedder({ arch: 'ViT-X' }), { argument: 'arch' })
    using pooled = make({ layer: 'pooled' })
    for (const [stage, clipSkip] of [
      [pooled, 1],
      [make(), 2],
      [make(), -1],
    ] as const) {
      await assert.rejects(async () => stage.encode('the', { clipSkip }), { argument: 'clipSkip' })
    }
  })
})

describe('FrozenCLIPEmbedder.fromPretrained', () => {
  const root = temporaryFolder()
  let count = 0

  /** A folder as transformers writes it, within one as diffusers does. */
  async function write(change: Record<string, unknown> = {}, file = 'model.safetensors') {
    const golden = await Golden.open('clip_text_quick_gelu.safetensors')
    const folder = path.join(root, String(count++))
    const own = path.join(folder, 'text_encoder')
    mkdirSync(own, { recursive: true })
    const config = { architectures: ['CLIPTextModel'], model_type: 'clip_text_model', ...golden.config.clip_text }
    writeFileSync(path.join(own, 'config.json'), JSON.stringify({ ...config, ...change }))
    const weights = Object.entries(await golden.parameters(() => true)).map(async ([name, tensor]) => {
      return [name, { dtype: 'F32', shape: tensor.shape, data: await tensor.data() }] as const
    })
    const positions = { dtype: 'I64', shape: [1, 16], data: new BigInt64Array(16) } as const
    const other = { dtype: 'F32', shape: [1], data: Float32Array.of(1) } as const
    const all = {
      ...Object.fromEntries(await Promise.all(weights)),
      'text_model.embeddings.position_ids': positions,
      'visual_projection.weight': other,
    }
    await writeSafetensors(path.join(own, file), all as never)
    return { golden, folder, own }
  }

  it("opens a pipeline's folder, and a text model's own", async () => {
    const { golden, folder, own } = await write({ hidden_size: 32, new_field: 3 })
    for (const place of [folder, own]) {
      using stage = await FrozenCLIPEmbedder.fromPretrained(place, { device: testDevice })
      assert.equal(stage.loaded, false)
      await check(await stage.encode(idsOf(golden, 'in/input_ids')), golden, 'out/last_hidden_state')
      assert.match(stage.warnings()[0], /new_field is no field of CLIPTextConfig/)
    }
  })

  it('takes the text model of a whole CLIP, and the variant that is asked for', async () => {
    const { clip_text } = (await Golden.open('clip_text_quick_gelu.safetensors')).config
    const whole = { model_type: 'clip', text_config: clip_text, vision_config: {}, hidden_size: 1 }
    const { golden, own } = await write(whole, 'model.fp16.safetensors')
    using stage = await FrozenCLIPEmbedder.fromPretrained(own, { device: testDevice, variant: 'fp16' })
    await check(await stage.encode(idsOf(golden, 'in/input_ids')), golden, 'out/last_hidden_state')
    using none = await FrozenCLIPEmbedder.fromPretrained(own, { device: testDevice })
    await assert.rejects(none.encode(idsOf(golden, 'in/input_ids')), {
      code: 'not-found',
      message: /none of model.safetensors, pytorch_model.bin.*variant 'fp16'/,
    })
  })

  it('finds the tokenizer', async () => {
    const { folder } = await write({ vocab_size: 530 })
    cpSync(tokenizer, path.join(folder, 'tokenizer'), { recursive: true })
    using stage = await FrozenCLIPEmbedder.fromPretrained(folder, { device: testDevice })
    assert.deepEqual([...(await stage.tokenize('the cat')).ids.subarray(0, 4)], [528, 513, 515, 529])
    // The embedding has other rows than the configuration says.
    await assert.rejects(stage.encode('the cat'), { code: 'state-mismatch' })
  })

  it('says what is wrong', async () => {
    const open = async (change: Record<string, unknown>) => {
      return FrozenCLIPEmbedder.fromPretrained((await write(change)).folder, { device: testDevice })
    }
    await assert.rejects(open({ hidden_act: 'relu' }), { code: 'invalid-argument', argument: 'hidden_act' })
    await assert.rejects(open({ attention_dropout: 0.1 }), { code: 'unsupported', argument: 'attention_dropout' })
    await assert.rejects(open({ vocab_size: 1e9 }), { code: 'invalid-argument' })
    await assert.rejects(FrozenCLIPEmbedder.fromPretrained(root), { code: 'not-found', argument: 'folder' })
    await assert.rejects(FrozenCLIPEmbedder.fromPretrained(3 as never), { argument: 'folder' })
    const { folder } = await write()
    const other = FrozenCLIPEmbedder.fromPretrained(folder, { textConfig: {} } as never)
    await assert.rejects(other, { code: 'unknown-option', argument: 'textConfig' })
  })
})
