// `ddpm evaluate --features`, in shards: from the command line to numbers that are those of one process.
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import path from 'node:path'
import { openFeatures } from '../../lib/evaluate/features-file'
import { writeInception } from '../support/inception-file'
import { runCli, temporaryFolder, tinyFlags, writeImages } from '../train/support'

describe('ddpm evaluate --features', function () {
  this.timeout(120_000)
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const run = async (args: string[], expected = 0) => {
    const env = { DDPM_CACHE: at('cache'), DDPM_INCEPTION: at('inception.safetensors') }
    const { code, stderr, stdout } = await runCli(args, env, folder)
    assert.equal(code, expected, stderr)
    return expected === 0 ? stdout : stderr
  }
  const device = ['--device', 'cpu', '--batch', '2']
  const model = ['evaluate', 'run', '--count', '5', '--steps', '3', ...device]
  const metrics = ['--fid', 'photos', '--metrics', 'fid,kid,pr', '--json', ...device]
  const reportOf = (stdout: string) => JSON.parse(stdout.trimEnd().split('\n').at(-1)!)

  before(async () => {
    await writeImages(at('photos'), 5)
    await writeInception(at('inception.safetensors'))
    await run(['train', 'photos', '--out', 'run', ...tinyFlags, '--steps', '1'])
  })

  it('of a model, in two parts: all metrics are those of one process', async () => {
    const parts = ['1/2', '2/2'].map((shard) => run([...model, '--features', 'f.npz', '--shard', shard]))
    const [whole] = await Promise.all([run([...model, ...metrics]), ...parts])
    await run(['merge', 'f-1-of-2.npz', 'f-2-of-2.npz', '--out', 'f.npz'])
    const report = reportOf(await run(['evaluate', '--samples', 'f.npz', ...metrics]))
    assert.equal(report.images, 5)
    assert.deepEqual(report, reportOf(whole))
  })

  it('of images, in two parts', async () => {
    const images = ['evaluate', '--samples', 'photos', '--size', '12', '--count', '4', ...device, '--features']
    await Promise.all(['1/2', '2/2'].map((shard) => run([...images, 'i.npz', '--shard', shard])))
    await run(['merge', 'i-1-of-2.npz', 'i-2-of-2.npz', '--out', 'i.npz'])
    assert.equal((await openFeatures(at('i.npz'))).count, 4)
    assert.match(
      await run(['merge', 'i-1-of-2.npz', 'f-2-of-2.npz', '--out', 'x.npz'], 1),
      /are not parts of one whole/,
    )
  })

  it('wrong use, before anything is loaded', async () => {
    for (const [pattern, ...args] of [
      [/--shard goes with --features/, 'nowhere', '--fid', 'photos', '--shard', '1/2'],
      [/--fid goes without --features/, 'nowhere', '--fid', 'photos', '--features', 'x.npz'],
      [/--output goes without --features/, 'nowhere', '--output', 'x.json', '--features', 'x.npz'],
      [/--shard: 10 images are 1 batch of 16/, 'nowhere', '--count', '10', '--features', 'x.npz', '--shard', '1/2'],
      [/--shard: expected one such as 3\/16/, '--samples', 'nowhere', '--features', 'x.npz', '--shard', '3/2'],
      [/f-1-of-2\.npz is there already: --overwrite/, 'nowhere', '--features', 'f.npz', '--shard', '1/2'],
      [/--count goes with images, and f\.npz has their features/, '--samples', 'f.npz', '--fid', 'photos', '-n', '3'],
    ] as const)
      assert.match(await run(['evaluate', ...args], 2), pattern)
    assert.ok(!existsSync(at('x.npz')))
  })
})
