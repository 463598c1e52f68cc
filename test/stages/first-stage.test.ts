// AutoencoderKL, VQModel and VQModelInterface as their users see them, against PyTorch's.
import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { writeSafetensors } from '../../lib/checkpoint/safetensors'
import { AutoencoderKL } from '../../lib/stages/autoencoder-kl'
import { IdentityFirstStage } from '../../lib/stages/identity'
import { placesOf, weightsOf } from '../../lib/stages/tiles'
import { VQModel, VQModelInterface, type VQModelOptions } from '../../lib/stages/vq-model'
import { Tensor } from '../../lib/tensor'
import { ddconfigOf, openAutoencoder, tensorOf } from '../nn/check-autoencoder'
import { assertScaled, tolerance } from '../nn/check-golden'
import { Golden } from '../nn/golden'
import { hashedWeights } from '../nn/hashed-weights'
import { assertSameBits } from '../support/compare'
import { testDevice } from '../support/devices'
import { numbersOf } from '../support/numbers'

const fixtures = path.join(__dirname, '..', '..', '..', 'test', 'fixtures')
const device = testDevice

async function assertTensor(actual: Tensor, golden: Golden, name: string): Promise<void> {
  const expected = tensorOf(golden, name)
  assert.deepEqual(actual.shape, expected.shape, name)
  assertScaled(await actual.data(), await expected.data(), tolerance.out, 0, name)
}

async function openKl(name: string, options: object = {}) {
  const golden = await Golden.open(`${name}.safetensors`)
  const { weights } = await openAutoencoder(golden)
  const stage = new AutoencoderKL({
    ...{ ddconfig: ddconfigOf(golden), embedDim: golden.config.autoencoder.embed_dim, device },
    ...options,
  })
  await stage.loadStateDict(weights)
  return { golden, stage, weights }
}

function vqOptions(golden: Golden): VQModelOptions {
  const { autoencoder } = golden.config
  const { embed_dim: embedDim, n_embed: nEmbed, sane_index_shape: saneIndexShape } = autoencoder
  return { ddconfig: ddconfigOf(golden), embedDim, nEmbed, saneIndexShape, device }
}

