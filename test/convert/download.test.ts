import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import path from 'node:path'
import { shippedModel } from '../../lib/convert/locate'
import { DDPM, loadModel } from '../../lib/index'
import { smallUNet } from '../support/small-unet'
import { runCli, temporaryFolder } from '../train/support'

describe('a model by its URL', function () {
  this.timeout(60_000)
  const folder = temporaryFolder()
  const bytes = readFileSync(shippedModel)
  let answer: (request: IncomingMessage, response: ServerResponse) => void
  const server = createServer((request, response) => answer(request, response))
  const requests: string[] = []
  let origin = ''
  const before_ = process.env.DDPM_CACHE

  before(async () => {
    process.env.DDPM_CACHE = path.join(folder, 'cache')
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
    origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  })
  after(() => {
    if (before_ === undefined) delete process.env.DDPM_CACHE
    else process.env.DDPM_CACHE = before_
    server.closeAllConnections()
    server.close()
  })
  beforeEach(() => {
    requests.length = 0
    answer = (request, response) => {
      requests.push(String(request.headers['if-none-match']))
      if (request.headers['if-none-match'] === '"one"') return response.writeHead(304).end()
      response.writeHead(200, { 'content-length': bytes.length, etag: '"one"' }).end(bytes)
    }
  })

  const load = (name: string, options = {}) => loadModel(`${origin}/${name}`, { device: 'cpu', ...options })
  const files = () => readdirSync(path.join(folder, 'cache'), { recursive: true, encoding: 'utf8' })

  it('is downloaded once, and asked for again', async () => {
    const seen: number[] = []
    const onDownload = ({ received, total }: { received: number; total?: number }) => {
      assert.equal(total, bytes.length)
      seen.push(received)
    }
    using first = await load('emoji.safetensors?token=secret', { onDownload })
    assert.ok(first.classNames.length > 0)
    assert.equal(seen.at(-1), bytes.length)
    using _ = await load('emoji.safetensors?token=secret')
    assert.deepEqual(requests, ['undefined', '"one"'])
    assert.ok(files().every((name) => !name.includes('.tmp')))
    // By a command, and as an URL.
    const { code, stdout, stderr } = await runCli(['info', `${origin}/emoji.safetensors`, '--json'])
    assert.equal(code, 0, stderr)
    assert.equal(JSON.parse(stdout).parameters, first.parameterCount)
  })

  it('of a checkpoint takes the configuration beside it, or one that is given', async () => {
    const ckpt = path.join(folder, 'tiny.ckpt')
    const tiny = path.join(folder, 'tiny')
    using ddpm = new DDPM({ unetConfig: smallUNet, timesteps: 10, device: 'cpu' })
    await ddpm.savePretrained(tiny)
    const converted = await runCli(['convert', tiny, ckpt])
    assert.equal(converted.code, 0, converted.stderr)
    const [weights, yaml] = ['tiny.ckpt', 'tiny.yaml'].map((name) => readFileSync(path.join(folder, name)))
    const there = new Map([
      ['/a/tiny.ckpt', weights],
      ['/a/tiny.yaml', yaml],
      ['/b/tiny.ckpt', weights],
      ['/b/tiny.yml', yaml],
      ['/c/tiny.ckpt', weights],
      ['/d/other.yaml', yaml],
    ])
    answer = (request, response) => {
      const bytes = there.get(new URL(request.url!, origin).pathname)
      if (bytes) response.end(bytes)
      else response.writeHead(404).end()
    }
    for (const name of ['a/tiny.ckpt?download=true', 'b/tiny.ckpt']) (await load(name)).dispose()
    ;(await load('c/tiny.ckpt', { config: `${origin}/d/other.yaml` })).dispose()
    ;(await load('c/tiny.ckpt', { config: path.join(folder, 'tiny.yaml') })).dispose()
    const message =
      /^config is missing: .*c\/tiny\.ckpt is a checkpoint, which needs its configuration: none given, and no tiny\.yaml beside it/
    await assert.rejects(load('c/tiny.ckpt'), { code: 'not-found', argument: 'config', message })
    const command = await runCli(['convert', `${origin}/a/tiny.ckpt`, path.join(folder, 'again.safetensors')])
    assert.equal(command.code, 0, command.stderr)
    const none = await runCli(['sample', '--model', `${origin}/c/tiny.ckpt`, '--output', path.join(folder, 'x.png')])
    assert.match(none.stderr, /^ddpm sample: --config is missing: /)
  })

  it('is told of where it does not come, and nothing is left of a part', async () => {
    answer = (_, response) => response.writeHead(404).end('no')
    await assert.rejects(load('none.ckpt'), { code: 'not-found', message: /none\.ckpt: the server says 404/ })
    answer = (_, response) => response.writeHead(503).end()
    await assert.rejects(load('none.ckpt?token=secret'), (error: Error) => !error.message.includes('secret'))
    answer = (_, response) => {
      response.writeHead(200, { 'content-length': bytes.length })
      response.write(bytes.subarray(0, 1000), () => response.destroy())
    }
    await assert.rejects(load('cut.safetensors'), { code: 'io', message: /^cannot download .*cut\.safetensors: / })
    assert.ok(!files().some((name) => name.includes('cut') || name.includes('.tmp')))
    answer = (_, response) => response.end('<html>sign in</html>')
    await assert.rejects(load('page.safetensors'), { code: 'bad-file' })
    await assert.rejects(loadModel('http://127.0.0.1:1/a.safetensors'), { code: 'io' })
  })

  it('that was there before is kept, and named, where the server is away', async () => {
    await (await load('kept.safetensors')).dispose()
    answer = (request) => request.socket.destroy()
    await assert.rejects(load('kept.safetensors'), (error: Error) => {
      const [, file] = /a copy of before is (.*)\)$/.exec(error.message)!
      return readFileSync(file).equals(bytes)
    })
  })
})
