// Encoder, decoder and codebook against latent-diffusion's: outputs, loss and gradients.
import assert from 'node:assert/strict'
import { Autoencoder } from '../../lib/nn/autoencoder/autoencoder'
import { diffusersAutoencoder, diffusersAutoencoderConfig } from '../../lib/nn/autoencoder/diffusers'
import { inLayout, inOwnLayout } from '../../lib/nn/autoencoder/layouts'
import { autoencoderShape } from '../../lib/nn/autoencoder/options'
import { numbersOf } from '../support/numbers'
import { testedBackends } from '../support/run-graph'
import { checkAutoencoder, ddconfigOf } from './check-autoencoder'
import { Golden } from './golden'
import { hashedWeights } from './hashed-weights'

const files = [
  'autoencoder_kl',
  'autoencoder_kl_odd',
  'autoencoder_kl_linear',
  'autoencoder_kl_none',
  'autoencoder_vq',
  'autoencoder_vq_odd',
]

for (const backend of testedBackends) {
  describe(`autoencoder on ${backend}`, () => {
    for (const name of files) {
      it(`${name}: outputs, loss and gradients are PyTorch's`, async () => {
        await checkAutoencoder(backend, await Golden.open(`${name}.safetensors`))
      })
    }
  })
}

/** The first stage of Stable Diffusion 1 and 2. */
const stableDiffusion = {
  ...{ doubleZ: true, zChannels: 4, resolution: 256, inChannels: 3, outCh: 3, ch: 128, chMult: [1, 2, 4, 4] },
  ...{ numResBlocks: 2, attnResolutions: [], dropout: 0 },
}

describe('an autoencoder', () => {
  it("has Stable Diffusion's parameters", () => {
    const { parameters } = new Autoencoder(autoencoderShape(stableDiffusion), 4)
    assert.equal(parameters.slots.length, 248)
    assert.equal(parameters.size, 83_653_863)
    assert.deepEqual(parameters.get('decoder.mid.attn_1.proj_out.weight')?.shape, [512, 512, 1, 1])
    assert.deepEqual(parameters.get('decoder.up.0.block.0.nin_shortcut.weight')?.shape, [128, 256, 1, 1])
    assert.deepEqual(parameters.get('encoder.down.2.downsample.conv.weight')?.shape, [512, 512, 3, 3])
  })

  // Of the names that diffusers' converter gives to a checkpoint's, one of each kind.
  const renamed = {
    'encoder.conv_in.weight': 'encoder.conv_in.weight',
    'encoder.norm_out.bias': 'encoder.conv_norm_out.bias',
    'encoder.down.0.block.1.norm2.weight': 'encoder.down_blocks.0.resnets.1.norm2.weight',
    'encoder.down.1.block.0.nin_shortcut.weight': 'encoder.down_blocks.1.resnets.0.conv_shortcut.weight',
    'encoder.down.2.downsample.conv.bias': 'encoder.down_blocks.2.downsamplers.0.conv.bias',
    'encoder.mid.block_1.conv1.weight': 'encoder.mid_block.resnets.0.conv1.weight',
    'encoder.mid.attn_1.norm.weight': 'encoder.mid_block.attentions.0.group_norm.weight',
    'encoder.mid.attn_1.q.weight': 'encoder.mid_block.attentions.0.to_q.weight',
    'decoder.mid.attn_1.k.bias': 'decoder.mid_block.attentions.0.to_k.bias',
    'decoder.mid.attn_1.v.weight': 'decoder.mid_block.attentions.0.to_v.weight',
    'decoder.mid.attn_1.proj_out.weight': 'decoder.mid_block.attentions.0.to_out.0.weight',
    'decoder.mid.block_2.norm1.weight': 'decoder.mid_block.resnets.1.norm1.weight',
    'decoder.up.3.block.2.conv2.bias': 'decoder.up_blocks.0.resnets.2.conv2.bias',
    'decoder.up.3.upsample.conv.weight': 'decoder.up_blocks.0.upsamplers.0.conv.weight',
    'decoder.up.0.block.0.nin_shortcut.bias': 'decoder.up_blocks.3.resnets.0.conv_shortcut.bias',
    'decoder.conv_out.bias': 'decoder.conv_out.bias',
    'post_quant_conv.weight': 'post_quant_conv.weight',
  }

  it("has diffusers' names in the layout of diffusers", () => {
    const shape = autoencoderShape(stableDiffusion)
    const [own, theirs] = (['ldm', 'diffusers'] as const).map((layout) => {
      return new Autoencoder({ ...shape, layout }, 4).parameters.slots.map(({ name }) => name)
    })
    for (const [name, expected] of Object.entries(renamed)) assert.equal(theirs[own.indexOf(name)], expected)
  })

  it('takes the weights of one layout for the other, and those of diffusers before 0.14', async () => {
    const golden = await Golden.open('autoencoder_kl.safetensors')
    const network = new Autoencoder(autoencoderShape(ddconfigOf(golden)), 4)
    const weights = hashedWeights(network.parameters)
    const theirs = await inLayout(network, weights, 'diffusers')
    assert.deepEqual(theirs['encoder.mid_block.attentions.0.to_q.weight'].shape, [64, 64])
    assert.deepEqual(await numbersOf(await inOwnLayout(network, theirs)), await numbersOf(weights))
    const legacy = Object.entries(theirs).map(([name, tensor]) => {
      const older = { to_q: 'query', to_k: 'key', to_v: 'value', 'to_out.0': 'proj_attn' }
      return [Object.entries(older).reduce((n, [from, to]) => n.replace(`.${from}.`, `.${to}.`), name), tensor]
    })
    const again = await inOwnLayout(network, Object.fromEntries(legacy))
    assert.deepEqual(await numbersOf(again), await numbersOf(weights))
  })

  it('has attention where its configuration has it, also where resolution is not halved evenly', () => {
    const odd = { ...stableDiffusion, ch: 32, resolution: 50, attnResolutions: [25, 24] }
    const { encoderAttention, decoderAttention } = autoencoderShape(odd)
    assert.deepEqual(encoderAttention, [false, true, false, false]) // 50, 25, 12, 6
    assert.deepEqual(decoderAttention, [false, true, false, false]) // 48, 24, 12, 6
  })

  it('refuses what cannot be built', () => {
    const refused = (change: object, argument: string) => {
      const make = () => new Autoencoder(autoencoderShape({ ...stableDiffusion, ...change }), 4)
      assert.throws(make, { code: 'invalid-argument', argument })
    }
    refused({ ch: 20 }, 'ch')
    refused({ chMult: [1, 1.5], ch: 32 }, 'ch')
    refused({ doubleZ: false }, 'doubleZ')
    refused({ attnType: 'vanila' }, 'attnType')
    assert.throws(() => autoencoderShape({ ...stableDiffusion, attnResolution: [] } as never), {
      code: 'unknown-option',
      expected: 'attnResolutions',
    })
  })
})