describe('AutoencoderKL', () => {
  for (const name of ['autoencoder_kl', 'autoencoder_kl_odd', 'autoencoder_kl_linear', 'autoencoder_kl_none']) {
    it(`${name}: posterior and images are PyTorch's`, async () => {
      const { golden, stage, weights } = await openKl(name)
      using held = stage
      const x = tensorOf(golden, 'in/x')
      const posterior = await held.encode(x)
      await assertTensor(posterior.parameters, golden, 'out/moments')
      await assertTensor(posterior.kl(), golden, 'out/kl')
      const noise = tensorOf(golden, 'in/noise')
      const sample = await posterior.sample({ noise })
      await assertTensor(sample, golden, 'out/sample')
      await assertTensor(await posterior.nll(sample), golden, 'out/nll')
      await assertTensor(await held.decode(posterior.mode()), golden, 'out/dec_mode')
      await assertTensor((await held.forward(x, { noise })).dec, golden, 'out/dec')
      await assertTensor((await held.forward(x, { samplePosterior: false })).dec, golden, 'out/dec_mode')
      assert.deepEqual(await numbersOf(await held.stateDict()), await numbersOf(weights))
    })
  }

  it('gives the map before its end, where it is asked for', async () => {
    const golden = await Golden.open('autoencoder_kl.safetensors')
    const ddconfig = { ...ddconfigOf(golden), givePreEnd: true }
    using stage = new AutoencoderKL({ ddconfig, embedDim: 4, device })
    const { shape } = await stage.decode(Tensor.randn([1, 4, 3, 2]))
    assert.deepEqual(shape, [1, ddconfig.ch, 6, 4])
  })

  it('writes a folder of diffusers, and reads it when it is used', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'ddpm-native-vae-'))
    try {
      const { stage: ldm } = await openKl('autoencoder_kl')
      const z = Tensor.randn([1, 4, 5, 3])
      const expected = await (await ldm.decode(z)).data()
      const vae = path.join(folder, 'vae')
      await ldm.savePretrained(vae)
      const config = JSON.parse(readFileSync(path.join(vae, 'config.json'), 'utf8'))
      assert.equal(config._class_name, 'AutoencoderKL')
      assert.deepEqual(config.block_out_channels, [32, 64])
      for (const source of [vae, folder]) {
        using stage = await AutoencoderKL.fromPretrained(source, { device })
        assert.equal(stage.loaded, false)
        assert.equal(stage.scalingFactor, 0.18215)
        assertSameBits(await (await stage.decode(z)).data(), expected, 'decode')
        assert.ok('decoder.mid_block.attentions.0.to_q.weight' in (await stage.stateDict()))
        await ldm.loadStateDict(await stage.stateDict()) // by the names of the other
        assertSameBits(await (await ldm.decode(z)).data(), expected, 'decode')
      }
      await ldm.savePretrained(vae, { variant: 'fp16' })
      using half = await AutoencoderKL.fromPretrained(vae, { device, variant: 'fp16' })
      assertScaled(await (await half.decode(z)).data(), expected, 2e-2, 0, 'half precision')
      await assert.rejects(AutoencoderKL.fromPretrained(fixtures), { code: 'not-found' })
      ldm.dispose()
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it('takes its weights from a checkpoint of its own, or of a model that has it', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'ddpm-native-vae-'))
    try {
      const { stage, weights, golden } = await openKl('autoencoder_kl')
      stage.dispose()
      const file = path.join(folder, 'model.safetensors')
      const write = async (prefix: string, without = '') => {
        const own = Object.entries(weights).filter(([name]) => name !== without)
        const stored = await Promise.all(
          own.map(
            async ([name, tensor]) =>
              [prefix + name, { dtype: 'F32' as const, shape: tensor.shape, data: await tensor.data() }] as const,
          ),
        )
        const one = { dtype: 'F32' as const, shape: [1], data: Float32Array.of(1) }
        await writeSafetensors(file, { ...Object.fromEntries(stored), [`${prefix}loss.logvar`]: one, 'model.x': one })
      }
      for (const prefix of ['', 'first_stage_model.']) {
        using stage = new AutoencoderKL({ ddconfig: ddconfigOf(golden), embedDim: 4, device, seed: 8 })
        const drawn = await stage.stateDict()
        await write(prefix, 'quant_conv.bias')
        const { missing, unexpected } = await stage.initFromCkpt(file)
        assert.deepEqual(missing, ['quant_conv.bias'])
        assert.deepEqual(unexpected, prefix ? ['loss.logvar'] : ['loss.logvar', 'model.x'])
        const expected = { ...weights, 'quant_conv.bias': drawn['quant_conv.bias'] }
        assert.deepEqual(await numbersOf(await stage.stateDict()), await numbersOf(expected))
        assert.deepEqual((await stage.initFromCkpt(file, { ignoreKeys: ['loss', 'decoder.mid'] })).missing.length, 27)
      }
      using none = new AutoencoderKL({ ddconfig: ddconfigOf(golden), embedDim: 4, device })
      await writeSafetensors(file, { other: { dtype: 'F32', shape: [1], data: Float32Array.of(1) } })
      await assert.rejects(none.initFromCkpt(file), { code: 'state-mismatch' })
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it('says what is wrong with its input', async () => {
    const golden = await Golden.open('autoencoder_kl.safetensors')
    const ddconfig = ddconfigOf(golden)
    const invalid = (argument: string) => ({ code: 'invalid-argument', argument })
    assert.throws(() => new AutoencoderKL({ ddconfig } as never), invalid('embedDim'))
    assert.throws(() => new AutoencoderKL({ embedDim: 4 } as never), invalid('ddconfig'))
    assert.throws(
      () => new AutoencoderKL({ ddconfig, embedDim: 4, tileSampleMinSize: 1 }),
      invalid('tileSampleMinSize'),
    )
    using stage = new AutoencoderKL({ ddconfig, embedDim: 4, device })
    await assert.rejects(stage.encode(Tensor.randn([1, 4, 8, 8])), invalid('x'))
    await assert.rejects(stage.encode(Tensor.randn([1, 3, 8, 1])), invalid('x'))
    await assert.rejects(stage.decode(Tensor.randn([1, 3, 8, 8])), invalid('z'))
    await assert.rejects(stage.decode(Tensor.randn([4, 8, 8])), invalid('z'))
    const aborted = stage.decode(Tensor.randn([1, 4, 8, 8]), { signal: AbortSignal.abort() })
    await assert.rejects(aborted, { code: 'aborted' })
    const dict = await stage.stateDict()
    const { 'quant_conv.bias': bias, ...rest } = dict
    await assert.rejects(stage.loadStateDict(rest), { code: 'state-mismatch', argument: 'quant_conv.bias' })
    assert.equal(bias.shape[0], 8)
  })
})

