// A latent model's training: latents computed once, captions, a text encoder that is trained, runs that go on and are drawn from.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import sharp from 'sharp'
import { readSource } from '../../lib/convert/source'
import {
  AutoencoderKL,
  LatentDiffusion,
  loadModel,
  Trainer,
  type TrainHooks,
  type TrainOptions,
  VQModelInterface,
} from '../../lib/index'
import { Tokenizer } from '../../lib/text/tokenizer'
import { readStateDict } from '../../lib/train/state-dict-file'
import { assertSameBits } from '../support/compare'

const clip = path.join(__dirname, '..', '..', '..', 'test', 'fixtures', 'ldm', 'diffusers_sd')
const ddconfig = {
  zChannels: 3,
  resolution: 16,
  inChannels: 3,
  outCh: 3,
  ch: 32,
  chMult: [1, 1],
  numResBlocks: 1,
  attnResolutions: [],
}
const colours = { red: 'ff0000', green: '00ff00', blue: '0000ff', white: 'ffffff' }

describe('training a latent model', () => {
  let folder = ''
  let options: TrainOptions
  const at = (...names: string[]) => path.join(folder, ...names)

  before(async () => {
    folder = await mkdtemp(path.join(os.tmpdir(), 'ddpm-latent-'))
    await mkdir(at('photos'))
    for (const [name, colour] of Object.entries(colours)) {
      const half = { create: { width: 8, height: 16, channels: 3, background: `#${colour}` } } as const
      const picture = sharp({ create: { ...half.create, width: 16, background: 'black' } })
      await picture
        .composite([{ input: half, left: 0, top: 0 }])
        .png()
        .toFile(at('photos', `${name}.png`))
      await writeFile(at('photos', `${name}.txt`), `a ${name}\n  square\n`)
    }
    using stage = new AutoencoderKL({ embedDim: 3, ddconfig, device: 'cpu' })
    await stage.savePretrained(at('vae'))
    options = {
      data: at('photos'),
      out: at('run'),
      firstStage: at('vae'),
      size: [16, 16],
      textEncoder: { nEmbed: 16, nLayer: 1, maxSeqLen: 6 },
      tokenizer: path.join(clip, 'tokenizer'),
      captionDropout: 0.5,
      steps: 4,
      warmup: 0,
      lr: 1e-2,
      batchSize: 3,
      checkpointEvery: 2,
      sampleEvery: 0,
      device: 'cpu',
      model: {
        timesteps: 50,
        learnLogvar: true,
        unetConfig: { modelChannels: 32, channelMult: [1], numResBlocks: 1, attentionResolutions: [1] },
      },
    }
  })
  after(() => rm(folder, { recursive: true }))

  /** What was encoded, and the losses. */
  async function run(own: Partial<TrainOptions> = {}, hooks: TrainHooks = {}) {
    let encoded = 0
    const losses: number[] = []
    const result = await new Trainer({ ...options, ...own }).run({
      onProgress: ({ done }) => {
        encoded = done
      },
      onStep: ({ loss }) => void losses.push(loss),
      ...hooks,
    })
    return { encoded, losses, result }
  }

  const weightsOf = async (run: string, step: number) =>
    (await readStateDict(at(run, 'checkpoints', `step-0000000${step}`, 'model.safetensors'))).dict

  it('goes on as if it had not been stopped, with the text encoder and logvar', async () => {
    const whole = await run({ out: at('whole') })
    assert.equal(whole.encoded, 4)
    const stop = new AbortController()
    const first = await run(
      { out: at('parts') },
      { signal: stop.signal, onStep: ({ step }) => step === 2 && stop.abort() },
    )
    assert.equal(first.result.stopped, 'signal')
    // The stages are in the run: nothing else is needed.
    const rest = await new Trainer({ data: at('photos'), out: at('parts'), resume: true }).run()
    assert.equal(rest.step, 4)
    const [a, b, start] = [await weightsOf('whole', 4), await weightsOf('parts', 4), await weightsOf('whole', 2)]
    const text = Object.keys(a).filter((name) => name.startsWith('cond_stage_model.'))
    assert.ok(text.length > 5 && 'logvar' in a)
    for (const name of Object.keys(a)) assertSameBits(await b[name].data(), await a[name].data(), name)
    for (const name of ['logvar', 'cond_stage_model.transformer.token_emb.weight']) {
      assert.notDeepEqual(await a[name].data(), await start[name].data(), `${name} is trained`)
    }
  })

  it('draws prompts from a run, and from the folder that it ends with', async () => {
    const prompt = { prompt: 'a red square', sampler: 'ddim', steps: 2, guidanceScale: 2, seed: 3 } as const
    using ofRun = await loadModel(at('whole'), { device: 'cpu' })
    using ofFolder = await LatentDiffusion.fromPretrained(at('whole', 'model'), { device: 'cpu' })
    assert.ok(ofRun instanceof LatentDiffusion)
    const [a, b] = [await ofRun.sample(prompt), await ofFolder.sample(prompt)]
    assert.deepEqual(a.shape, [1, 3, 16, 16])
    assertSameBits(await b.data(), await a.data(), 'run and folder')
    using converted = (await readSource(at('whole'))).ddpm as LatentDiffusion
    const c = await converted.emaScope(() => converted.sample(prompt))
    assertSameBits(await c.data(), await a.data(), 'run and what is converted of it')
    const other = await ofRun.sample({ ...prompt, prompt: 'a blue square' })
    assert.notDeepEqual(await other.data(), await a.data())
    using trained = await loadModel(at('whole'), { device: 'cpu', weights: 'model' })
    const plain = await (trained as LatentDiffusion).sample(prompt)
    assert.notDeepEqual(await plain.data(), await a.data())
  })

  it('computes latents once for one first stage and one set of images, and again where something is not as it was', async () => {
    const latents = at('shared')
    const one = { latents, steps: 1 }
    const [file] = ['a', 'b'].map((name) => ({ ...one, out: at(`cache-${name}`) }))
    const first = await run(file)
    assert.equal(first.encoded, 4)
    const [cache] = await readdir(latents)
    const same = await run({ ...one, out: at('cache-2') })
    assert.deepEqual([same.encoded, same.losses], [0, first.losses])
    const bytes = await readFile(path.join(latents, cache))
    for (const [name, damaged] of Object.entries({
      short: bytes.subarray(0, -5),
      flipped: Buffer.from(bytes).fill(7, 5000, 5010),
      empty: Buffer.alloc(0),
    })) {
      await writeFile(path.join(latents, cache), damaged)
      const again = await run({ ...one, out: at(`cache-${name}`) })
      assert.deepEqual([again.encoded, again.losses], [4, first.losses], name)
      assert.ok(bytes.equals(await readFile(path.join(latents, cache))), `${name}: the same file as before`)
    }
    await utimes(at('photos', 'red.png'), 1, 1)
    assert.equal((await run({ ...one, out: at('cache-touched') })).encoded, 4)
    using other = new AutoencoderKL({ embedDim: 3, ddconfig, seed: 9, device: 'cpu' })
    await other.savePretrained(at('vae-2'))
    assert.equal((await run({ ...one, out: at('cache-other'), firstStage: at('vae-2') })).encoded, 4)
    const few = { ...one, out: at('cache-disk'), cacheBytes: 0 } // nothing is kept in memory
    assert.deepEqual((await run({ ...few, data: at('photos') })).encoded, 0)
  })

  it('computes those of an object each time, whatever lies in the working directory', async () => {
    const before = process.cwd()
    await mkdir(at('work', 'data'), { recursive: true })
    await writeFile(at('work', 'data', 'file'), 'of others')
    process.chdir(at('work'))
    try {
      const grey = (value: number) => ({ length: 4, get: () => new Float32Array(3 * 16 * 16).fill(value) })
      const plain = { textEncoder: undefined, tokenizer: undefined, captionDropout: undefined }
      const own = { ...plain, latents: at('of-objects'), steps: 1, flip: false }
      const first = await run({ ...own, out: at('object-1'), data: grey(-1) })
      const second = await run({ ...own, out: at('object-2'), data: grey(0.9) })
      assert.deepEqual([first.encoded, second.encoded], [4, 4])
    } finally {
      process.chdir(before)
    }
  })

  it('ends within the encoding where it is aborted, and leaves nothing that would be taken for latents', async () => {
    const latents = at('aborted')
    const stop = new AbortController()
    stop.abort()
    await assert.rejects(run({ out: at('run-aborted'), latents }, { signal: stop.signal }), { code: 'aborted' })
    assert.deepEqual(await readdir(latents), [])
  })

  it('draws each epoch anew, and mirrors half of the samples', async () => {
    const plain = await run({ out: at('flip-not'), flip: false, steps: 3 })
    const mirrored = await run({ out: at('flip'), flip: true, steps: 3 })
    assert.notDeepEqual(plain.losses, mirrored.losses)
    const sizes = await Promise.all(
      ['flip-not', 'flip'].map(async (name) => {
        const [file] = await readdir(at(name, 'latents'))
        return (await stat(at(name, 'latents', file))).size
      }),
    )
    assert.ok(sizes[1] - sizes[0] === 4 * 2 * 3 * 8 * 8 * 4, String(sizes)) // images, moments, a latent, bytes
  })

  it('has latents of a standard deviation of 1', async () => {
    const { scaleFactor } = (await readState('whole')).options
    assert.ok(scaleFactor > 0 && scaleFactor !== 1)
    await run({ out: at('scaled'), steps: 1, scaleFactor: 2 })
    assert.equal((await readState('scaled')).options.model.scaleFactor, 2)
  })

  const readState = async (name: string) =>
    JSON.parse(await readFile(at(name, 'checkpoints', `step-0000000${name === 'whole' ? 4 : 1}`, 'state.json'), 'utf8'))

  it('evaluates held-out images, and shows samples', async () => {
    let scalars: Record<string, number> = {}
    const files: string[] = []
    await run(
      {
        out: at('shown'),
        steps: 2,
        validation: 0.5,
        validationEvery: 2,
        sampleEvery: 2,
        sampleCount: 1,
        sampleSteps: 1000,
      },
      {
        onEvaluation: (o) => {
          scalars = o.scalars
        },
        onSamples: ({ file }) => void files.push(file),
        onWarning: (warning) => assert.fail(warning.message),
      },
    )
    assert.ok(Number.isFinite(scalars['val/loss_ema']))
    assert.equal(files.length, 1)
    const { width } = await sharp(files[0]).metadata()
    assert.ok(width! >= 16)
  })

  it('takes a codebook, a CLIP that stays as it is, or classes', async () => {
    using stage = new VQModelInterface({
      embedDim: 3,
      nEmbed: 8,
      ddconfig: { ...ddconfig, doubleZ: false },
      device: 'cpu',
    })
    await stage.savePretrained(at('vqvae-pipeline'))
    const none = { textEncoder: undefined, tokenizer: undefined, captionDropout: undefined }
    await run({ ...none, out: at('vq'), firstStage: at('vqvae-pipeline'), steps: 1 })
    using plain = await loadModel(at('vq'), { device: 'cpu' })
    assert.deepEqual((await plain.sample({ batchSize: 1, sampler: 'ddim', steps: 1 })).shape, [1, 3, 16, 16])
    for (const name of ['a', 'b']) await mkdir(at('classes', name), { recursive: true })
    await cp(at('photos', 'red.png'), at('classes', 'a', '0.png'))
    await cp(at('photos', 'blue.png'), at('classes', 'b', '0.png'))
    await run({
      ...none,
      out: at('classed'),
      data: at('classes'),
      classes: 'folders',
      steps: 1,
      sampleEvery: 1,
      sampleSteps: 50,
    })
    using classed = await loadModel(at('classed'), { device: 'cpu' })
    assert.deepEqual(classed.classNames, ['a', 'b'])
    assert.deepEqual(
      (await classed.sample({ classLabels: [1], batchSize: 1, sampler: 'ddim', steps: 1 })).shape,
      [1, 3, 16, 16],
    )
    await run({ out: at('clip'), textEncoder: clip, tokenizer: undefined, steps: 1 })
    assert.deepEqual(
      Object.keys(await weightsOf('clip', 1)).filter((name) => name.startsWith('cond_stage')),
      [],
    )
    using told = await loadModel(at('clip'), { device: 'cpu' })
    const drawn = await (told as LatentDiffusion).sample({ prompt: 'a cat', sampler: 'ddim', steps: 1 })
    assert.deepEqual(drawn.shape, [1, 3, 16, 16])
  })

  it('takes captions from metadata.jsonl, several of an image, too', async () => {
    await mkdir(at('listed'))
    const names = Object.keys(colours)
    for (const name of names) await writeFile(at('listed', `${name}.png`), await readFile(at('photos', `${name}.png`)))
    const lines = names.map((name) =>
      JSON.stringify({ file_name: `${name}.png`, text: [`a ${name}`, `the ${name} one`] }),
    )
    await writeFile(at('listed', 'metadata.jsonl'), lines.join('\n'))
    assert.ok((await run({ out: at('from-list'), data: at('listed'), steps: 1 })).losses[0] > 0)
    await rm(at('listed', 'metadata.jsonl'))
    await assert.rejects(run({ out: at('without'), data: at('listed'), steps: 1 }), { argument: 'data' })
  })

  it("has a tokenizer of the captions' own words, on the command line, too", async () => {
    const main = path.join(__dirname, '..', '..', 'lib', 'cli', 'main.js')
    const ddpm = (...args: string[]) => promisify(execFile)(process.execPath, [main, ...args], { encoding: 'utf8' })
    const sizes = '--text-width 16 --text-layers 1 --model-channels 32 --channel-mult 1 --res-blocks 1 --attention 1'
    const plan = '--size 16 --steps 2 --batch 2 --sample-every 0 --timesteps 20 --device cpu'
    const latent = ['--first-stage', at('vae'), '--text-encoder', 'transformer', ...sizes.split(' ')]
    const { stdout } = await ddpm('train', at('photos'), '--out', at('told'), ...latent, ...plan.split(' '))
    assert.match(stdout, /latents of 16x16.*captions/)
    const words = await Tokenizer.fromPretrained(at('told', 'tokenizer'))
    assert.equal(words.ids('A RED, square').length, 3)
    assert.equal(words.ids('redder').length, 1 + 3) // red, and letters of its own
    await ddpm('sample', at('told'), '--prompt', 'a red square', '-n', '1', '--steps', '20', '-o', at('told.png'))
    assert.equal((await sharp(at('told.png')).metadata()).width! % 16, 0)
    await assert.rejects(ddpm('sample', at('told'), '-o', at('none.png')), /--prompt/)
    await assert.rejects(
      ddpm('train', at('photos'), '--out', at('no'), '--text-width', '8'),
      /--text-encoder transformer/,
    )
  })

  it('has no random weights in place of a first stage that is not there any more', async () => {
    await cp(at('whole'), at('robbed'), { recursive: true })
    await rm(at('robbed', 'first_stage'), { recursive: true })
    const resumed = new Trainer({ data: at('photos'), out: at('robbed'), resume: true, steps: 5 })
    await assert.rejects(resumed.run(), { code: 'not-found' })
    using ldm = await loadModel(at('robbed'), { device: 'cpu' })
    await assert.rejects(ldm.sample({ sampler: 'ddim', steps: 1, ...{ prompt: 'a red square' } }), {
      code: 'not-found',
    })
  })

  it('refuses what does not go together', async () => {
    const refuses = async (own: Partial<TrainOptions>, argument: string) =>
      assert.rejects(run({ out: at('refused'), ...own }), { argument }, argument)
    await refuses({ firstStage: undefined }, 'size')
    await refuses({ textEncoder: undefined }, 'tokenizer')
    await refuses({ size: [15, 16] }, 'size')
    await refuses({ augment: 0.1 }, 'augment')
    await assert.rejects(new Trainer({ data: at('photos'), out: at('refused'), from: at('whole') }).run(), {
      argument: 'from',
    })
    await refuses({ model: { lora: { rank: 1 } } }, 'model.lora')
    await refuses({ crop: 'random' }, 'crop')
    await refuses({ buckets: [[16, 16]] }, 'buckets')
    await refuses({ classes: 'folders' }, 'classes')
    await refuses({ textEncoder: { width: 3 } as never }, 'width')
    await refuses({ firstStage: at('photos') }, 'path')
    await refuses({ out: at('whole'), resume: true, firstStage: at('vae-2') }, 'firstStage')
  })
})
