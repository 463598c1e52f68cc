/** `ddpm sample` and `ddpm evaluate` under a launcher: what one process makes, to the byte, in the same files. */
import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { UsageError } from '../../lib/cli/args'
import { checkAlone } from '../../lib/cli/evaluate'
import { checkTogether, placesOfAll } from '../../lib/cli/sample-together'
import { ranksOf, shareOf } from '../../lib/cli/together'
import { Ranks } from '../../lib/trainer/ranks'
import { writeInception } from '../support/inception-file'
import { runCli, temporaryFolder, tinyFlags, writeImages } from '../train/support'
import { endAll, launch, unlaunchable } from './launch'

describe('ddpm sample and ddpm evaluate by ranks', function () {
  this.timeout(120_000)
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const of = ['--checkpoint', at('run'), '--device', 'cpu', '--batch', '2']
  const sample = ['sample', ...of, '--count', '21']
  const evaluate = ['evaluate', at('images'), ...of]
  const one = async (...args: string[]) => {
    const { code, stderr, stdout } = await runCli(args)
    assert.equal(code, 0, stderr)
    return stdout
  }
  const run = (ranks: number, args: string[], env?: Record<string, string>) =>
    launch(ranks, 'command-child.js', args, env).ended
  const ok = async (...given: Parameters<typeof run>) => {
    const { code, output } = await run(...given)
    assert.equal(code, 0, output)
    return output
  }
  const refused = async (pattern: RegExp, ...given: Parameters<typeof run>) => {
    const { code, output } = await run(...given)
    assert.match(output, pattern)
    assert.notEqual(code, 0)
    return output
  }
  const three = Object.defineProperty(new Ranks(undefined), 'size', { value: 3 })
  const same = (a: string, b: string) => assert.ok(readFileSync(at(a)).equals(readFileSync(at(b))), `${a} is not ${b}`)
  const named = (start: string) => readdirSync(folder).filter((name) => name.startsWith(start))

  before(async function () {
    if (unlaunchable) {
      console.log(`      Skipped: ${unlaunchable}`)
      this.skip()
    }
    for (const name of ['cat', 'dog', 'owl']) await writeImages(at('images', name), 3)
    await one('train', at('images'), '--out', at('run'), ...tinyFlags, '--steps', '1', '--classes', 'folders')
    await Promise.all([
      one(...sample, '--npz', at('one.npz'), '--separate', at('one')),
      one(...evaluate, '--output', at('one.json')),
    ])
  })

  afterEach(endAll)

  it('draws together, and one of them tells', async () => {
    writeFileSync(at('three.npz'), 'another')
    const output = await ok(3, [...sample, '--npz', at('three.npz'), '--separate', at('three'), '--json'])
    same('three-1.npz', 'one.npz')
    assert.deepEqual(named('three'), ['three', 'three-1.npz', 'three.npz'])
    assert.equal(readFileSync(at('three.npz'), 'utf8'), 'another')
    assert.deepEqual(readdirSync(at('three')), readdirSync(at('one')))
    for (const file of readdirSync(at('one'))) same(path.join('three', file), path.join('one', file))
    const events = output.trim().split('\n')
    assert.equal(events.length, 2, output)
    const [warning, done] = events.map((line) => JSON.parse(line))
    assert.match(warning.message, /three\.npz was there already, and stays: this is .*three-1\.npz/)
    const files = [...readdirSync(at('one')).map((name) => at('three', name)), at('three-1.npz')]
    assert.deepEqual({ ...done, seconds: 0 }, { event: 'done', count: 21, seconds: 0, files })
  })

  it('keeps what was drawn where one is stopped, and goes on with as many', async () => {
    const two = [...sample, '--npz', at('two.npz'), '--separate', at('two')]
    const { code, output } = await run(2, two, { STOP_AT: at('two-2-of-2.npz.partial') })
    assert.notEqual(code, 0, output)
    assert.ok(existsSync(at('two-2-of-2.npz.partial')), output)
    assert.ok(!existsSync(at('two.npz')))
    const kept = named('two-')
    const others =
      /two-1-of-2\.npz(\.partial)? is of 2 processes or shards: --resume goes on with as many, and not with /
    const places = () => placesOfAll(three, { npz: at('two.npz'), resume: true }, { first: 0, count: 21 })
    await assert.rejects(places, others)
    const alone = await runCli([...sample, '--npz', at('two.npz'), '--resume'])
    assert.match(alone.stderr, others)
    assert.deepEqual(named('two-'), kept)
    assert.match(await ok(2, [...two, '--resume']), /^21 images \(\d+ of them before\) in [\d.]+ s: 22 files$/m)
    same('two.npz', 'one.npz')
    assert.deepEqual(named('two'), ['two', 'two.npz'])
    assert.deepEqual(readdirSync(at('two')), readdirSync(at('one')))
    assert.deepEqual(await places(), { npz: at('two.npz'), separate: undefined, isWhole: true })
  })

  it('tells by rank and name what one does otherwise, and draws nothing', async () => {
    const differing = [...sample, '--seed', '{rank}', '--npz', at('differ.npz')]
    await refused(/rank 1 has seed '1', rank 0 has '0'/, 2, differing)
    assert.deepEqual(named('differ'), [])
  })

  it('evaluates together', async () => {
    const output = await ok(3, [...evaluate, '--output', at('three.json')])
    same('three.json', 'one.json')
    assert.equal(output.match(/9 images: /g)?.length, 1, 'one of them tells')
  })

  it('draws together what is compared', async () => {
    await writeInception(at('inception.safetensors'))
    const own = ['evaluate', at('run'), '--fid', at('images'), '--inception', at('inception.safetensors')]
    const compared = [
      ...own,
      '--metrics',
      'fid,kid',
      '--count',
      '3',
      '--limit',
      '3',
      '--batch',
      '1',
      '--device',
      'cpu',
      '--steps',
      '3',
    ]
    const env = { DDPM_CACHE: at('cache') }
    await ok(1, [...compared, '--output', at('quality-1.json')], env)
    const output = await ok(2, [...compared, '--output', at('quality-2.json')], env)
    same('quality-2.json', 'quality-1.json')
    assert.equal(output.match(/FID {2}/g)?.length, 1, 'one of them tells')
  })

  it('refuses what is to be divided and can not be', () => {
    const usage = (message: RegExp) => (error: unknown) => error instanceof UsageError && message.test(error.message)
    assert.throws(() => checkTogether({}, 3), usage(/^3 processes draw together with --npz or --separate/))
    for (const name of ['output', 'preview', 'interpolate'])
      assert.throws(
        () => checkTogether({ npz: 'a.npz', [name]: 'b' }, 3),
        usage(new RegExp(`^--${name} goes with one`)),
      )
    const few = () => shareOf({ rank: 0, size: 3 }, { first: 0, count: 4 }, 2)
    assert.throws(few, usage(/^each of 3 processes has a shard: 4 images are 2 batches of 2, too few for 3 shards/))
    assert.throws(() => checkAlone(3), usage(/^--samples and --features are of one process, and there are 3/))
    assert.throws(() => ranksOf({ distributed: 'mpi', shard: '1/2' }), usage(/^--distributed mpi goes without --shard/))
  })
})
