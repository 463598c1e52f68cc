// ddpm sample with what guides it, with churn, and with averages that are made afterwards.
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'
import { toBytes } from '../../lib/data/image-grid'
import { Classifier, type DDPM, loadModel, postHocEma, type SampleOptions, Tensor } from '../../lib/index'
import { readModelFile } from '../../lib/train/model-file'
import { ended, runCli, startCli, temporaryFolder, tinyFlags, writeImages } from '../train/support'

describe('ddpm sample, guided', function () {
  this.timeout(60_000)
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const [run, worse, classifier] = [at('run'), at('worse'), at('classifier.safetensors')]

  before(async () => {
    for (const name of ['cat', 'dog']) await writeImages(at('images', name), 2)
    const train = ['train', at('images'), ...tinyFlags, '--classes', 'folders', '--ema-sigma-rels', '0.05,0.1']
    const steps = ['--checkpoint-every', '2', '--keep', '9']
    for (const args of [
      ['--out', run, '--steps', '6', ...steps],
      ['--out', worse, '--steps', '1', '--seed', '2'],
    ]) {
      const { code, stderr } = await runCli([...train, ...args])
      assert.equal(code, 0, stderr)
    }
    const encoderConfig = { imageSize: 8, inChannels: 3, outChannels: 2, modelChannels: 32, channelMult: [1] }
    const few = { numResBlocks: 1, attentionResolutions: [], ...encoderConfig }
    using made = new Classifier({ encoderConfig: few, timesteps: 20, device: 'cpu' })
    const dict = await made.stateDict()
    // Its last layers begin as zeros.
    for (const [name, { shape }] of Object.entries(dict)) dict[name] = Tensor.randn(shape, { seed: 1 })
    await made.loadStateDict(dict)
    await made.save(classifier)
  })

  const draw = async (name: string, ...args: string[]) => {
    const common = ['--device', 'cpu', '--count', '2', '--deterministic', '--separate', at(name)]
    return runCli(['sample', run, ...common, ...args])
  }
  /** [height, width, channels] of both. */
  const drawn = async (name: string) => {
    const pictures = [0, 1].map((image) =>
      sharp(at(name, `0000${image}.png`))
        .removeAlpha()
        .raw()
        .toBuffer(),
    )
    return Buffer.concat(await Promise.all(pictures))
  }

  type Guides = { readonly guidingModel: DDPM; readonly classifier: Classifier }
  const cases: [string, string, string, (guides: Guides) => Omit<SampleOptions, 'returnIntermediates'>][] = [
    [
      'a guiding model',
      '',
      `--guidance 2 --guidance-rescale 0.5 --guiding-model ${worse}`,
      ({ guidingModel }) => ({ guidanceScale: 2, guidanceRescale: 0.5, guidingModel }),
    ],
    [
      'a classifier',
      '',
      `--classifier ${classifier} --classifier-scale 5`,
      ({ classifier }) => ({ classifier, classifierScale: 5 }),
    ],
    [
      'churn',
      '--sampler euler --steps 5',
      '--s-churn 2 --s-tmin 0.1 --s-tmax 40 --s-noise 1.1',
      () => ({ sampler: 'euler', steps: 5, sChurn: 2, sTmin: 0.1, sTmax: 40, sNoise: 1.1 }),
    ],
  ]
  for (const [name, path, guided, optionsOf] of cases) {
    it(`${name}: the images are those of sample()`, async () => {
      const plain = path.split(' ').filter(Boolean)
      const { code, stderr } = await draw(name, ...plain, ...guided.split(' '))
      assert.equal(code, 0, stderr)
      assert.equal((await draw(`${name}, without`, ...plain)).code, 0)
      const settings = { device: 'cpu', deterministic: true } as const
      using ddpm = await loadModel(run, settings)
      using guidingModel = await loadModel(worse, settings)
      using own = await Classifier.fromFile(classifier, settings)
      const options = optionsOf({ guidingModel, classifier: own })
      using samples = await ddpm.sample({ batchSize: 2, seed: 0, classLabels: [0, 1], ...options })
      assert.deepEqual(await drawn(name), Buffer.from(toBytes(await samples.data(), samples.shape).data))
      assert.notDeepEqual(await drawn(name), await drawn(`${name}, without`))
    })
  }

  it('says what goes with what, and is not gone on with by another guide', async () => {
    const refused = async (code: number, pattern: RegExp, ...args: string[]) => {
      const result = await draw('refused', ...args)
      assert.match(result.stderr, pattern)
      assert.equal(result.code, code)
    }
    await refused(2, /--guiding-model goes with --guidance/, '--guiding-model', worse)
    await refused(2, /--classifier-scale goes with --classifier/, '--classifier-scale', '2')
    await refused(2, /--s-churn goes with --sampler euler, heun/, '--s-churn', '2')
    await refused(2, /--s-noise goes with --s-churn/, '--s-noise', '2', '--sampler', 'heun')
    await refused(1, /^ddpm sample: .*nowhere/, '--guiding-model', at('nowhere'), '--guidance', '2')
    await refused(1, /^ddpm sample: .*images.*/, '--classifier', at('images'))
    await refused(1, /'encoderConfig'|encoderConfig/, '--classifier', path.join(run, 'model.safetensors'))
    assert.ok(!existsSync(at('refused')))
    const guided = (by: string) => ['--guidance', '2', '--guiding-model', by]
    const args = ['sample', run, '--device', 'cpu', '--batch', '1', '--count', '100000', '--separate', at('half')]
    const child = startCli([...args, ...guided(worse)])
    const timer = setInterval(() => existsSync(at('half', '00001.png')) && child.kill('SIGINT'), 5)
    await ended(child).finally(() => clearInterval(timer))
    const resumed = (by: string) => runCli([...args, ...guided(by), '--count', '2', '--resume'])
    assert.match((await resumed(run)).stderr, /--guiding-model was .* can't become/)
    assert.match((await resumed(worse)).stdout, /^2 images \(2 of them before\)/)
  })

  it('of an average that was not kept', async () => {
    const file = at('average.safetensors')
    const { code, stderr } = await runCli(['convert', run, file, '--sigma-rel', '0.075'])
    assert.equal(code, 0, stderr)
    const expected = await postHocEma(run, { sigmaRel: 0.075 })
    const { weights } = await readModelFile(file)
    for (const [name, tensor] of Object.entries(expected)) {
      assert.deepEqual(await weights[name].data(), await tensor.data(), name)
    }
    await draw('own', '--sigma-rel', '0.075')
    const converted = ['--device', 'cpu', '--count', '2', '--deterministic', '--separate', at('converted')]
    assert.equal((await runCli(['sample', file, ...converted])).code, 0)
    assert.deepEqual(await drawn('own'), await drawn('converted'))
    const refused: [number, RegExp, ...string[]][] = [
      [1, /--sigma-rel goes with a run, and the source is of the kind 'model'/, 'sample', file, '--sigma-rel', '0.1'],
      [1, /--sigma-rel goes with a run/, 'convert', file, at('x.ckpt'), '--sigma-rel', '0.1'],
      [1, /--sigma-rel: expected a number from 0.001/, 'sample', run, '--sigma-rel', '0.9'],
      [2, /--no-ema and --sigma-rel: give one/, 'sample', run, '--sigma-rel', '0.1', '--no-ema'],
      [2, /--weights model and --sigma-rel/, 'convert', run, at('x.ckpt'), '--sigma-rel', '0.1', '--weights', 'model'],
    ]
    for (const [code, pattern, ...args] of refused) {
      const result = await runCli(args)
      assert.match(result.stderr, pattern)
      assert.equal(result.code, code)
    }
  })
})
