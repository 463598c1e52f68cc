// Bits per dimension of shards, by processes that know nothing of one another, are those of one process.
import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { openEvaluations } from '../../lib/trainer/evaluation-file'
import { runCli, temporaryFolder, tinyFlags, writeImages } from '../train/support'

describe('ddpm evaluate --shard', function () {
  this.timeout(60_000)
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const evaluate = ['evaluate', at('images'), '--checkpoint', at('run'), '--device', 'cpu', '--batch', '2']
  const ok = async (...args: string[]) => {
    const { code, stderr, stdout } = await runCli(args)
    assert.equal(code, 0, stderr)
    return stdout
  }
  const refused = async (args: string[], pattern: RegExp, expected = 1) => {
    const { code, stderr } = await runCli(args)
    assert.match(stderr, pattern)
    assert.equal(code, expected)
  }
  const shard = (k: number, ...args: string[]) => [...evaluate, '--output', at('b.json'), '--shard', `${k}/3`, ...args]
  const parts = [1, 2, 3].map((k) => at(`b-${k}-of-3.json`))

  before(async () => {
    await writeImages(at('images'), 7)
    await ok('train', at('images'), '--out', at('run'), ...tinyFlags, '--steps', '1')
    await Promise.all([1, 2, 3].map((k) => ok(...shard(k))))
  })

  it('gives parts that merge makes the file of one process of', async () => {
    const said = await ok(...evaluate, '--output', at('whole.json'))
    const merged = await ok('merge', ...parts.toReversed(), '--out', at('merged.json'))
    assert.ok(readFileSync(at('merged.json')).equals(readFileSync(at('whole.json'))))
    const table = (text: string) => text.split('\n').slice(0, -2)
    assert.deepEqual(table(merged), table(said))
    assert.ok(merged.endsWith(`\n\n3 parts: ${at('merged.json')}\n`), merged)
    assert.ok(said.endsWith(`\n\n${at('whole.json')}\n`), said)
  })

  it('refuses parts that are missing, doubled, of another evaluation or damaged', async () => {
    const [a, b, c] = parts
    /** As the command does. */
    const refusedParts = (files: string[], pattern: RegExp) => assert.rejects(openEvaluations(files), pattern)
    const missing = /^ddpm merge: 1 of 3 shards is missing: .*b-2-of-3\.json$/m
    await refused(['merge', a, c, '--out', at('bad.json')], missing)
    await refusedParts([a, b, c, b], /shard 2 of 3 is there twice: .*b-2-of-3\.json and .*b-2-of-3\.json$/)
    const other = async (name: string, ...args: string[]) => {
      await ok(...shard(3, ...args, '--output', at(`${name}.json`)))
      return at(`${name}-3-of-3.json`)
    }
    const seed = await other('seed', '--seed', '1')
    await refusedParts(
      [a, b, seed],
      /seed-3-of-3\.json and .*b-1-of-3\.json are not parts of one whole: seed is '1' of/,
    )
    await refusedParts([a, b, await other('ema', '--no-ema')], /they are of two models$/)
    await refusedParts([a, b, await other('limit', '--limit', '6')], /count is '6' of the one, and '7' of the other/)
    await writeImages(at('more'), 8)
    const more = shard(3, '--output', at('data.json'), '--limit', '7').with(1, at('more'))
    await ok(...more)
    await refusedParts([a, b, at('data-3-of-3.json')], /data is '\w+' of the one, and '\w+' of the other/)
    const text = readFileSync(c, 'utf8')
    for (const damaged of [
      text.slice(0, -20),
      text.replace('"vb":[', '"vb":[[],'),
      text.replace('sums', 'suns'),
      '{}',
    ]) {
      writeFileSync(at('damaged.json'), damaged)
      await refusedParts([a, b, at('damaged.json')], /damaged\.json is not a /)
    }
    await refusedParts([a, b, at('whole.json')], /whole\.json is not a part of an evaluation: its format/)
    assert.ok(!existsSync(at('bad.json')))
  })

  it('refuses before anything is loaded', async () => {
    const nowhere = ['evaluate', at('nowhere'), '--checkpoint', at('nowhere')]
    await refused([...nowhere, '--shard', '1/3'], /--shard goes with --output/, 2)
    await refused([...nowhere, '--shard', '4/3', '-o', at('n.json')], /--shard: expected one such as 3\/16/, 2)
    await refused([...evaluate, '--shard', '1/5', '-o', at('n.json')], /--shard: 7 images are 4 batches of 2, too few/)
    await refused(shard(2), /b-2-of-3\.json is there already: --overwrite replaces it/, 2)
    await ok(...shard(2, '--overwrite'))
    assert.ok(!readdirSync(folder).some((name) => name.startsWith('n-')))
  })
})
