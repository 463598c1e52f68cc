// The commands of the documents and of the command line's own help work as they are printed, made short by further options.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { cpSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { get } from 'node:http'
import path from 'node:path'
import sharp from 'sharp'
import { writeNpz } from '../lib/data/npz'
import { Classifier } from '../lib/index'
import { tar } from './data/files'
import { HubServer } from './support/hub-server'
import { writeInception } from './support/inception-file'
import { runCli, runScript, startScript, temporaryFolder, writeImages } from './train/support'

/** Where `ddpm push` sends to. */
const hub = new HubServer('someone/photos', new Map())

const root = path.join(__dirname, '..', '..')

/** What makes a command short. Later options win, so that those that are printed are parsed but not waited for. */
const shortTraining = '--batch 2 --sample-every 0 --device cpu --steps 3'
const shorter: Record<string, string> = {
  train: `--size 8 --model-channels 32 --channel-mult 1,1 --attention 2 --timesteps 20 ${shortTraining}`,
  'train-autoencoder': `--size 8 --model-channels 32 --channel-mult 1,2 ${shortTraining}`,
  sample: '--count 2 --device cpu --no-preview',
  evaluate: '--limit 2 --device cpu',
}

function extraOf(command: string, args: readonly string[]): string[] {
  if (args.includes('features.npz') && command === 'evaluate' && !args.includes('--features'))
    return ['--limit', '2', '--device', 'cpu']
  if (args.includes('--features')) return '--count 2 --batch 1 --device cpu'.split(' ')
  if (args.includes('--shard') && command === 'evaluate') return '--limit 4 --batch 1 --device cpu'.split(' ')
  if (args.includes('--shard')) return '--count 32 --batch 2 --steps 4 --device cpu'.split(' ')
  if (args.includes('--samples')) return '--limit 2 --count 2 --device cpu'.split(' ')
  if (args.includes('--fid')) {
    // As many as precision and recall, and the parts of the Inception score, need; FID itself has 2.
    const [limit, count] = args.some((arg) => arg.endsWith(',is')) ? [4, 10] : [2, 2]
    return `--limit ${limit} --count ${count} --steps 4 --device cpu`.split(' ')
  }
  const other = args.includes('lucidrains') ? `--size 8 --model-channels 8 --timesteps 20 ${shortTraining}` : undefined
  const short =
    args.includes('results/model-10.pt') && command === 'train' ? shortTraining : (other ?? shorter[command])
  const extra = (short ?? '').split(' ').filter(Boolean)
  if (args.includes('--fid-every')) return [...extra, ...'--fid-every 2 --fid-count 2 --fid-steps 2'.split(' ')]
  if (args.includes('--disc-start')) return [...extra, '--disc-start', '1', '--disc-layers', '1']
  if (command.startsWith('train') && args.includes('--resume')) return ['--steps', '4', '--device', 'cpu']
  // Of a model of 20 timesteps or of the one that is shipped: few, but as many as an order of 3 and a strength need.
  return command === 'sample' ? [...extra, '--steps', args.includes('unipc') ? '6' : '4'] : extra
}

