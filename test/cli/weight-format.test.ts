/** `ddpm sample --weight-format`. */
import assert from 'node:assert/strict'
import { existsSync, readdirSync } from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'
import { ended, runCli, startCli, temporaryFolder } from '../train/support'

describe('ddpm sample --weight-format', () => {
  const folder = temporaryFolder()
  const draw = (...args: string[]) =>
    runCli(['sample', '--device', 'cpu', '--steps', '3', '--seed', '5', ...args], {}, folder)
  const pixels = (name: string) => sharp(path.join(folder, name)).removeAlpha().raw().toBuffer()

  it('draws nearly what float32 weights do, and goes on only as it began', async () => {
    const one = (format: string) => ['--count', '1', '--output', `${format}.png`, '--weight-format', format]
    const results = await Promise.all(['fp32', 'int8'].map((format) => draw(...one(format))))
    for (const { code, stderr } of results) assert.equal(code, 0, stderr)
    const [wide, narrow] = await Promise.all(['fp32.png', 'int8.png'].map(pixels))
    const apart = narrow.reduce((sum, v, i) => sum + Math.abs(v - wide[i]), 0) / wide.length
    assert.ok(apart > 0 && apart < 4, `${apart} of 255 apart`)
    const many = ['sample', '--device', 'cpu', '--steps', '2', '--batch', '1', '--separate', path.join(folder, 'many')]
    const child = startCli([...many, '--count', '100000', '--weight-format', 'fp16'])
    const timer = setInterval(() => existsSync(path.join(folder, 'many', '00001.png')) && child.kill('SIGINT'), 5)
    await ended(child).finally(() => clearInterval(timer))
    const other = await runCli([...many, '--count', '2', '--resume'])
    assert.match(other.stderr, /--weight-format was '"fp16"' .* can't become/)
    const same = await runCli([...many, '--count', '2', '--resume', '--weight-format', 'fp16'])
    assert.equal(same.code, 0, same.stderr)
  })

  it('is no option of what is trained, nor of what is written, and has no other values', async () => {
    const before = readdirSync(folder)
    const wrong = await draw('--weight-format', 'fp8')
    assert.equal(wrong.code, 2)
    assert.match(wrong.stderr, /--weight-format.*fp16/)
    for (const args of [
      ['train', 'images', '--out', 'run'],
      ['convert', 'a', 'b'],
    ]) {
      const { code, stderr } = await runCli([...args, '--weight-format', 'fp16'], {}, folder)
      assert.equal(code, 2)
      assert.match(stderr, /--weight-format/)
    }
    assert.deepEqual(readdirSync(folder), before)
  })
})
