// What somebody types who has read the README alone.
import assert from 'node:assert/strict'
import { existsSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { DiffusionError } from '../../lib/errors'
import { makeFolder } from '../../lib/make-folder'
import { runCli, temporaryFolder, tinyFlags, writeImages } from '../train/support'

describe('a newcomer', function () {
  this.timeout(60_000)
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const run = at('run')

  before(async () => {
    await writeImages(at('photos'), 3)
    assert.equal((await runCli(['train', at('photos'), '--out', run, ...tinyFlags, '--steps', '1'])).code, 0)
  })

  const refused = async (code: number, pattern: RegExp, ...args: string[]) => {
    const result = await runCli(args, {}, folder)
    assert.match(result.stderr, pattern)
    assert.deepEqual([result.code, result.stdout], [code, ''])
  }

  it('is told where names of files mean something else', async () => {
    for (const name of ['model.onnx', 'model.bin', 'model.zip', 'model.yaml']) {
      await refused(
        2,
        /^ddpm convert: 'model\.\w+': (ONNX files are written by ddpm export|expected)/,
        'convert',
        run,
        name,
      )
      assert.ok(!existsSync(at(name)))
    }
    const { code, stdout } = await runCli(['convert', run, at('model.pth')])
    assert.deepEqual([code, stdout.includes('(ckpt)')], [0, true])
    await refused(1, /^ddpm export: --height: expected a multiple of 4, got 7/, 'export', '--height', '7')
    await refused(2, /the model is named twice/, 'sample', run, '--model', run)
  })

  it('does not train on the pictures of the training', async () => {
    for (const out of [at('photos'), at('photos', 'runs', 'a')]) {
      await refused(
        1,
        /^ddpm train: --out: expected a folder outside of the data/,
        'train',
        'photos',
        '--out',
        out,
        '--steps',
        '1',
      )
    }
    assert.equal(readdirSync(at('photos')).length, 3)
  })

  it('reads of a model what it is, and nothing that it is not', async () => {
    const { stdout } = await runCli(['info', run])
    assert.doesNotMatch(stdout, /undefined|null/)
    assert.match(stdout, /attentionResolutions: none/)
    assert.match((await runCli(['sample', run, '-n', '1'], {}, folder)).stdout, /^1 image in /)
  })

  it('gets an end where no folder can be made', async () => {
    writeFileSync(at('file'), '')
    symlinkSync('nowhere', at('dangling'))
    // A folder of the system in which nobody can make any; on Linux, one that says so by ENOENT.
    const places = [
      at('file', 'x'),
      at('file'),
      at('dangling', 'x'),
      path.join(process.platform === 'linux' ? '/proc' : at('file'), 'x', 'y'),
    ]
    for (const place of places) {
      await assert.rejects(makeFolder(place), (error) => error instanceof DiffusionError && error.code === 'io')
    }
    assert.equal(await makeFolder(at('new', 'a', 'b')), at('new'))
    assert.equal(await makeFolder(at('new', 'a', 'b')), undefined)
    assert.equal(await makeFolder(at('new', 'a', 'c')), at('new', 'a', 'c'))
    const both = await Promise.all([makeFolder(at('at', 'once', 'x')), makeFolder(at('at', 'once', 'y'))])
    assert.ok(both.every((made) => made !== undefined))
  })
})