describe('first stages with a codebook', () => {
  for (const name of ['autoencoder_vq', 'autoencoder_vq_odd']) {
    it(`${name}: what each method gives is PyTorch's`, async () => {
      const golden = await Golden.open(`${name}.safetensors`)
      const { weights } = await openAutoencoder(golden)
      using stage = new VQModelInterface(vqOptions(golden))
      await stage.loadStateDict(weights)
      const x = tensorOf(golden, 'in/x')
      const h = await stage.encode(x)
      await assertTensor(h, golden, 'out/h')
      await assertTensor(await stage.decode(h), golden, 'out/decode')
      await assertTensor(await stage.decode(h, { forceNotQuantize: true }), golden, 'out/decode_force_not_quantize')
      const ids = Tensor.from(golden.integers('in/ids'), golden.tensors['in/ids'].shape)
      const [n, c, height, width] = h.shape
      await assertTensor(await stage.getCodebookEntry(ids, [n, height, width, c]), golden, 'out/codebook_entry')
      await assertTensor(await stage.decodeCode(ids), golden, 'out/dec_code')

      using whole = new VQModel(vqOptions(golden))
      await whole.loadStateDict(weights)
      const { quant, loss, indices } = await whole.encode(x)
      await assertTensor(quant, golden, 'out/quant')
      assertScaled(Float32Array.of(loss), golden.floats('out/emb_loss'), tolerance.loss * 10, 0, 'loss')
      assert.deepEqual(indices.shape, golden.tensors['out/indices'].shape)
      assert.deepEqual(await indices.values(), golden.integers('out/indices'))
      const { dec, diff } = await whole.forward(x)
      await assertTensor(dec, golden, 'out/dec')
      assert.equal(diff, loss)
    })
  }

  it("diffusers' VQModel: latents and images are PyTorch's", async () => {
    const golden = await Golden.open('diffusers_vqvae.safetensors')
    using stage = await VQModelInterface.fromPretrained(path.join(fixtures, 'diffusers_vqvae'), { device })
    await assertTensor(await stage.encode(tensorOf(golden, 'in/image')), golden, 'out/vq/encode')
    const z = tensorOf(golden, 'in/z')
    await assertTensor(await stage.decode(z), golden, 'out/vq/decode')
    await assertTensor(await stage.decode(z, { forceNotQuantize: true }), golden, 'out/vq/decode_force_not_quantize')
    const { indices } = await stage.quantize(z)
    assert.deepEqual(await indices.values(), golden.integers('out/vq/indices'))
  })

  it('refuse a codebook of another size', async () => {
    const golden = await Golden.open('autoencoder_vq.safetensors')
    const options = vqOptions(golden)
    using stage = new VQModelInterface({ ...options, nEmbed: 31 })
    const { weights } = await openAutoencoder(golden)
    await assert.rejects(stage.loadStateDict(weights), {
      code: 'state-mismatch',
      argument: 'quantize.embedding.weight',
    })
    assert.throws(() => new VQModel({ ...options, nEmbed: undefined } as never), { argument: 'nEmbed' })
    const ddconfig = { ...options.ddconfig, doubleZ: true }
    assert.throws(() => new VQModel({ ...options, ddconfig }), { code: 'invalid-argument', argument: 'doubleZ' })
  })
})

describe('IdentityFirstStage', () => {
  it('gives what it is given', async () => {
    const x = Tensor.randn([1, 2])
    const [plain, vq] = [new IdentityFirstStage(), new IdentityFirstStage({ vqInterface: true })]
    assert.equal(await plain.decode(await plain.encode(x)), x)
    assert.equal(await plain.quantize(x), x)
    assert.deepEqual(await vq.quantize(x), { quant: x, loss: undefined, indices: undefined })
    assert.throws(() => new IdentityFirstStage({ vq: true } as never), { code: 'unknown-option' })
  })
})

