// What is drawn is kept, however the command ends, and is gone on with.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'
import { cli, ended, runCli, startCli, temporaryFolder, tinyFlags, writeImages } from '../train/support'

describe('ddpm sample, in parts', function () {
  this.timeout(60_000)
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const run = at('run')
  const model = ['sample', '--checkpoint', run, '--device', 'cpu', '--batch', '2']
  const pictures = (name: string) => readdirSync(at(name)).filter((file) => file.endsWith('.png'))

  before(async () => {
    for (const name of ['cat', 'dog']) await writeImages(at('images', name), 3)
    const train = ['train', at('images'), '--out', run, ...tinyFlags, '--steps', '1', '--classes', 'folders']
    assert.equal((await runCli(train)).code, 0)
  })

  const draw = async (...args: string[]) => {
    const { code, stderr, stdout } = await runCli([...model, ...args])
    assert.equal(code, 0, stderr)
    return stdout
  }

  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
    ['SIGKILL', null],
  ] as const) {
    it(`keeps what there is after ${signal}, and goes on to the same bytes`, async () => {
      const name = signal.toLowerCase()
      const to = (n: string) => ['--separate', at(n), '--npz', at(`${n}.npz`)]
      const child = startCli([...model, '--count', '100000', ...to(name)])
      const timer = setInterval(() => existsSync(at(name)) && pictures(name).length >= 5 && child.kill(signal), 10)
      const result = await ended(child).finally(() => clearInterval(timer))
      assert.equal(result.code, code, result.stderr)
      const kept = pictures(name).length
      assert.ok(kept >= 5 && kept < 100_000)
      assert.ok(!existsSync(at(`${name}.npz`)))
      if (code) assert.match(result.stderr, new RegExp(`^${kept & ~1} of 100000 images are kept for .*--resume$`, 'm'))
      const count = String(kept + 3)
      const said = await draw('--count', count, ...to(name), '--resume')
      assert.match(
        said,
        new RegExp(`^${count} images \\(${signal === 'SIGKILL' ? '\\d+' : kept & ~1} of them before\\)`),
      )
      await draw('--count', count, ...to(`${name}-whole`))
      assert.deepEqual(readdirSync(at(name)), readdirSync(at(`${name}-whole`)))
      for (const file of pictures(name))
        assert.ok(readFileSync(at(name, file)).equals(readFileSync(at(`${name}-whole`, file))), file)
      assert.ok(readFileSync(at(`${name}.npz`)).equals(readFileSync(at(`${name}-whole.npz`))))
      assert.ok(!existsSync(at(`${name}.npz.partial`)))
    })
  }

  it('keeps what there is on a full disk, and goes on to the same bytes', async () => {
    const args = [...model, '--count', '40', '--npz', at('full.npz')]
    // A limit for the size of files, in KiB, for a disk: the record and 10 of the images of 192 bytes.
    const limited = ['-c', 'ulimit -f 18; exec "$@"', 'bash', process.execPath, cli, ...args]
    const { status, stderr } = spawnSync('bash', limited, { encoding: 'utf8' })
    assert.equal(status, 1)
    assert.match(
      stderr,
      /^(\d+) of 40 images are kept .*\n.*cannot write .*full\.npz\.partial: the file would be larger/m,
    )
    await draw('--count', '40', '--npz', at('full.npz'), '--resume')
    await draw('--count', '40', '--npz', at('room.npz'))
    assert.ok(readFileSync(at('full.npz')).equals(readFileSync(at('room.npz'))))
  })

  it('is done where nobody reads what it says', async () => {
    for (const channel of ['stdout', 'stderr'] as const) {
      const child = startCli([...model, '--count', '6', '--separate', at(channel), '--json'], { DDPM_DEBUG: 'plan' })
      child[channel]!.destroy()
      const other = channel === 'stdout' ? child.stderr! : child.stdout!
      other.resume()
      const [code] = await once(child, 'exit')
      assert.deepEqual([code, pictures(channel).length], [0, 6])
    }
  })

  it('has nothing to do where all is there', async () => {
    await draw('--count', '3', '--separate', at('all'), '--npz', at('all.npz'))
    const before = readFileSync(at('all.npz'))
    const said = await draw('--count', '3', '--separate', at('all'), '--npz', at('all.npz'), '--resume')
    assert.match(said, /^3 images \(3 of them before\)/)
    assert.ok(readFileSync(at('all.npz')).equals(before))
  })

  it('makes a grid of new images and of those before', async () => {
    const whole = ['--count', '6', '--columns', '3', '--scale', '1']
    await draw(...whole, '--separate', at('grid'), '--output', at('grid.png'))
    const child = startCli([...model, '--count', '100000', '--separate', at('half')])
    const timer = setInterval(() => existsSync(at('half')) && pictures('half').length >= 2 && child.kill('SIGINT'), 5)
    await ended(child).finally(() => clearInterval(timer))
    await draw(...whole, '--separate', at('half'), '--output', at('half.png'), '--resume')
    assert.ok(readFileSync(at('half.png')).equals(readFileSync(at('grid.png'))))
  })

  it('does not mix images that are drawn in other ways', async () => {
    const child = startCli([...model, '--count', '100000', '--separate', at('mixed'), '--npz', at('mixed.npz')])
    const timer = setInterval(() => existsSync(at('mixed')) && pictures('mixed').length >= 2 && child.kill('SIGINT'), 5)
    await ended(child).finally(() => clearInterval(timer))
    const refused = async (pattern: RegExp, ...args: string[]) => {
      const { code, stderr } = await runCli([...model, '--count', '5', '--resume', ...args])
      assert.match(stderr, pattern)
      assert.equal(code, 1)
    }
    const kept = pictures('mixed').length
    await refused(
      /--seed was '' for the images in .*mixed and can't become '1'/,
      '--separate',
      at('mixed'),
      '--seed',
      '1',
    )
    await refused(/--steps was '' for .*mixed\.npz\.partial/, '--npz', at('mixed.npz'), '--steps', '3')
    await refused(/images of another model/, '--npz', at('mixed.npz'), '--checkpoint', run, '--no-ema')
    writeFileSync(at('mixed', '.ddpm-sample.json'), '[')
    await refused(/is not JSON/, '--separate', at('mixed'))
    truncateSync(at('mixed.npz.partial'), 5)
    await refused(/mixed\.npz\.partial is not of a sampling/, '--npz', at('mixed.npz'))
    mkdirSync(at('foreign'))
    writeFileSync(at('foreign', '00001.png'), 'x')
    await refused(/no \.ddpm-sample\.json that says how/, '--separate', at('foreign'))
    assert.equal(pictures('mixed').length, kept)
  })

  it('takes another name where there is something, unless told to replace it', async () => {
    for (let i = 0; i < 2; i++) {
      await draw(
        '-n',
        '1',
        '--separate',
        at('again'),
        '--npz',
        at('again.npz'),
        '-o',
        at('again.png'),
        '--seed',
        `${i}`,
      )
    }
    const first = readFileSync(at('again.png'))
    assert.ok(!first.equals(readFileSync(at('again-1.png'))))
    assert.ok(existsSync(at('again-1.npz')) && existsSync(at('again-1', '00000.png')))
    // Other numbers are no images of these.
    await draw('-n', '1', '--first', '1', '--separate', at('again'))
    assert.deepEqual(readdirSync(at('again')), ['00000.png', '00001.png'])
    await draw('-n', '1', '-o', at('again.png'), '--seed', '1', '--overwrite')
    assert.ok(readFileSync(at('again.png')).equals(readFileSync(at('again-1.png'))))
  })

  it('refuses before it draws', async () => {
    writeFileSync(at('file'), '')
    mkdirSync(at('folder.png'))
    const cases: [RegExp, number, ...string[]][] = [
      [/^ddpm sample: --output: expected a name that ends in \.png/, 1, '-o', at('a.bmp')],
      [/cannot write .*folder\.png: it is a folder/, 1, '-o', at('folder.png'), '--overwrite'],
      [/cannot make the folder/, 1, '-o', at('file', 'b.png')],
      [/--scale: expected a picture of at most 268402689 pixels/, 1, '-n', '100000', '-o', at('huge.png')],
      [/--resume goes with --separate or --npz/, 2, '--resume'],
      [/--resume and --overwrite/, 2, '--resume', '--overwrite', '--npz', at('a.npz')],
    ]
    for (const [pattern, expected, ...args] of cases) {
      const { code, stdout, stderr } = await runCli([...model, ...args], { DDPM_DEBUG: 'plan' })
      assert.match(stderr, pattern)
      assert.deepEqual([code, stdout], [expected, ''])
      assert.doesNotMatch(stderr, /sampling|step program/)
    }
  })

  it('writes the grid in the format of its name', async () => {
    for (const [name, format] of [
      ['a.jpg', 'jpeg'],
      ['a.webp', 'webp'],
      ['a.gif', 'gif'],
      ['a.tif', 'tiff'],
      ['a', 'png'],
    ]) {
      await draw('-n', '1', '--steps', '1', '-o', at(name))
      assert.equal((await sharp(at(name)).metadata()).format, format)
    }
  })
})
