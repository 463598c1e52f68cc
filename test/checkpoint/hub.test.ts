import assert from 'node:assert/strict'
import { existsSync, lstatSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { DDPM, type DiffusionError, LatentDiffusion, loadModel } from '../../lib/index'
import { commit, HubServer } from '../support/hub-server'
import { smallUNet } from '../support/small-unet'
import { runCli, temporaryFolder } from '../train/support'

describe('a model of the hub by its name', function () {
  this.timeout(60_000)
  const folder = temporaryFolder()
  const name = 'someone/tiny-ddpm'
  const variables = [
    'HF_ENDPOINT',
    'HF_HOME',
    'HF_TOKEN',
    'HF_TOKEN_PATH',
    'HF_HUB_OFFLINE',
    'HF_HUB_CACHE',
    'HUGGINGFACE_HUB_CACHE',
  ]
  const before_ = variables.map((name) => [name, process.env[name]] as const)
  let server: HubServer
  let home: string
  let runs = 0

  const weights = 'unet/diffusion_pytorch_model.safetensors'
  const files = new Map<string, Buffer>()
  before(async () => {
    const local = path.join(folder, 'local')
    using ddpm = new DDPM({ unetConfig: { ...smallUNet, layout: 'diffusers' }, timesteps: 10, seed: 3, device: 'cpu' })
    await ddpm.savePretrained(local)
    for (const file of ['model_index.json', 'unet/config.json', 'scheduler/scheduler_config.json', weights]) {
      files.set(file, readFileSync(path.join(local, file)))
    }
    files.set('README.md', Buffer.from('# not needed'))
    files.set('unet/diffusion_pytorch_model.bin', Buffer.from('not needed'))
    for (const other of ['model.safetensors', 'unet/pytorch_model.bin']) files.set(other, Buffer.from('not needed'))
    files.set('unet/diffusion_pytorch_model.fp16.safetensors', Buffer.from('not needed'))
  })
  beforeEach(async () => {
    server = new HubServer(name, files)
    for (const variable of variables) delete process.env[variable]
    home = path.join(folder, `home-${++runs}`)
    process.env.HF_HOME = home
    process.env.HF_ENDPOINT = await server.listen()
  })
  afterEach(() => server.close())
  after(() => {
    for (const [name, value] of before_) {
      if (value === undefined) delete process.env[name]
      else process.env[name] = value
    }
  })

  const open = (options = {}) => DDPM.fromPretrained(name, { device: 'cpu', ...options })
  const cache = () => path.join(home, 'hub', 'models--someone--tiny-ddpm')
  const fails = (code: string, message: RegExp) => (error: DiffusionError) =>
    error.code === code && message.test(error.message)

  it('a latent model comes with its stages', async () => {
    const local = path.join(__dirname, '..', '..', '..', 'test', 'fixtures', 'ldm', 'diffusers_sd')
    const names = readdirSync(local, { recursive: true, encoding: 'utf8' }).filter((file) => path.extname(file) !== '')
    const whole = new Map(names.map((file) => [file, readFileSync(path.join(local, file))]))
    const latent = new HubServer(name, whole)
    process.env.HF_ENDPOINT = await latent.listen()
    try {
      const o = { prompt: 'red cat', steps: 2, seed: 1 }
      using ours = await LatentDiffusion.fromPretrained(local, { device: 'cpu' })
      using ldm = await LatentDiffusion.fromPretrained(name, { device: 'cpu' })
      assert.deepEqual(await (await ldm.sample(o)).data(), await (await ours.sample(o)).data())
    } finally {
      await latent.close()
    }
  })

  it('is fetched once, into the cache that all tools share, and what it does not need is left', async () => {
    const seen: number[] = []
    let whole: number | undefined
    using ddpm = await open({
      onDownload: ({ received, total }: { received: number; total?: number }) => {
        seen.push(received)
        whole = total
      },
    })
    using local = await DDPM.fromPretrained(path.join(folder, 'local'), { device: 'cpu' })
    assert.deepEqual(await firstWeights(ddpm), await firstWeights(local))
    assert.equal(seen.at(-1), whole)
    assert.deepEqual(
      seen,
      [...seen].sort((a, b) => a - b),
    )
    assert.equal(readFileSync(path.join(cache(), 'refs', 'main'), 'utf8'), commit)
    const link = path.join(cache(), 'snapshots', commit, weights)
    assert.ok(lstatSync(link).isSymbolicLink())
    assert.deepEqual(readFileSync(link), files.get(weights))
    assert.equal(readdirSync(path.join(cache(), 'blobs')).length, 4)
    assert.ok(!server.requests.some((request) => /README|\.bin|fp16/.test(request)))

    const info = await runCli(['info', name, '--json'])
    assert.equal(info.code, 0, info.stderr)
    assert.equal(JSON.parse(info.stdout).parameters, ddpm.parameterCount)

    const asked = server.requests.length
    using _ = await loadModel(name, { device: 'cpu', revision: 'v1' })
    assert.deepEqual(
      server.requests.slice(asked).filter((request) => request.includes('/resolve/')),
      [],
    )
    assert.equal(readFileSync(path.join(cache(), 'refs', 'v1'), 'utf8'), commit)
  })

  it('is gone on with where connections break, by a further call, too', async () => {
    const size = files.get(weights)!.length
    server.cutAfter = Math.ceil(size / 3)
    using first = await open()
    assert.ok(first.parameterCount > 0)
    assert.ok(server.requests.some((request) => request.endsWith(` bytes=${server.cutAfter}-`)))

    rmSync(home, { recursive: true })
    server.requests.length = 0
    const half = size >> 1
    server.lie = (file, bytes) => {
      if (file === weights) server.cutAfter = server.cutAfter === Infinity ? half : 0
      return bytes
    }
    server.cutAfter = Infinity
    await assert.rejects(open(), fails('io', new RegExp(`breaks off after ${half} of ${size} bytes.*goes on with it`)))
    server.lie = (_, bytes) => bytes
    server.cutAfter = Infinity
    server.requests.length = 0
    using second = await open()
    assert.deepEqual(await firstWeights(second), await firstWeights(first))
    const resolved = server.requests.filter((request) => request.includes('/resolve/'))
    assert.deepEqual(resolved, [`/${name}/resolve/${commit}/${weights} bytes=${half}-`])
  })

  it('starts a file anew where the server knows no ranges', async () => {
    server.ranges = false
    const size = files.get(weights)!.length
    let attempts = 0
    server.lie = (file, bytes) => {
      if (file === weights) server.cutAfter = ++attempts === 1 ? size >> 1 : Infinity
      return bytes
    }
    using ddpm = await open()
    assert.equal(attempts, 2)
    assert.ok(ddpm.parameterCount > 0)
  })

  it('that is not what the hub lists is refused, and not kept', async () => {
    const changed = (bytes: Buffer) => {
      const copy = Buffer.from(bytes)
      copy[copy.length >> 1] ^= 1
      return copy
    }
    const lies: ((bytes: Buffer) => Buffer)[] = [changed, (bytes) => Buffer.concat([bytes, bytes])]
    for (const file of [weights, 'unet/config.json']) {
      rmSync(home, { recursive: true, force: true })
      for (const lie of lies) {
        server.lie = (sent, bytes) => (sent === file ? lie(bytes) : bytes)
        await assert.rejects(open(), fails('bad-file', /is not what the hub lists .*not kept/))
      }
      server.lie = (_, bytes) => bytes
      assert.ok(!existsSync(path.join(cache(), 'snapshots', commit, file)))
      assert.ok(readdirSync(path.join(cache(), 'blobs')).every((blob) => !blob.endsWith('.incomplete')))
      assert.ok(!existsSync(path.join(cache(), 'refs', 'main')))
    }
    using ddpm = await open()
    assert.ok(ddpm.parameterCount > 0)
  })

  it('is taken from the cache with HF_HUB_OFFLINE', async () => {
    process.env.HF_HUB_OFFLINE = '1'
    await assert.rejects(open(), fails('not-found', /main is not in the cache .*HF_HUB_OFFLINE is set/))
    delete process.env.HF_HUB_OFFLINE
    ;(await open()).dispose()
    const asked = server.requests.length
    process.env.HF_HUB_OFFLINE = '1'
    using ddpm = await open()
    using same = await open({ revision: commit })
    assert.equal(server.requests.length, asked)
    assert.equal(ddpm.parameterCount, same.parameterCount)
  })

  it('that is private needs a token', async () => {
    server.token = 'hf_secret'
    await assert.rejects(open(), fails('io', /Unauthorized.*needs HF_TOKEN/))
    process.env.HF_TOKEN = 'hf_secret'
    ;(await open()).dispose()
    rmSync(path.join(home, 'hub'), { recursive: true })
    delete process.env.HF_TOKEN
    writeFileSync(path.join(home, 'token'), 'hf_secret\n')
    ;(await open()).dispose()
  })

  it('that is not there is told from a folder that is not', async () => {
    await assert.rejects(
      DDPM.fromPretrained('someone/else'),
      fails('not-found', /no model someone\/else: there is no such folder/),
    )
    await assert.rejects(open({ revision: 'v2' }), fails('not-found', /no v2 of it/))
    await assert.rejects(open({ revision: '../../x' }), fails('invalid-argument', /revision: expected a branch/))
    await assert.rejects(DDPM.fromPretrained('a/b/c'), fails('not-found', /a\/b\/c/))
    const local = path.join(folder, 'local')
    await assert.rejects(DDPM.fromPretrained(local, { revision: 'v1' }), fails('invalid-argument', /revision/))
    server.close()
    await assert.rejects(open(), fails('io', /cannot ask http.*HF_HUB_OFFLINE=1/))
  })

  async function firstWeights(ddpm: DDPM): Promise<number[]> {
    const dict = await ddpm.stateDict()
    const [first] = Object.keys(dict).filter((name) => name.startsWith('model.'))
    return [...(await dict[first].data())]
  }
})
