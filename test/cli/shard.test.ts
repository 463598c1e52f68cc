// Shards are drawn by processes that know nothing of one another, and put together they have the bytes of one process.
import assert from 'node:assert/strict'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import { mergeParts, openParts } from '../../lib/data/parts/merge-parts'
import { readPart } from '../../lib/data/parts/part-file'
import { ended, runCli, startCli, temporaryFolder, tinyFlags, writeImages } from '../train/support'

describe('ddpm sample --shard', function () {
  this.timeout(60_000)
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const sample = ['sample', '--checkpoint', at('run'), '--device', 'cpu', '--batch', '2', '--count', '11']
  const ok = async (args: string[], env?: Record<string, string>) => {
    const { code, stderr, stdout } = await runCli(args, env)
    assert.equal(code, 0, stderr)
    return { stderr, stdout }
  }
  const refused = async (args: string[], pattern: RegExp, expected = 1, env: Record<string, string> = {}) => {
    const { code, stderr } = await runCli(args, env)
    assert.match(stderr, pattern)
    assert.equal(code, expected)
    return stderr
  }
  const partsOf = (name: string) => [1, 2, 3].map((k) => at(`${name}-${k}-of-3.npz`))
  const same = (a: string, b: string) => assert.ok(readFileSync(a).equals(readFileSync(b)), `${a} is not ${b}`)

  before(async () => {
    for (const name of ['cat', 'dog', 'owl']) await writeImages(at('images', name), 2)
    await ok(['train', at('images'), '--out', at('run'), ...tinyFlags, '--steps', '1', '--classes', 'folders'])
    await ok([...sample, '--npz', at('whole.npz'), '--separate', at('whole')])
    const draw = (shard: string) => ok([...sample, '--npz', at('s.npz'), '--separate', at('s'), '--shard', shard])
    await Promise.all(['1/3', '2/3', '3/3'].map(draw)) // in one folder at the same time
  })

  it('draws parts that merge puts together to the bytes of one process', async () => {
    const [a, b, c] = partsOf('s')
    const { stdout } = await ok(['merge', c, a, b, '--out', at('merged.npz')])
    assert.equal(stdout, `11 images of 3 parts: ${at('merged.npz')}\n`)
    same(at('merged.npz'), at('whole.npz'))
    const { stdout: events } = await ok(['merge', a, b, c, '--out', at('merged.npz'), '--json'])
    const done = JSON.parse(events.trim().split('\n').at(-1)!)
    assert.deepEqual(done, { event: 'done', count: 11, parts: 3, file: at('merged-1.npz') })
  })

  it('writes the images of all shards into one folder', () => {
    assert.deepEqual(readdirSync(at('s')), readdirSync(at('whole')))
    for (const file of readdirSync(at('s'))) same(at('s', file), at('whole', file))
  })

  it('draws images that begin elsewhere, by the environment', async () => {
    const from = [...sample, '--first', '5', '--class', 'owl,cat', '--seed', '3']
    await ok([...from, '--npz', at('f-whole.npz')])
    const slurm = { SLURM_ARRAY_TASK_COUNT: '3', SLURM_ARRAY_TASK_MIN: '0', SLURM_ARRAY_TASK_MAX: '2' }
    for (const id of ['0', '1'])
      await ok([...from, '--npz', at('f.npz'), '--shard', 'auto'], { ...slurm, SLURM_ARRAY_TASK_ID: id })
    await ok([...from, '--npz', at('f.npz'), '--shard', 'auto/3'], { JOB_COMPLETION_INDEX: '2' })
    await ok(['merge', ...partsOf('f'), '--out', at('f.npz')])
    same(at('f.npz'), at('f-whole.npz'))
  })

  it('goes on with a shard that was killed', async () => {
    const long = [...sample, '--count', '120', '--steps', '5']
    const npz = ['--npz', at('k.npz')]
    const second = [...long, ...npz, '--separate', at('k'), '--shard', '2/3', '--resume']
    const child = startCli(second)
    const pictures = () => readdirSync(at('k')).filter((file) => file.endsWith('.png'))
    const timer = setInterval(() => existsSync(at('k')) && pictures().length >= 2 && child.kill('SIGKILL'), 5)
    const { signal } = await ended(child).finally(() => clearInterval(timer))
    assert.equal(signal, 'SIGKILL')
    assert.ok(pictures().length < 40)
    assert.ok(existsSync(at('k-2-of-3.npz.partial')) && existsSync(at('k', '.ddpm-sample-2-of-3.json')))
    await refused(second.slice(0, -1), /k is there already: --resume goes on/, 2)
    await refused([...second, '--count', '119'], /--count was '120' for the images in .* can't become '119'/)
    const beside = (...args: string[]) => [...long, '--separate', at('k'), '--shard', ...args]
    await refused(beside('1/4'), /k has images of shards of 3 \(\.ddpm-sample-2-of-3\.json\), and not of 4/)
    await refused(beside('1/3', '--seed', '1'), /--seed was '' for the images in/)

    writeFileSync(at('k', '.ddpm-sample.json'), '{}')
    await refused(beside('1/3'), /k has images of a sampling without shards, which is not done/)
    rmSync(at('k', '.ddpm-sample.json'))

    await ok(second)
    await Promise.all(['1/3', '3/3'].map((shard) => ok([...long, ...npz, '--shard', shard])))
    await ok([...long, '--npz', at('k-whole.npz')])
    await ok(['merge', ...partsOf('k'), '--out', at('k.npz')])
    same(at('k.npz'), at('k-whole.npz'))
    await ok([...long, '--separate', at('k2'), '--shard', '2/3'])
    assert.deepEqual(readdirSync(at('k')), readdirSync(at('k2')))
    for (const file of pictures()) same(at('k', file), at('k2', file))
    // A part that is there is taken for what it says that it is.
    assert.match((await ok(second)).stdout, /^40 images \(40 of them before\)/)
    const other = [...long, ...npz, '--shard', '2/3', '--resume', '--seed', '1']
    await refused(other, /--seed was '' for the images in .*k-2-of-3\.npz/)
  })

  it('begins a part again whose file was made and not written', async () => {
    writeFileSync(at('e-1-of-3.npz.partial'), '')
    await ok([...sample, '--npz', at('e.npz'), '--shard', '1/3', '--resume'])
    same(at('e-1-of-3.npz'), partsOf('s')[0])
  })

  it('refuses a shard before anything is loaded', async () => {
    const npz = ['--npz', at('none.npz')]
    const cases: [RegExp, ...string[]][] = [
      [/--shard: expected one such as 3\/16, .*\(they are counted from 1\), got '0\/3'/, ...npz, '--shard', '0/3'],
      [/--shard: 11 images are 6 batches of 2, too few for 7 shards: batches of at most 1/, ...npz, '--shard', '1/7'],
      [/--shard: auto: neither SLURM_ARRAY_TASK_ID/, ...npz, '--shard', 'auto'],
      [/--shard goes with --separate or --npz/, '--shard', '1/3'],
      [/--output goes without --shard/, ...npz, '--shard', '1/3', '-o', at('none.png')],
      [/--preview goes without --shard/, ...npz, '--shard', '1/3', '--preview', at('none.png')],
    ]
    for (const [pattern, ...args] of cases) {
      // There is no such model, which nobody notices.
      const stderr = await refused([...sample, '--checkpoint', at('nowhere'), ...args], pattern, 2)
      assert.doesNotMatch(stderr, /nowhere/)
    }
    assert.ok(!readdirSync(folder).some((name) => name.startsWith('none')))
  })

  describe('ddpm merge', () => {
    const out = at('out', 'bad.npz')
    before(() => mkdirSync(at('out')))
    afterEach(() => assert.deepEqual(readdirSync(at('out')), []))
    /** As the command does. */
    const refusedParts = (files: string[], pattern: RegExp) =>
      assert.rejects(async () => mergeParts(await openParts(files), out), pattern)

    it('names what is missing, and what is there twice', async () => {
      const [a, b, c] = partsOf('s')
      await refused(['merge', a, c, '--out', out], /^ddpm merge: 1 of 3 shards is missing: .*s-2-of-3\.npz$/m)
      await refusedParts([b], /2 of 3 shards are missing: .*s-1-of-3\.npz, .*s-3-of-3\.npz$/)
      copyFileSync(b, at('copy.npz'))
      await refusedParts([a, b, at('copy.npz'), c], /shard 2 of 3 is there twice: .*s-2-of-3\.npz and .*copy\.npz$/)
      await refusedParts([a, at('s-9.npz')], /s-9\.npz does not exist/)
    })

    it('refuses parts of other samplings', async () => {
      const [a, b, c] = partsOf('s')
      const others = { seed: ['--seed', '1'], weights: ['--no-ema'], count: ['--count', '12'] }
      for (const [name, args] of Object.entries(others))
        await ok([...sample, '--npz', at(`${name}.npz`), '--shard', '3/3', ...args])
      await refusedParts(
        [a, b, partsOf('seed')[2]],
        /seed-3-of-3\.npz and .*s-1-of-3.npz are not parts of one whole: seed is '1' of the one, and '' /,
      )
      await refusedParts([a, b, partsOf('weights')[2]], /not parts of one whole: they are of two models$/)
      await refusedParts([a, b, partsOf('count')[2]], /count is '12' of the one, and '11' of the other$/)
      await ok([...sample, '--npz', at('four.npz'), '--shard', '4/4'])
      await refusedParts(
        [a, b, c, at('four-4-of-4.npz')],
        /s-1-of-3\.npz is shard 1 of 3, and .*four-4-of-4\.npz 4 of 4/,
      )
      await refusedParts([a, b, at('whole.npz')], /whole\.npz is not a part .*: it has no array 'part'/)
    })

    it('refuses damaged parts', async () => {
      const [a, b, c] = partsOf('s')
      const damaged = at('damaged.npz')
      const bytes = readFileSync(b)
      const images = bytes.indexOf('NUMPY') + 122 // .npy's headers are of 128 bytes
      for (const place of [images, images + 300, bytes.lastIndexOf('"device"')]) {
        writeFileSync(damaged, bytes.with(place, bytes[place] ^ 1))
        await refusedParts([a, damaged, c], /damaged\.npz.*(is damaged|is not a part)/)
      }
      copyFileSync(b, damaged)
      truncateSync(damaged, bytes.length - 100)
      await refusedParts([a, damaged, c], /damaged\.npz is not a part .*: it has no zip directory: it is truncated/)
      writeFileSync(damaged, 'PK')
      await refusedParts([a, damaged, c], /damaged\.npz is not a part/)
    })

    it('refuses wrong use', async () => {
      await refused(['merge', '--out', at('x.npz')], /the parts are missing/, 2)
      await refused(['merge', ...partsOf('s')], /--out <file> is missing/, 2)
    })

    it('tells of parts from other devices', async () => {
      const env = { DDPM_CPU_ISA: 'portable' }
      mkdirSync(at('isa'))
      await ok([...sample, '--npz', at('isa', 's.npz'), '--shard', '3/3'], env)
      const [a, b] = partsOf('s')
      const { stderr } = await ok(['merge', a, b, at('isa', 's-3-of-3.npz'), '--out', at('isa.npz')])
      const { device } = await readPart(a)
      if (device === 'cpu, portable') return assert.equal(stderr, '')
      assert.match(stderr, /^warning: the parts were computed by different devices \(cpu, \w+; cpu, portable\)/)
    })
  })
})
