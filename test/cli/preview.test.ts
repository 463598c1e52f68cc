/** `ddpm sample --preview`: a small picture of the images as they form. */
import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'
import { runCli, temporaryFolder } from '../train/support'

const fixtures = path.join(__dirname, '..', '..', '..', 'test', 'fixtures')

describe('ddpm sample --preview', () => {
  const folder = temporaryFolder()
  const draw = (...args: string[]) => runCli(['sample', '--device', 'cpu', '--steps', '3', ...args], {}, folder)
  const sizeOf = async (name: string) => {
    const { width, height } = await sharp(path.join(folder, name)).metadata()
    return [width, height]
  }

  it('is of latents a pixel each, and of images these', async () => {
    const text = [path.join(fixtures, 'ldm', 'diffusers_sd'), '--prompt', 'red cat']
    const { code, stderr } = await draw(...text, '--count', '4', '--output', 'cats.png', '--preview', 'forming.png')
    assert.equal(code, 0, stderr)
    assert.deepEqual(await sizeOf('forming.png'), [2 * 8 + 3, 2 * 8 + 3])
    assert.equal((await draw('--count', '2', '--output', 'emoji.png', '--preview', 'emoji-forming.webp')).code, 0)
    assert.deepEqual(await sizeOf('emoji-forming.webp'), [2 * 32 + 3, 32 + 2])
    // What the last step predicts is what is drawn.
    const whole = await sharp(path.join(folder, 'emoji.png')).extract({ left: 8, top: 8, width: 128, height: 128 })
    const drawn = await whole.resize(32, 32, { kernel: 'nearest' }).removeAlpha().raw().toBuffer()
    const preview = sharp(path.join(folder, 'emoji-forming.webp')).extract({ left: 1, top: 1, width: 32, height: 32 })
    const seen = await preview.removeAlpha().raw().toBuffer()
    const apart = seen.reduce((sum, v, i) => sum + Math.abs(v - drawn[i]), 0) / seen.length
    assert.ok(apart < 8, `${apart} of 255 apart`)
  })

  it('never replaces what is there unasked, and is refused before anything is drawn', async () => {
    writeFileSync(path.join(folder, 'kept.png'), 'mine')
    const first = await draw('--count', '1', '--output', 'one.png', '--preview', 'kept.png')
    assert.equal(first.code, 0, first.stderr)
    assert.equal(readFileSync(path.join(folder, 'kept.png'), 'utf8'), 'mine')
    assert.match(first.stderr, /kept\.png was there already, and stays: this is kept-1\.png/)
    assert.deepEqual(await sizeOf('kept-1.png'), [32, 32])
    assert.equal((await draw('--count', '1', '--preview', 'kept.png', '--overwrite', '--output', 'one.png')).code, 0)
    assert.deepEqual(await sizeOf('kept.png'), [32, 32])

    const before = readdirSync(folder)
    const refused = await draw('--output', 'none.png', '--preview', 'forming.txt')
    assert.notEqual(refused.code, 0)
    assert.match(refused.stderr, /--preview: expected/)
    const folderless = await draw('--output', 'none.png', '--preview', path.join('one.png', 'a.png'))
    assert.notEqual(folderless.code, 0)
    assert.ok(!existsSync(path.join(folder, 'none.png')))
    assert.deepEqual(readdirSync(folder), before)
  })
})
