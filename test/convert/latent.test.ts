// Latent models between CompVis' single files and folders of diffusers: the names of diffusers' own converter, and the same bits.
import assert from 'node:assert/strict'
import { cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { readSafetensors, type StoredTensor } from '../../lib/checkpoint/safetensors'
import { readStateDictFile } from '../../lib/checkpoint/state-dict-file'
import { readYaml, writeYaml } from '../../lib/checkpoint/yaml'
import { readSource, type SourceOptions } from '../../lib/convert/source'
import { type TargetOptions, writeTarget } from '../../lib/convert/target'
import { LatentDiffusion, loadModel, Tensor } from '../../lib/index'
import { assertSameBits } from '../support/compare'
import { runCli, temporaryFolder } from '../train/support'

const fixtures = path.join(__dirname, '..', '..', '..', 'test', 'fixtures')
const checkpoints = path.join(fixtures, 'ldm', 'checkpoints')

describe('conversion of latent models', () => {
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)

  /** A file that lies in parts, with a configuration that says the heads of its text encoder, too. */
  async function joined(name: string, yaml: string, sizes: object): Promise<string> {
    const parts = readdirSync(checkpoints).filter((part) => part.startsWith(`${name}.part`))
    writeFileSync(at(name), Buffer.concat(parts.sort().map((part) => readFileSync(path.join(checkpoints, part)))))
    const root = (await readYaml(path.join(checkpoints, yaml))) as {
      model: { params: { cond_stage_config: { params: object } } }
    }
    Object.assign(root.model.params.cond_stage_config.params, { text_config: sizes })
    writeFileSync(at(yaml), writeYaml(root))
    return at(name)
  }

  async function convert(source: string, target: string, o: TargetOptions & SourceOptions): Promise<readonly string[]> {
    const model = await readSource(source, { config: o.config, tokenizer: o.tokenizer })
    try {
      return await writeTarget(model, target, { to: o.to, weights: o.weights })
    } finally {
      model.ddpm.dispose()
    }
  }

  const same = (actual: StoredTensor | undefined, expected: StoredTensor, name: string) => {
    assert.ok(actual, name)
    assertSameBits(Float32Array.from(actual.data, Number), Float32Array.from(expected.data, Number), name)
  }

  for (const [version, file, sizes, text] of [
    ['sd_v1', 'sd_v1.ckpt', { numAttentionHeads: 4 }, 'text_model.encoder.layers.1.mlp.fc1.weight'],
    ['sd_v2', 'sd_v2.safetensors', { heads: 5 }, 'text_model.encoder.layers.1.self_attn.k_proj.weight'],
  ] as const) {
    it(`${version}: one file to a folder and back`, async () => {
      const source = await joined(file, `${version}.yaml`, sizes)
      const original = (await readStateDictFile(source)).tensors
      await convert(source, at(version), { to: 'diffusers', weights: 'model' })
      const { unet, vae, unet_config, vae_config } = JSON.parse(
        readFileSync(path.join(fixtures, 'ldm', `${version}.diffusers.json`), 'utf8'),
      )
      for (const [part, names] of [
        ['unet', unet],
        ['vae', vae],
      ] as const) {
        const { tensors } = await readSafetensors(at(version, part, 'diffusion_pytorch_model.safetensors'))
        assert.deepEqual(Object.keys(tensors).sort(), Object.values<string>(names).sort())
        for (const [name, theirs] of Object.entries<string>(names)) same(tensors[theirs], original[name], theirs)
      }
      const json = (...names: string[]) => JSON.parse(readFileSync(at(version, ...names), 'utf8'))
      for (const [part, expected] of [
        ['unet', unet_config],
        ['vae', vae_config],
      ] as const) {
        const written = json(part, 'config.json')
        for (const field of [
          'down_block_types',
          'up_block_types',
          'block_out_channels',
          'in_channels',
          'out_channels',
        ]) {
          assert.deepEqual(written[field], expected[field], `${part} ${field}`)
        }
      }
      const written = await readSafetensors(at(version, 'text_encoder', 'model.safetensors'))
      assert.ok(Object.hasOwn(written.tensors, text))

      const [back, yaml] = await convert(at(version), at(`${version}-back.safetensors`), { to: 'model' })
      assert.ok(existsSync(yaml))
      const again = (await readSafetensors(back)).tensors
      let compared = 0
      for (const [name, tensor] of Object.entries(original)) {
        if (!/^(model\.diffusion_model|first_stage_model|cond_stage_model)\./.test(name)) continue
        // A folder has no layer that is left out, and nothing of images.
        if (/position_ids$|resblocks\.2\.|text_projection|logit_scale/.test(name)) continue
        same(again[name], tensor, name)
        assert.deepEqual(again[name].shape, tensor.shape, name)
        compared++
      }
      assert.ok(compared > 290)
      // What was written opens: with its own YAML, which says all.
      using first = await LatentDiffusion.fromPretrained(at(version), { device: 'cpu' })
      using second = (await loadModel(back, { device: 'cpu' })) as LatentDiffusion
      assert.equal(second.parameterization, first.parameterization)
      const cond = await second.getLearnedConditioning(idsOf(second))
      assertSameBits(await cond.data(), await (await first.getLearnedConditioning(idsOf(first))).data(), 'text')
    })
  }

  it('averages and counters of a .ckpt stay', async () => {
    const source = await joined('sd_v1.ckpt', 'sd_v1.yaml', { numAttentionHeads: 4 })
    const [copy] = await convert(source, at('copy.ckpt'), { to: 'ckpt' })
    const [before, after] = [await readStateDictFile(source), await readStateDictFile(copy)]
    assert.deepEqual(after.counters, { epoch: 0, global_step: 0, ...before.counters })
    for (const [name, tensor] of Object.entries(before.tensors)) {
      if (/position_ids$/.test(name)) continue
      same(after.tensors[name], tensor, name)
    }
    assert.deepEqual(
      Object.keys(before.tensors)
        .filter((name) => !/position_ids$/.test(name))
        .sort(),
      Object.keys(after.tensors).sort(),
    )
  })

  it('what is called like the configuration stays, or is refused as a name', async () => {
    const source = await joined('sd_v1.ckpt', 'sd_v1.yaml', { numAttentionHeads: 4 })
    writeFileSync(at('kept.yaml'), 'mine')
    const { code, stdout, stderr } = await runCli(['convert', source, at('kept.safetensors'), '--weights', 'model'])
    assert.equal(code, 0, stderr)
    assert.match(stdout, /kept-1\.safetensors.*kept-1\.yaml/)
    assert.equal(readFileSync(at('kept.yaml'), 'utf8'), 'mine')
    await assert.rejects(convert(source, at('name.yaml'), { to: 'ckpt' }), { argument: 'target' })
    assert.ok(!existsSync(at('name.yaml')))
    const wrong = await runCli(['info', source, '--key', 'elsewhere'])
    assert.equal(wrong.code, 1)
    assert.match(wrong.stderr, /key: expected/)
  })

  it('ddpm convert, info and sample of such a file, with a tokenizer beside it', async () => {
    const source = await joined('sd_v2.safetensors', 'sd_v2.yaml', { heads: 5 })
    const converted = await runCli(['convert', source, at('from-cli')])
    assert.equal(converted.code, 0, converted.stderr)
    assert.match(converted.stdout + converted.stderr, /without a tokenizer/)
    const info = await runCli(['info', source, '--json'])
    assert.match(info.stdout, /FrozenOpenCLIPEmbedder/)
    const prompt = ['--prompt', 'the cat', '--steps', '2', '--device', 'cpu', '--output', at('cat.png')]
    const none = await runCli(['sample', source, ...prompt])
    assert.match(none.stderr, /has no tokenizer/)
    const tokenizer = path.join(fixtures, 'clip_tokenizer')
    const other = await runCli(['sample', source, ...prompt, '--tokenizer', tokenizer])
    assert.match(other.stderr, /vocabulary of at most 50/)
    cpSync(path.join(fixtures, 'ldm', 'diffusers_sd'), at('sd'), { recursive: true })
    const refused = await runCli(['convert', at('sd'), at('sd.ckpt')])
    assert.match(refused.stderr, /norm|Groups/)
  })
})

function idsOf(model: LatentDiffusion) {
  const { maxLength } = model.condStageModel as unknown as { maxLength: number }
  return Tensor.from(
    Int32Array.from({ length: maxLength }, (_, i) => i % 11),
    [1, maxLength],
  )
}
