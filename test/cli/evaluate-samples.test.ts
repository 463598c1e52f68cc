// `ddpm evaluate --fid`: from the command line to the file, with weights of InceptionV3 that nothing has trained.
import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { writeNpz } from '../../lib/data/npz'
import { writeInception } from '../support/inception-file'
import { type Ended, ended, runCli, startCli, temporaryFolder, tinyFlags, writeImages } from '../train/support'

describe('ddpm evaluate --fid', function () {
  this.timeout(120_000)
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const [photos, run] = [at('photos'), at('run')]
  const cache = at('cache')
  const inception = at('inception.safetensors')
  const evaluate = (...args: string[]) =>
    runCli(['evaluate', ...args], { DDPM_CACHE: cache, DDPM_INCEPTION: '' }, folder)
  const device = ['--device', 'cpu', '--batch', '4']
  const lastEvent = ({ stdout }: Ended) => JSON.parse(stdout.trimEnd().split('\n').at(-1)!)

  before(async () => {
    await writeImages(photos, 8)
    await writeInception(inception)
    const { code, stderr } = await runCli(['train', photos, '--out', run, ...tinyFlags, '--steps', '2'])
    assert.equal(code, 0, stderr)
  })

  it('of a model: the reference is computed once, the report is on the screen and in a file', async () => {
    const given = [run, '--fid', photos, '--inception', inception, '--count', '5', '--metrics', 'fid,kid,pr', ...device]
    const first = await evaluate(...given, '--output', at('fid.json'))
    assert.equal(first.code, 0, first.stderr)
    assert.match(first.stderr, /FID of 5 samples says little/)
    const report = JSON.parse(readFileSync(at('fid.json'), 'utf8'))
    assert.deepEqual(report.reference, { name: photos, images: 8 })
    assert.match(first.stdout, /^5 images, compared with 8 images of .*photos\nFID /)
    assert.ok(first.stdout.includes(`FID              ${report.fid.toFixed(4)}\n`))
    assert.match(first.stdout, /\nKID .*\+-.*\nprecision .*\nrecall /)
    assert.equal(readdirSync(path.join(cache, 'statistics')).length, 1)

    const kept = await evaluate(...given, '--json')
    assert.equal(kept.code, 0, kept.stderr)
    const { event, ...again } = lastEvent(kept)
    assert.deepEqual([event, again], ['done', report])
  })

  it('of images of another tool, and with its statistics', async () => {
    const samples = {
      data: Uint8Array.from({ length: 3 * 12 * 12 * 3 }, (_, i) => (i * 31) % 256),
      shape: [3, 12, 12, 3],
    }
    await writeNpz(at('samples.npz'), { arr_0: samples })
    const moments = readdirSync(path.join(cache, 'statistics')).map((name) => path.join(cache, 'statistics', name))
    const found = await evaluate('--samples', 'samples.npz', '--fid', moments[0], '--inception', inception, ...device)
    assert.equal(found.code, 0, found.stderr)
    assert.match(found.stdout, /^3 images, compared with 8 images of .*npz\nFID {14}\d/)
  })

  it('of a latent model: the reference is of the size of its images', async () => {
    const sd = path.join(__dirname, '..', '..', '..', 'test', 'fixtures', 'ldm', 'diffusers_sd')
    const drawn = ['--prompt', 'red cat', '--steps', '2', '--count', '2', '--limit', '2', ...device]
    const { code, stderr, stdout } = await evaluate(sd, '--fid', photos, '--inception', inception, ...drawn)
    assert.equal(code, 0, stderr)
    assert.match(stdout, /^2 images, compared with 2 images/)
  })

  it('asked to stop: nothing half is kept', async () => {
    const child = startCli(
      ['evaluate', '--samples', photos, '--fid', photos, '--inception', inception, '--size', '16', ...device],
      { DDPM_CACHE: at('stopped') },
    )
    setTimeout(() => child.kill('SIGINT'), 1500)
    const { code, stdout } = await ended(child)
    assert.deepEqual([code, stdout], [130, ''])
    const kept = path.join(at('stopped'), 'statistics')
    for (const name of existsSync(kept) ? readdirSync(kept) : []) assert.match(name, /^[0-9a-f]{32}\.npz$/)
  })

  it('without weights: where they are published', async () => {
    for (const given of [[], ['--inception', at('none.pth')]]) {
      const { code, stderr } = await evaluate('--samples', photos, '--fid', photos, ...given)
      assert.equal(code, 1)
      assert.match(stderr, /--inception: .*https:\/\/github.com\/mseitzer\/pytorch-fid\/releases\/.*not downloaded/)
    }
  })

  it('wrong use', async () => {
    for (const [pattern, ...args] of [
      [/--fid <data> is missing/, run, '--metrics', 'fid,is'],
      [/--fid <data> is missing/, '--samples', photos],
      [/--metrics: expected fid, kid, pr, is, got 'fd'/, run, '--fid', photos, '--metrics', 'fd'],
      [/--samples goes without a model/, run, '--samples', photos, '--fid', photos],
      [/--steps goes with a model, not with --samples/, '--samples', photos, '--fid', photos, '--steps', '5'],
      [/--size goes with --samples/, run, '--fid', photos, '--size', '8'],
      [/--classes goes without --fid/, run, '--fid', photos, '--classes', 'folders'],
      [/--eta goes with --sampler/, run, '--fid', photos, '--eta', '1'],
      [/--count goes with --fid/, photos, '--count', '5'],
    ] as const) {
      const { code, stderr } = await evaluate(...args)
      assert.equal(code, 2, args.join(' '))
      assert.match(stderr, pattern)
    }
  })
})