const fences = /^```sh\n([\s\S]*?)^```/gm
const commandsOf = (text: string, prefix: RegExp) =>
  text
    .split('\n')
    .filter((line) => prefix.test(line))
    .map((line) =>
      line
        .replace(prefix, '')
        .replace(/ {2,}\S.*$| +# .*$/, '')
        .match(/"[^"]*"|\S+/g)!
        .map((word) => word.replace(/^"(.*)"$/, '$1')),
    )

describe('commands as they are printed', function () {
  this.timeout(120_000)
  const folder = temporaryFolder()
  const cwd = (...names: string[]) => path.join(folder, ...names)
  const documents = ['docs/guide.md', 'README.md']
  let at = folder

  let hubUrl = ''
  before(async () => {
    hubUrl = await hub.listen()
    await writeInception(cwd('inception.pth'))
    for (const file of documents) await prepare(cwd(path.basename(file)))
  })

  after(() => hub.close())

  async function prepare(own: string): Promise<void> {
    at = own
    const cwd = (...names: string[]) => path.join(own, ...names)
    await writeImages(cwd('photos'), 6)
    for (let i = 0; i < 6; i++) writeFileSync(cwd('photos', `000${i}.txt`), `a red apple ${i}\n`)
    await writeImages(cwd('icons'), 4)
    await writeImages(cwd('flowers', 'rose'), 3)
    await writeImages(cwd('flowers', 'tulip'), 3)
    cpSync(cwd('photos', '0003.png'), cwd('cat.png'))
    const digits = { data: new Uint8Array(4 * 64), shape: [4, 8, 8] }
    await writeNpz(cwd('digits.npz'), { arr_0: digits, arr_1: { data: BigInt64Array.of(0n, 1n, 2n, 1n), shape: [4] } })
    mkdirSync(cwd('shards'))
    writeFileSync(cwd('shards', '0.tar'), tar({ 'a.png': readFileSync(cwd('cat.png')) }))
    writeFileSync(cwd('list.csv'), 'file_name,label\nphotos/0001.png,a\nphotos/0002.png,b\n')
    await sharp(cwd('cat.png')).greyscale().negate().toFile(cwd('mask.png'))
    const config = 'diffusers_ddpm/scheduler/scheduler_config.json'
    const scheduler = JSON.parse(readFileSync(path.join(root, 'test', 'fixtures', config), 'utf8'))
    const shipped = { num_train_timesteps: 1000, beta_schedule: 'squaredcos_cap_v2', prediction_type: 'v_prediction' }
    writeFileSync(cwd('scheduler_config.json'), JSON.stringify({ ...scheduler, trained_betas: null, ...shipped }))
    symlinkSync(path.join(folder, 'inception.pth'), cwd('inception.pth'))
    cpSync(path.join(root, 'models'), cwd('models'), { recursive: true })
    cpSync(path.join(root, 'test', 'fixtures', 'ldm', 'diffusers_sd'), cwd('sd15'), { recursive: true })
    const trained = path.join(root, 'test', 'fixtures', 'checkpoints', 'lucidrains-model-1.pt')
    cpSync(trained, cwd('results', 'model-10.pt'))
    writeFileSync(cwd('results', 'model-10.yaml'), 'image_size: 8\n')
    const few = { modelChannels: 32, channelMult: [1], numResBlocks: 1, attentionResolutions: [] }
    const encoderConfig = { imageSize: 32, inChannels: 3, outChannels: 10, ...few }
    using classifier = new Classifier({ encoderConfig, betaSchedule: 'cosine', device: 'cpu' })
    await classifier.save(cwd('classifier.safetensors'))
  }

  const run = async (args: readonly string[]) => {
    const own = { DDPM_CACHE: cwd('cache'), DDPM_INCEPTION: cwd('inception.pth') }
    const env = { HF_ENDPOINT: hubUrl, HF_TOKEN: 'hf_write', HF_HOME: cwd('hub'), ...own }
    const { code, stderr } = await runCli([...args, ...extraOf(args[0], args)], env, at)
    assert.equal(code, 0, `ddpm ${args.join(' ')}: ${stderr}`)
  }

  /** What needs no second time, nor its beginning. */
  const seen: string[] = []
  const isNew = (args: readonly string[]) => !seen.some((other) => `${other} `.startsWith(`${args.join(' ')} `))

  for (const file of documents) {
    const blocks = [...readFileSync(path.join(root, file), 'utf8').matchAll(fences)].map(([, body]) => body).join('\n')
    for (const args of commandsOf(blocks, /^npx ddpm /).filter(isNew)) {
      it(`${file}: ddpm ${args.join(' ')}`, () => {
        at = cwd(path.basename(file))
        return run(args)
      })
    }
    for (const args of commandsOf(blocks, /^npx ddpm /)) seen.push(args.join(' '))
  }

  it('the help of each command', async () => {
    at = cwd('guide.md')
    cpSync(path.join(at, 'photos.ckpt'), path.join(at, 'last.ckpt'))
    const { stdout } = await runCli(['--help'])
    const names = [...stdout.matchAll(/^ {2}([a-z][\w-]*) .*$/gm)]
      .map(([, name]) => name)
      .filter((name) => name !== 'ddpm')
    assert.deepEqual(names, [
      'train',
      'train-autoencoder',
      'sample',
      'merge',
      'evaluate',
      'export',
      'convert',
      'push',
      'info',
    ])
    for (const name of names.filter((name) => name !== 'train')) {
      const help = (await runCli([name, '--help'])).stdout
      const commands = commandsOf(help.slice(help.indexOf('Options:')), /^ {2}ddpm /)
      assert.ok(commands.length > 0, name)
      for (const args of commands.filter(isNew)) await run(args)
    }
    const help = (await runCli(['train', '--help'])).stdout
    for (const args of commandsOf(help, /^ {2}ddpm (?=train)/).filter(isNew)) {
      const out = args.indexOf('--out') + 1
      await run(args.includes('--resume') ? args : args.with(out, `${args[out]}-of-help`))
    }
  }).timeout(300_000)
})

describe('the first example of the README', function () {
  this.timeout(120_000)
  const folder = temporaryFolder()

  it('goes from images to pictures', async () => {
    await writeImages(path.join(folder, 'photos'), 4)
    const [, code] = /^```js\n(import [\s\S]*?)^```/m.exec(readFileSync(path.join(root, 'README.md'), 'utf8'))!
    const model =
      '{ timesteps: 20, unetConfig: { modelChannels: 32, channelMult: [1], numResBlocks: 1, attentionResolutions: [] } }'
    const short = code
      .replace('steps: 20_000', `steps: 2, batchSize: 2, sampleEvery: 0, model: ${model}`)
      .replace('steps: 100', 'steps: 4')
    assert.ok(short.includes('steps: 2,') && short.includes('steps: 4,'))
    const script = path.join(folder, 'example.mjs')
    const library = path.join(root, 'dist', 'lib', 'index.mjs')
    writeFileSync(script, short.replace("'ddpm-native'", JSON.stringify(library)))
    const { code: status, stderr } = await runScript(script, [], folder)
    assert.equal(status, 0, stderr)
    assert.equal((await sharp(path.join(folder, 'samples.png')).metadata()).width, 4 * (4 * 34 + 2))
  })
})

describe('examples', function () {
  this.timeout(120_000)
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const run = async (name: string, ...args: string[]) => {
    const { code, stderr } = await runScript(path.join(root, 'examples', `${name}.mjs`), args, folder)
    assert.equal(code, 0, stderr)
  }
  const sizeOf = async (file: string) => {
    const { width, height } = await sharp(at(file)).metadata()
    return [width, height]
  }

  before(() => writeImages(at('photos'), 6))

  it('sample', async () => {
    await run('sample', 'samples.png', '3')
    assert.deepEqual(await sizeOf('samples.png'), [4 * (4 * 34 + 2), 4 * (4 * 34 + 2)])
  })

  it('class-conditional', async () => {
    await run('class-conditional', 'guidance.png', '3')
    assert.deepEqual(await sizeOf('guidance.png'), [4 * (4 * 34 + 2), 4 * (4 * 34 + 2)])
  })

  it('inpaint', async () => {
    await run('inpaint', at('photos', '0003.png'), 'inpainted.png', '3')
    assert.deepEqual(await sizeOf('inpainted.png'), [4 * (4 * 34 + 2), 4 * 36])
  })

  it('text and image to image', async () => {
    const model = path.join(root, 'test', 'fixtures', 'ldm', 'diffusers_sd')
    await run('text-to-image', model, 'red cat', 'cats.png', '2')
    assert.deepEqual(await sizeOf('cats.png'), [2 * 18 + 2, 18 + 2])
    await run('image-to-image', model, at('photos', '0003.png'), 'red cat', 'cat.png', '2')
    assert.deepEqual(await sizeOf('cat.png'), [16, 16])
  })

  it('train a latent model', async () => {
    for (let i = 0; i < 6; i++) writeFileSync(at('photos', `000${i}.txt`), `a red apple ${i}\n`)
    await run('train-latent', 'photos', 'red', 'latent-runs', '1')
    assert.deepEqual(await sizeOf('latent.png'), [2 * 34 + 2, 2 * 34 + 2])
    assert.ok(existsSync(at('latent-runs', 'latent', 'model', 'model_index.json')))
  })

  it('train, and go on', async () => {
    const code = readFileSync(path.join(root, 'examples', 'train.mjs'), 'utf8')
    const short = code.replace('sampleSteps: 50', 'sampleSteps: 2')
    assert.notEqual(short, code)
    const library = JSON.stringify(path.join(root, 'dist', 'lib', 'index.mjs'))
    writeFileSync(at('train.mjs'), short.replace("'ddpm-native'", library))
    for (const steps of ['1', '2']) {
      const { code, stderr } = await runScript(at('train.mjs'), ['photos', 'run', steps], folder)
      assert.equal(code, 0, stderr)
    }
    assert.ok(existsSync(at('run', 'checkpoints', 'step-00000002')) && existsSync(at('run', 'model.safetensors')))
  })

  it('server', async () => {
    const child = startScript(path.join(root, 'examples', 'server.mjs'), ['0'], {}, folder)
    try {
      const url = await new Promise<string>((resolve, reject) => {
        child.stdout!.once('data', (line) => resolve(String(line).trim()))
        child.once('exit', () => reject(new Error('the server has ended')))
      })
      assert.match(await (await fetch(url)).text(), /EventSource/)
      const events = await (await fetch(`${url}/images?seed=7&steps=4`)).text()
      const pngs = [...events.matchAll(/^data: (\S+)$/gm)].map(([, data]) => Buffer.from(data, 'base64'))
      assert.equal(pngs.length, 2) // after the third step and the last
      for (const png of pngs) assert.equal((await sharp(png).metadata()).width, 4 * 34 + 2)
      assert.match(events, /event: done\ndata: \n\n$/)
      assert.match(await (await fetch(`${url}/images?steps=0`)).text(), /event: failed\ndata: steps: expected/)
      assert.equal((await fetch(`${url}/other`)).status, 404)
      const { hostname, port } = new URL(url)
      const odd = get({ hostname, port, path: '//' })
      assert.equal((await once(odd, 'response'))[0].statusCode, 400)
      assert.equal((await fetch(`${url}/other`)).status, 404) // it is still there
    } finally {
      child.kill()
    }
  })

  it('convert', async () => {
    await run('convert', path.join(root, 'test', 'fixtures', 'diffusers_ddpm'), 'converted', 'model.onnx')
    assert.ok(existsSync(at('converted', 'model_index.json')) && existsSync(at('model.onnx')))
  })
})
