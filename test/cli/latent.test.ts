/** Commands with a latent model: prompts in `ddpm sample`, and what `ddpm export` and `ddpm evaluate` make of it. */
import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'
import { toBytes } from '../../lib/data/image-grid'
import { LatentDiffusion } from '../../lib/index'
import { readOnnx } from '../export/onnx-file'
import { runCli, temporaryFolder } from '../train/support'

const model = path.join(__dirname, '..', '..', '..', 'test', 'fixtures', 'ldm', 'diffusers_sd')

describe('ddpm sample --prompt', () => {
  const folder = temporaryFolder()
  async function draw(name: string, ...args: string[]): Promise<Buffer[]> {
    const own = ['--device', 'cpu', '--steps', '2', '--separate', name, ...args]
    const { code, stderr } = await runCli(['sample', model, ...own], {}, folder)
    assert.equal(code, 0, stderr)
    const files = readdirSync(path.join(folder, name)).filter((file) => file.endsWith('.png'))
    return Promise.all(
      files.sort().map((file) =>
        sharp(path.join(folder, name, file))
          .raw()
          .toBuffer(),
      ),
    )
  }

  it('is drawn once, and of several each once or in turn, in whatever batches', async () => {
    const [cat, ...none] = await draw('cat', '--prompt', 'red cat')
    assert.equal(none.length, 0)
    const both = await draw('both', '--prompt', 'red cat', '--prompt', 'a photograph')
    assert.equal(both.length, 2)
    assertClose(both[0], cat)
    const photographs = await draw('photographs', '--prompt', 'a photograph', '--count', '2')
    assertClose(both[1], photographs[1])
    assert.throws(() => assertClose(both[0], photographs[0]))
    const four = await draw('four', '--prompt', 'red cat', '--prompt', 'a photograph', '--count', '4', '--batch', '3')
    assert.equal(four.length, 4)
    for (const [i, image] of both.entries()) assertClose(four[i], image)
  })

  it('is what the library draws, by the scheduler of the folder', async () => {
    const [cat] = await draw('by-command', '--prompt', 'red cat', '--negative-prompt', 'a dog', '--guidance', '3')
    using ldm = await LatentDiffusion.fromPretrained(model, { device: 'cpu' })
    const o = { prompt: 'red cat', negativePrompt: 'a dog', guidanceScale: 3, steps: 2, seed: 0 } as const
    const drawn = await ldm.sample(o)
    assertClose(cat, Buffer.from(toBytes(await drawn.data(), drawn.shape).data))
  })

  it('is of all images on the way from one seed to another', async () => {
    const way = ['--interpolate', '1,2', '--count', '3', '--sampler', 'ddim']
    const cats = await draw('cats', ...way, '--prompt', 'red cat')
    const photographs = await draw('other-way', ...way, '--prompt', 'a photograph')
    for (const [i, cat] of cats.entries()) assert.throws(() => assertClose(cat, photographs[i]))
    const seed = ['--sampler', 'ddim', '--count', '1', '--prompt', 'red cat', '--seed']
    assertClose((await draw('1', ...seed, '1'))[0], cats[0])
    assertClose((await draw('2', ...seed, '2'))[0], cats[2])
    const spaced = await runCli(['sample', model, '--prompt', 'a', '--spacing', 'trailing'], {}, folder)
    assert.deepEqual([spaced.code, /--spacing goes with --sampler/.test(spaced.stderr)], [2, true])
    const two = await runCli(['sample', model, ...way, '--prompt', 'a', '--prompt', 'b'], {}, folder)
    assert.equal(two.code, 2)
    assert.match(two.stderr, /--interpolate takes one --prompt/)
  })
})

describe('a latent model', () => {
  const folder = temporaryFolder()

  it("is exported with its text encoder's tokens as an input", async () => {
    const { code, stderr } = await runCli(['export', model, '--output', 'unet.onnx'], {}, folder)
    assert.equal(code, 0, stderr)
    const tokens = () => readOnnx(path.join(folder, 'unet.onnx')).inputs.context.dims
    assert.deepEqual(tokens(), ['n', 77, 32])
    const shorter = ['export', model, '--context-length', '8', '--overwrite', '--output', 'unet.onnx']
    assert.equal((await runCli(shorter, {}, folder)).code, 0)
    assert.deepEqual(tokens(), ['n', 8, 32])
  })

  it('has no bits per dimension of images', async () => {
    const { code, stderr } = await runCli(['evaluate', folder, '--checkpoint', model], {}, folder)
    assert.equal(code, 1)
    assert.match(stderr, /a latent model describes latents/)
  })
})

/** Batches of another size sum in another order. */
function assertClose(image: Buffer, expected: Buffer): void {
  assert.equal(image.length, expected.length)
  for (const [i, byte] of image.entries()) assert.ok(Math.abs(byte - expected[i]) <= 1, `byte ${i}`)
}