describe('tiles', () => {
  const sizes = { tileSampleMinSize: 32, tileOverlapFactor: 0.25 }

  /** Columns [start, start + count) of [n, c, h, w]. */
  async function columns(x: Tensor, start: number, count: number): Promise<Tensor> {
    const [n, c, h, w] = x.shape
    const data = await x.data()
    const rows = Array.from({ length: n * c * h }, (_, row) => data.subarray(row * w + start, row * w + start + count))
    return Tensor.from(
      rows.flatMap((row) => [...row]),
      [n, c, h, count],
    )
  }

  it('are blended where they overlap, by how far a column is into them', async () => {
    const { stage } = await openKl('autoencoder_kl', sizes)
    using held = stage
    const z = Tensor.randn([2, 4, 12, 24], { seed: 4 })
    const [left, right] = [await held.decode(await columns(z, 0, 16)), await held.decode(await columns(z, 8, 16))]
    held.enableTiling()
    const tiled = await held.decode(z)
    assert.deepEqual(tiled.shape, [2, 3, 24, 48])
    const [a, b] = [await left.data(), await right.data()]
    const expected = (await tiled.data()).map((_, i) => {
      const [row, x] = [32 * Math.floor(i / 48), i % 48]
      if (x < 16) return a[row + x]
      const part = (x - 16 + 0.5) / 16
      return x < 32 ? a[row + x] * (1 - part) + b[row + x - 16] * part : b[row + x - 16]
    })
    assertScaled(await tiled.data(), expected, 1e-6, 0, 'tiled decode')
  })

  it('share what they must and lie evenly, and count 1 together', () => {
    for (const extent of [16, 17, 25, 28, 29, 60, 100]) {
      for (const overlap of [0, 0.25, 0.5]) {
        const places = placesOf(extent, 16, overlap)
        const { starts } = places
        assert.deepEqual([starts[0], starts[starts.length - 1]], [0, extent - 16])
        for (const [i, start] of starts.slice(1).entries()) assert.ok(start - starts[i] <= 16 * (1 - overlap))
        const sums = new Float64Array(3 * extent)
        for (const [i, weights] of weightsOf(places, 3).entries())
          for (const [at, weight] of weights.entries()) sums[3 * starts[i] + at] += weight
        for (const sum of sums) assert.ok(Math.abs(sum - 1) < 1e-12)
      }
    }
    assert.deepEqual(placesOf(9, 16, 0.25), { size: 9, starts: [0] })
  })

  /** Without attention and norms on the way, and kernels that look at one pixel: what a pixel becomes depends on it alone. */
  async function localStage(): Promise<AutoencoderKL> {
    const golden = await Golden.open('autoencoder_kl_none.safetensors')
    const ddconfig = { ...ddconfigOf(golden), givePreEnd: true, resampWithConv: true }
    const stage = new AutoencoderKL({ ddconfig, embedDim: 3, device, ...sizes })
    const weights = hashedWeights(stage.network.parameters)
    for (const [name, { shape }] of Object.entries(weights)) {
      const data = await weights[name].data()
      if (/block.*conv2/.test(name)) data.fill(0)
      if (shape[2] === 3) for (let i = 0; i < data.length; i++) if (i % 9 !== 4) data[i] = 0
      weights[name] = Tensor.from(data, shape)
    }
    await stage.loadStateDict(weights)
    return stage
  }

  it('are the whole, where what a pixel becomes depends on it alone', async () => {
    using stage = await localStage()
    for (const shape of [
      [1, 3, 40, 16],
      [2, 3, 29, 37],
    ]) {
      const z = Tensor.randn(shape, { seed: 5 })
      stage.enableTiling(false)
      const whole = await stage.decode(z)
      stage.enableTiling()
      const tiled = await stage.decode(z)
      assert.deepEqual(tiled.shape, whole.shape)
      assertScaled(await tiled.data(), await whole.data(), 1e-5, 0, 'tiled decode')
    }
  })

  it('of images give latents of the shape that the whole has, odd sizes too', async () => {
    const { stage } = await openKl('autoencoder_kl', { ...sizes, useTiling: true })
    using held = stage
    const x = Tensor.randn([1, 3, 73, 50])
    const { shape } = (await held.encode(x)).mean
    assert.deepEqual(shape, [1, 4, 36, 25])
    const aborted = held.encode(x, { signal: AbortSignal.abort() })
    await assert.rejects(aborted, { code: 'aborted' })
  })

  it('bound the memory of a program', async () => {
    const { stage } = await openKl('autoencoder_kl', sizes)
    using held = stage
    const most = () => Math.max(...Object.values(held.memoryInfo().programs).map(({ arena }) => arena))
    held.enableTiling()
    await held.decode(Tensor.randn([1, 4, 16, 16]))
    const one = most()
    await held.decode(Tensor.randn([1, 4, 64, 64]))
    await held.encode(Tensor.randn([1, 3, 96, 64]))
    assert.equal(most(), one)
    assert.equal(Object.keys(held.memoryInfo().programs).length, 2) // one each way
    held.enableTiling(false)
    await held.decode(Tensor.randn([1, 4, 64, 64]))
    assert.ok(most() > 4 * one)
  })
})