describe("diffusers' configurations of autoencoders", () => {
  const vae = {
    ...{ _class_name: 'AutoencoderKL', act_fn: 'silu', block_out_channels: [32, 64], in_channels: 3, out_channels: 3 },
    ...{ down_block_types: ['AttnDownEncoderBlock2D', 'DownEncoderBlock2D'], latent_channels: 4, layers_per_block: 1 },
    ...{ up_block_types: ['UpDecoderBlock2D', 'AttnUpDecoderBlock2D'], norm_num_groups: 16, sample_size: 64 },
    ...{ scaling_factor: 0.18215, force_upcast: true },
  }

  it('are written as they were read', () => {
    const { _class_name, ...fields } = vae
    assert.deepEqual(diffusersAutoencoderConfig(diffusersAutoencoder('AutoencoderKL', vae)), fields)
    const vq = {
      block_out_channels: [32],
      latent_channels: 3,
      num_vq_embeddings: 77,
      vq_embed_dim: 5,
      scaling_factor: 2,
    }
    const written = diffusersAutoencoderConfig(diffusersAutoencoder('VQModel', vq))
    for (const [name, value] of Object.entries(vq)) assert.deepEqual(written[name], value, name)
    assert.equal(written.mid_block_add_attention, true)
  })

  it('are refused where they ask for what is not here', () => {
    const refused = (change: object, argument: string, code = 'unsupported') =>
      assert.throws(() => diffusersAutoencoder('AutoencoderKL', { ...vae, ...change }), { code, argument })
    refused({ act_fn: 'gelu' }, 'act_fn')
    refused({ _class_name: 'AutoencoderTiny' }, '_class_name')
    refused({ use_quant_conv: false }, 'use_quant_conv')
    refused({ latents_mean: [0, 0, 0, 0] }, 'latents_mean')
    refused({ down_block_types: ['DownEncoderBlock2D'] }, 'down_block_types', 'invalid-argument')
    refused({ block_out_channels: [32, 40] }, 'block_out_channels', 'invalid-argument')
    const { ignored } = diffusersAutoencoder('AutoencoderKL', { ...vae, sample_sise: 3 })
    assert.deepEqual(ignored, ['sample_sise'])
  })

  it("say what diffusers' classes cannot express", () => {
    const parts = { embedDim: 4, scalingFactor: 1 }
    const shape = autoencoderShape({ ...stableDiffusion, ch: 32 })
    const refused = (change: object, argument: string) =>
      assert.throws(() => diffusersAutoencoderConfig({ ...parts, shape: { ...shape, ...change } }), {
        code: 'unsupported',
        argument,
      })
    refused({ tanhOut: true }, 'tanhOut')
    refused({ attnType: 'linear' }, 'attnType')
    refused({ attnType: 'none' }, 'attnType')
    refused({ zChannels: 5 }, 'embedDim')
    refused({ stem: 64 }, 'chMult')
  })
})
