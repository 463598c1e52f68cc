// No command replaces what is there, unless it is told to.
import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { runCli, temporaryFolder, tinyFlags, writeImages } from '../train/support'

describe('ddpm, where there is something already', function () {
  this.timeout(60_000)
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const run = at('run')

  before(async () => {
    await writeImages(at('images'), 2)
    assert.equal((await runCli(['train', at('images'), '--out', run, ...tinyFlags, '--steps', '1'])).code, 0)
  })

  const ok = async (...args: string[]) => {
    const result = await runCli(args)
    assert.equal(result.code, 0, result.stderr)
    return result
  }

  const commands: [name: string, args: string[], wanted: string, other: string][] = [
    ['export', ['export', run, '--output', at('a.onnx')], at('a.onnx'), at('a-1.onnx')],
    ['convert to a model file', ['convert', run, at('a.safetensors')], at('a.safetensors'), at('a-1.safetensors')],
    ['convert to a checkpoint', ['convert', run, at('a.ckpt')], at('a.ckpt'), at('a-1.ckpt')],
    [
      'evaluate',
      ['evaluate', at('images'), '--model', run, '--output', at('a.json'), '--limit', '1'],
      at('a.json'),
      at('a-1.json'),
    ],
    ['sample', ['sample', run, '-n', '1', '--output', at('a.png')], at('a.png'), at('a-1.png')],
  ]
  for (const [name, args, wanted, other] of commands) {
    it(name, async () => {
      writeFileSync(wanted, 'mine')
      const { stdout, stderr } = await ok(...args)
      assert.equal(readFileSync(wanted, 'utf8'), 'mine')
      assert.ok(statSync(other).size > 4)
      assert.ok(stdout.includes(other), stdout)
      assert.match(stderr, /^warning: .* was there already, and stays: this is .*-1\.\w+ \(--overwrite replaces it\)$/m)
      assert.doesNotMatch((await ok(...args, '--overwrite')).stderr, /was there already/)
      assert.ok(statSync(wanted).size > 4)
    })
  }

  it('convert to a folder', async () => {
    mkdirSync(at('folder'))
    writeFileSync(at('folder', 'notes.txt'), 'mine')
    await ok('convert', run, at('folder')) // nothing of a model is in it
    const index = () => statSync(at('folder', 'model_index.json')).mtimeMs
    const before = index()
    const { stdout } = await ok('convert', run, at('folder'), '--json')
    const events = stdout.trimEnd().split('\n')
    assert.match(events[0], /"event":"warning".*folder was there already/)
    assert.deepEqual(JSON.parse(events[1]).files, [at('folder-1')])
    assert.equal(index(), before)
    await ok('convert', run, at('folder'), '--overwrite')
    assert.ok(index() > before)
    assert.equal(readFileSync(at('folder', 'notes.txt'), 'utf8'), 'mine')
    writeFileSync(at('file'), 'mine')
    const refused = await runCli(['convert', run, at('file'), '--to', 'diffusers', '--overwrite'])
    assert.match(refused.stderr, /cannot write .*file: it is a file, not a folder/)
    assert.equal(readFileSync(at('file'), 'utf8'), 'mine')
  })

  it("keeps another checkpoint's configuration", async () => {
    writeFileSync(at('b.yaml'), 'mine')
    await ok('convert', run, at('b.ckpt'))
    assert.equal(readFileSync(at('b.yaml'), 'utf8'), 'mine')
    assert.ok(existsSync(at('b-1.ckpt')) && existsSync(at('b-1.yaml')) && !existsSync(at('b.ckpt')))
  })

  it('has a name for each of several that end at the same time', async () => {
    const seeds = ['1', '2', '3']
    await Promise.all(seeds.map((seed) => ok('sample', run, '-n', '1', '--output', at('c.png'), '--seed', seed)))
    // One that begins when others have ended may be told c-1.png, and find that taken in its turn: c-1-1.png.
    const drawn = () => readdirSync(folder).filter((name) => /^c.*\.png$/.test(name))
    const pictures = new Set(drawn().map((name) => readFileSync(at(name)).toString('base64')))
    assert.deepEqual([drawn().length, pictures.size], [3, 3], drawn().join())
    rmSync(at('c.png'))
    await ok('sample', run, '-n', '1', '--output', at('c.png'))
    assert.ok(existsSync(at('c.png')) && drawn().length === 3)
  })
})
