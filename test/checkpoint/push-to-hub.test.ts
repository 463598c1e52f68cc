import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parse } from 'yaml'
import { DDPM, type DDPMOptions, type DiffusionError, type PushToHubOptions } from '../../lib/index'
import { commit, HubServer } from '../support/hub-server'
import { smallUNet } from '../support/small-unet'
import { runCli, temporaryFolder } from '../train/support'

describe('pushToHub', function () {
  this.timeout(60_000)
  const folder = temporaryFolder()
  const name = 'someone/tiny-ddpm'
  const variables = ['HF_ENDPOINT', 'HF_HOME', 'HF_TOKEN', 'HF_TOKEN_PATH', 'HF_HUB_OFFLINE', 'HF_HUB_CACHE', 'TMPDIR']
  const given = variables.map((name) => [name, process.env[name]] as const)
  const weights = 'unet/diffusion_pytorch_model.safetensors'
  let server: HubServer
  let runs = 0

  beforeEach(async () => {
    for (const variable of variables) delete process.env[variable]
    server = new HubServer(name, new Map([['.gitattributes', Buffer.from('*.safetensors filter=lfs\n')]]))
    server.token = 'hf_write'
    process.env.HF_HOME = path.join(folder, `home-${++runs}`)
    process.env.HF_ENDPOINT = await server.listen()
    process.env.HF_TOKEN = server.token
    process.env.TMPDIR = path.join(folder, `tmp-${runs}`)
    mkdirSync(process.env.TMPDIR)
  })
  afterEach(() => {
    assert.deepEqual(readdirSync(process.env.TMPDIR!), [], 'nothing is left where the folder was made')
    server.close()
  })
  after(() => {
    for (const [name, value] of given) {
      if (value === undefined) delete process.env[name]
      else process.env[name] = value
    }
  })

  const model = (options: Partial<DDPMOptions> = {}) =>
    new DDPM({ unetConfig: { ...smallUNet, layout: 'diffusers' }, timesteps: 10, seed: 3, device: 'cpu', ...options })
  const push = async (options: PushToHubOptions = {}, of: Partial<DDPMOptions> = {}) => {
    using ddpm = model(of)
    return await ddpm.pushToHub(name, options)
  }
  const card = (branch = 'main') => server.filesOf(branch).get('README.md')!.toString()
  const frontMatter = () => parse(card().split('---\n')[1])
  const fails = (code: string, message: RegExp) => (error: DiffusionError) =>
    error.code === code && message.test(error.message)
  const sent = () => server.requests.filter((request) => /^(POST|PUT) /.test(request))

  it('makes the model where there is none, and what it sends opens again', async () => {
    server.remove()
    const seen: { sent: number; total: number }[] = []
    const { commit, files, url } = await push({ private: true, commitMessage: 'First', onUpload: (e) => seen.push(e) })
    assert.equal(commit, server.branches.get('main'))
    assert.ok(url.endsWith(`/${name}/tree/${commit}`))
    const written = ['README.md', 'model_index.json', 'scheduler/scheduler_config.json', weights, 'unet/config.json']
    assert.deepEqual([...files].sort(), [...written].sort())
    assert.deepEqual(server.titles, ['First'])
    assert.equal(server.created[0].visibility ?? (server.created[0].private && 'private'), 'private')
    assert.equal(seen.at(-1)!.sent, seen.at(-1)!.total)
    using ddpm = model()
    using again = await DDPM.fromPretrained(name, { device: 'cpu' })
    const [one, other] = [await ddpm.stateDict(), await again.stateDict()]
    for (const key of Object.keys(one).filter((key) => key.startsWith('model.')))
      assert.deepEqual(await other[key].data(), await one[key].data(), key)
    assert.equal(server.created.length, 1)
  })

  it('sends what differs, in one commit, and nothing where nothing does', async () => {
    const first = await push()
    const asked = sent().length
    const same = await push()
    assert.deepEqual([same.commit, same.files, sent().length], [first.commit, [], asked])
    const next = await push({}, { seed: 4 })
    assert.deepEqual(next.files, [weights])
    const sharded = await push({ maxShardSize: 2 ** 16 }, { seed: 4 })
    assert.deepEqual(sharded.removed, [weights])
    assert.ok(!server.filesOf('main').has(weights))
    const whole = await push({}, { seed: 4 })
    assert.deepEqual([...whole.removed].sort(), sharded.files.filter((file) => file.startsWith('unet/diff')).sort())
    assert.equal(server.filesOf('main').size, 6)
  })

  it('makes a branch, and leaves the others', async () => {
    await push({ revision: 'epoch/20' })
    assert.equal(server.branches.get('main'), commit)
    assert.ok(server.filesOf('epoch/20').has(weights))
    assert.match(card('epoch/20'), /fromPretrained\('someone\/tiny-ddpm', \{ revision: 'epoch\/20' \}\)/)
    await assert.rejects(push({ revision: commit }), fails('invalid-argument', /revision: expected a branch/))
  })

  it('leaves a card that is there, unless it is asked to replace it', async () => {
    const own = Buffer.from('# written by hand\n')
    server.commits.set(commit, new Map([['README.md', own]]))
    const { files } = await push()
    assert.ok(!files.includes('README.md'))
    assert.equal(card(), own.toString())
    await push({ overwriteCard: true, license: 'mit' })
    assert.equal(frontMatter().license, 'mit')
  })

  it('says in the card what is true of the model', async () => {
    const { parameterCount } = model()
    await push()
    assert.deepEqual(frontMatter(), {
      library_name: 'diffusers',
      pipeline_tag: 'unconditional-image-generation',
      tags: ['ddpm', 'ddpm-native', 'diffusers', 'unconditional-image-generation'],
    })
    const { imageSize } = smallUNet
    for (const line of [
      `- images: ${imageSize}x${imageSize}, `,
      `- parameters: ${parameterCount}, averaged over the training\n`,
      '- classes: none\n',
      '- schedule: linear, 10 timesteps; the network predicts the noise\n',
      `DiffusionPipeline.from_pretrained('${name}')`,
    ])
      assert.ok(card().includes(line), `${line} in ${card()}`)

    const classNames = ['cat', 'dog: "a"\n# b']
    const settings = { betaSchedule: 'cosine', parameterization: 'v', classNames } as const
    const unetConfig = { ...smallUNet, layout: 'diffusers', numClasses: 2 } as const
    await push({ overwriteCard: true, variant: 'fp16' }, { ...settings, unetConfig })
    assert.deepEqual(frontMatter().tags.at(-1), 'class-conditional-image-generation')
    assert.equal(frontMatter().pipeline_tag, undefined)
    for (const line of [
      '- classes: 2: cat, dog: "a" # b.\n',
      '- schedule: cosine, 10 timesteps; the network predicts v\n',
      `DDPM.fromPretrained('${name}', { variant: 'fp16' })`,
      'classLabels: [0, 0, 0, 0]',
      `UNet2DModel.from_pretrained('${name}', subfolder='unet', variant='fp16')`,
    ])
      assert.ok(card().includes(line), `${line} in ${card()}`)
    assert.ok(!card().includes('Pipeline.from_pretrained'))

    await push({ overwriteCard: true }, { parameterization: 'flow' })
    assert.ok(card().includes('- schedule: flow, 10 timesteps; the network predicts the velocity of a flow\n'), card())
    assert.ok(card().includes('FlowMatchEulerDiscreteScheduler.from_pretrained'))
    assert.ok(!card().includes('Pipeline.from_pretrained'))
  })

  it('asks again where connections break, and once for the commit', async () => {
    const times = new Map<string, number>()
    server.refuse = (url) => {
      const n = times.get(url) ?? 0
      times.set(url, n + 1)
      if (url.includes('/commit/')) return undefined
      return n === 0 ? 'cut' : n === 1 ? 503 : undefined
    }
    const { commit } = await push()
    assert.equal(server.branches.get('main'), commit)
    assert.ok([...times.values()].every((n) => n <= 3))

    server.refuse = (url) => (url.includes('/commit/') ? 'cut' : undefined)
    await assert.rejects(push({}, { seed: 5 }), fails('io', /cannot upload someone\/tiny-ddpm/))
    assert.equal(server.branches.get('main'), commit)
    server.requests.length = 0
    server.refuse = (url) => (url.includes('/commit/') ? 'late' : undefined)
    const late = await push({}, { seed: 5 })
    assert.equal(server.branches.get('main'), late.commit)
    assert.ok(!server.requests.some((request) => request.startsWith('PUT')), 'weights that arrived are not sent again')
    assert.equal(server.requests.filter((request) => request.includes('/commit/')).length, 1)
  })

  it('that is refused changes nothing, and says why', async () => {
    for (const [part, status, message] of [
      ['/preupload/', 403, /Refused.*token must be one that may write there/],
      ['/lfs/objects/batch', 500, /cannot upload/],
      ['/storage/', 403, /cannot upload/],
      ['/commit/', 412, /changed meanwhile/],
    ] as const) {
      server.refuse = (url) => (url.includes(part) ? status : undefined)
      await assert.rejects(push(), fails('io', message), part)
      assert.equal(server.branches.get('main'), commit)
    }
    server.refuse = () => undefined
    process.env.HF_TOKEN = 'hf_other'
    await assert.rejects(push(), fails('io', /Unauthorized.*may write/))
    delete process.env.HF_TOKEN
    await assert.rejects(push(), fails('not-configured', /HF_TOKEN/))
    process.env.HF_TOKEN = 'hf_write'
    process.env.HF_HUB_OFFLINE = '1'
    await assert.rejects(push(), fails('io', /HF_HUB_OFFLINE/))
    delete process.env.HF_HUB_OFFLINE
    using ddpm = model()
    await assert.rejects(ddpm.pushToHub('tiny'), fails('invalid-argument', /name: expected .*owner\/name/))
    await assert.rejects(ddpm.pushToHub(name, { comitMessage: 'x' } as object), { code: 'unknown-option' })
    await assert.rejects(ddpm.pushToHub(name, { license: '' }), { code: 'invalid-argument', argument: 'license' })
  })

  it('finds out where the hub has not what was sent', async () => {
    server.lie = (file, bytes) => (file === weights ? Buffer.concat([bytes, bytes]) : bytes)
    await assert.rejects(push(), fails('bad-file', /is not what was sent/))
  })

  it('that is aborted sends no commit', async () => {
    const stop = new AbortController()
    server.refuse = (url) => {
      if (url.startsWith('/storage/')) stop.abort(new Error('enough'))
      return undefined
    }
    await assert.rejects(push({ signal: stop.signal }), { code: 'aborted' })
    assert.ok(!server.requests.some((request) => request.includes('/commit/')))
    await assert.rejects(push({ signal: AbortSignal.abort() }), { code: 'aborted' })
  })

  it('is ddpm push, of any model, with the token of a login', async () => {
    const local = path.join(folder, 'local')
    using ddpm = model({ classNames: undefined })
    await ddpm.savePretrained(local)
    delete process.env.HF_TOKEN
    mkdirSync(process.env.HF_HOME!)
    writeFileSync(path.join(process.env.HF_HOME!, 'token'), 'hf_write\n')
    const args = ['push', local, name, '--private', '--revision', 'v2', '--message', 'By hand', '--license', 'mit']
    const { code, stderr, stdout } = await runCli([...args, '--json'])
    assert.equal(code, 0, stderr)
    const { event, commit: made, files } = JSON.parse(stdout.trim().split('\n').at(-1)!)
    assert.deepEqual([event, made, files.length], ['done', server.branches.get('v2'), 5])
    assert.match(card('v2'), /license: mit/)
    assert.deepEqual(server.titles, ['By hand'])
    assert.deepEqual(server.filesOf('v2').get(weights), readFileSync(path.join(local, weights)))
    const there = await runCli(['info', name, '--revision', 'v2', '--json'])
    assert.equal(there.code, 0, there.stderr)
    const converted = path.join(folder, 'converted.safetensors')
    const convert = await runCli(['convert', name, converted, '--revision', 'v2'])
    assert.equal(convert.code, 0, convert.stderr)
    assert.ok(existsSync(converted))
    const none = await runCli(['info', name, '--revision', 'v3'])
    assert.match(none.stderr, /no v3 of it/)
    const usage = await runCli(['push', local])
    assert.equal(usage.code, 2)
    assert.match(usage.stderr, /the model or the name/)
  })
})
