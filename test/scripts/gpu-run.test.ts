// npm run gpu: which parts it has, and that each ends within its deadline, whatever it does.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const root = path.join(__dirname, '..', '..', '..')
const script = (name: string) => import(pathToFileURL(path.join(root, 'scripts', 'gpu', name)).href)

/** What a test that takes its device from DDPM_TEST_DEVICE calls. */
const takesDevice = /\b(testDevice|testedBackends|devicesWith|devicesOfFormat|testOp|goldenModel)\b/

describe('npm run gpu', () => {
  let folder: string
  before(() => {
    folder = mkdtempSync(path.join(tmpdir(), 'ddpm-gpu-run-'))
  })
  after(() => rmSync(folder, { recursive: true }))

  const run = async (code: string, seconds: number, signal?: AbortSignal) => {
    const { runPart } = await script('run-part.mjs')
    const log = path.join(folder, 'part.log')
    const part = { command: process.execPath, args: ['-e', code], seconds }
    return { ...(await runPart(part, { log, cwd: root, signal })), log: readFileSync(log, 'utf8') }
  }

  it('runs the tests of one device, all of them and no others', async () => {
    const { gpuTests, opTests } = await script('test-files.mjs')
    const found = ['ops', 'native', 'nn', 'stages', 'diffusion', 'autoencoder', 'evaluate', 'train'].flatMap(
      (folder) => {
        const files = readdirSync(path.join(root, 'test', folder), { recursive: true, encoding: 'utf8' })
        const names = files.filter((name) => name.endsWith('.test.ts'))
        return names.map((name) => ({
          name: `${folder}/${name.replace(/ts$/, 'js')}`,
          source: path.join(root, 'test', folder, name),
        }))
      },
    )
    // What they run in child processes is cuda-host, whatever the device.
    const own = ['cudnn', 'launches', 'tuning'].map((name) => `native/${name}.test.js`)
    const expected = found.filter(
      ({ name, source }) => !own.includes(name) && takesDevice.test(readFileSync(source, 'utf8')),
    )
    assert.deepEqual([...gpuTests].sort(), expected.map(({ name }) => `dist/test/${name}`).sort())
    assert.deepEqual(
      opTests,
      gpuTests.filter((file: string) => file.startsWith('dist/test/ops/')),
    )
  })

  it('gives mocha these files alone', async () => {
    const { gpuParts } = await script('parts.mjs')
    const { gpuTests } = await script('test-files.mjs')
    const parts = gpuParts({ quick: true, device: 'cuda', out: folder, sanitizer: { sanitizer: '/bin/sanitizer' } })
    const { command, args } = parts.find(({ name }: { name: string }) => name === 'tests')
    const { status, stdout, stderr } = spawnSync(command, [...args, '--dry-run', '--reporter', 'json'], {
      ...{ cwd: root, encoding: 'utf8', maxBuffer: 1 << 28, env: { ...process.env, DDPM_TEST_DEVICE: 'cuda-host' } },
    })
    assert.equal(status, 0, stderr)
    const { tests } = JSON.parse(stdout.slice(stdout.indexOf('{\n  "stats"'))) as { tests: { file: string }[] }
    const files = [...new Set(tests.map(({ file }) => path.relative(root, file)))]
    assert.deepEqual(files.sort(), [...gpuTests].sort())
  })

  it('--quick has deadlines of 8 minutes together, the smoke test first and the benchmark next', async () => {
    const { gpuParts } = await script('parts.mjs')
    const sanitizer = { sanitizer: '/bin/sanitizer' }
    const all = gpuParts({ quick: true, device: 'cuda', out: folder, sanitizer })
    const parts = all.filter(({ onRequest }: { onRequest?: boolean }) => !onRequest)
    const names = parts.map(({ name }: { name: string }) => name)
    assert.deepEqual(names, ['smoke', 'bench', 'tests', 'memcheck', 'racecheck'])
    const sum = parts.reduce((total: number, { seconds }: { seconds: number }) => total + seconds, 0)
    assert.ok(sum <= 480, `${sum} s`)
    // torch.compile has a part of its own, the last, which --quick leaves out.
    const { name, args, onRequest } = all.at(-1)
    assert.deepEqual([name, args.at(-1), onRequest], ['compiled', '--compiled', true])
    assert.equal(gpuParts({ quick: false, device: 'cuda', out: folder, sanitizer }).at(-1).onRequest, false)
    const without = gpuParts({ quick: true, device: 'cuda', out: folder, sanitizer: { why: 'looked for in vain' } })
    assert.match(without[3].missing, /looked for in vain/)
  })

  it('keeps what a part printed, and says how it ended', async () => {
    const good = await run('console.log("fine"); console.error("and well")', 60)
    assert.equal(good.outcome, 'passed')
    assert.match(good.log, /fine\n(.|\n)*and well/)
    const bad = await run('process.exit(7)', 60)
    assert.deepEqual([bad.outcome, bad.why, bad.exitCode], ['failed', 'exit code 7', 7])
    const crashed = await run('process.kill(process.pid, "SIGSEGV")', 60)
    assert.deepEqual([crashed.outcome, crashed.why], ['failed', 'ended by SIGSEGV'])
    const { runPart } = await script('run-part.mjs')
    const log = path.join(folder, 'none.log')
    const none = await runPart({ command: '/nowhere/node', args: [], seconds: 60 }, { log, cwd: root })
    assert.match(none.why, /ENOENT/)
  })

  it('ends a part that hangs, with all its children', async () => {
    // Neither listens to SIGTERM; the child of the child outlives its parent.
    const stubborn = 'process.on("SIGTERM", () => {}); setInterval(() => {}, 1000);'
    const code = `const { pid } = require('node:child_process').spawn(process.execPath, ['-e', '${stubborn.replaceAll("'", '"')}'], { stdio: 'inherit' }); console.log(pid); ${stubborn}`
    const { outcome, why, log } = await run(code, 1)
    assert.deepEqual([outcome, why], ['out of time', 'not done after 1 s'])
    const pid = Number(log.trim())
    for (let i = 0; i < 100 && isRunning(pid); i++) await new Promise((resolve) => setTimeout(resolve, 50))
    assert.equal(isRunning(pid), false, `process ${pid} is still there`)
  })

  it('ends a part when it is asked to', async () => {
    const stop = new AbortController()
    setTimeout(() => stop.abort(), 300)
    const { outcome, why } = await run('setInterval(() => {}, 1000)', 60, stop.signal)
    assert.deepEqual([outcome, why], ['failed', 'ended by SIGTERM'])
  })

  it('reports what ran, what did not, and why', async () => {
    const { gpuReport } = await script('report.mjs')
    const page = gpuReport({
      date: '2026-01-02T03:04:05.000Z',
      command: 'npm run gpu -- --quick',
      results: [
        { name: 'smoke', outcome: 'passed', why: '', seconds: 3.2, log: 'H200\nok silu\n' },
        {
          name: 'tests',
          outcome: 'failed',
          why: 'exit code 1',
          seconds: 60,
          log: '  12 passing (1m)\n  1 failing\n\nat x\n',
        },
        { name: 'memcheck', outcome: 'out of time', why: 'not done after 70 s', seconds: 73, log: 'one | two' },
        { name: 'racecheck', outcome: 'not run', why: 'there is no compute-sanitizer', log: '' },
      ],
    })
    for (const line of [
      '| smoke | passed | 3 | ok silu |',
      '| tests | failed | 60 | exit code 1; 12 passing (1m), 1 failing |',
      '| memcheck | out of time | 73 | not done after 70 s; one \\| two |',
      '| racecheck | not run |  | there is no compute-sanitizer |',
      "## The end of tests's log",
    ]) {
      assert.ok(page.includes(line), `${line}\n---\n${page}`)
    }
    assert.doesNotMatch(page, /end of (smoke|racecheck)/)
  })

  describe('with stand-ins for its parts', () => {
    const node = (name: string, code: string, more = {}) => ({
      ...{ name, seconds: 20, command: process.execPath, args: ['-e', code] },
      ...more,
    })
    const hangs = 'process.on("SIGTERM", () => {}); console.log("so far"); setInterval(() => {}, 1000)'
    const runAll = async (parts: { name: string }[], o: { wanted?: string[]; signal?: AbortSignal } = {}) => {
      const { runParts } = await script('run-parts.mjs')
      const { gpuReport } = await script('report.mjs')
      const pages: string[] = []
      const { results, absent } = await runParts(parts, {
        ...{ wanted: parts.map(({ name }) => name), device: 'cuda', logs: path.join(folder, 'logs'), cwd: root, ...o },
        onPart: (all: unknown[]) => pages.push(gpuReport({ date: '', command: '', results: all })),
      })
      const outcomes = results.map(({ name, outcome }: { name: string; outcome: string }) => [name, outcome])
      return { outcomes: Object.fromEntries(outcomes), absent, pages, page: pages.at(-1)! }
    }

    it('goes on whatever hangs, fails, crashes or is not there, and says so', async () => {
      const { outcomes, pages, page } = await runAll([
        node('smoke', 'console.log("ok silu")'),
        node('bench', hangs, { seconds: 1 }),
        node('tests', 'console.log("  12 passing"); console.log("  1 failing"); process.exit(1)'),
        node('crash', 'process.kill(process.pid, "SIGSEGV")'),
        { name: 'memcheck', missing: 'there is no compute-sanitizer: looked for in vain' } as { name: string },
        node('racecheck', 'console.log("no summary")', { accepts: () => false }),
        node('nothing', '', { command: '/nowhere/node' }),
        node('last', 'console.log("and the last")'),
      ])
      assert.deepEqual(outcomes, {
        ...{ smoke: 'passed', bench: 'out of time', tests: 'failed', crash: 'failed', memcheck: 'not run' },
        ...{ racecheck: 'failed', nothing: 'failed', last: 'passed' },
      })
      for (const line of [
        /^\| smoke \| passed \| \d+ \| ok silu \|$/m,
        /^\| bench \| out of time \| [1-9]\d* \| not done after 1 s; so far \|$/m,
        /^\| tests \| failed \| \d+ \| exit code 1; 12 passing, 1 failing \|$/m,
        /^\| crash \| failed \| \d+ \| ended by SIGSEGV; it printed nothing \|$/m,
        /^\| memcheck \| not run \| {2}\| there is no compute-sanitizer: looked for in vain \|$/m,
        /^\| racecheck \| failed \| \d+ \| it ended well, but not as it does when all is well; no summary \|$/m,
        /^\| nothing \| failed \| \d+ \| spawn \/nowhere\/node ENOENT; it printed nothing \|$/m,
        /^\| last \| passed \| \d+ \| and the last \|$/m,
      ])
        assert.match(page, line)
      assert.equal(pages.length, 8, 'a page after each part')
    })

    it('runs nothing more where there is no device, or when it is ended', async () => {
      const none = await runAll([node('smoke', 'process.exit(3)'), node('bench', hangs)])
      assert.deepEqual([none.outcomes.bench, none.absent], ['not run', 'there is no cuda'])
      assert.match(none.page, /\| bench \| not run \| {2}\| there is no cuda \|/)
      const stop = new AbortController()
      setTimeout(() => stop.abort(), 300)
      const { signal } = stop
      const ended = await runAll([node('smoke', hangs), node('bench', hangs)], { signal })
      assert.deepEqual(ended.outcomes, { smoke: 'failed', bench: 'not run' })
      assert.match(ended.page, /\| bench \| not run \| {2}\| the run was ended \|/)
    })

    it('runs what is asked for', async () => {
      const { outcomes, page } = await runAll([node('smoke', ''), node('bench', hangs)], { wanted: ['smoke'] })
      assert.deepEqual(outcomes, { smoke: 'passed', bench: 'not run' })
      assert.match(page, /\| bench \| not run \| {2}\| not asked for \|/)
    })
  })

  it('writes its page, and fails where a part has failed', () => {
    const out = path.join(folder, 'out')
    // Without bf16, which the smoke test says.
    const args = [path.join(root, 'scripts', 'gpu.mjs'), '--only', 'smoke', '--device', 'cpu', '--out', out]
    const env = { ...process.env, DDPM_CPU_BF16: 'off' }
    const { status, stdout } = spawnSync(process.execPath, args, { encoding: 'utf8', env })
    assert.equal(status, 1, stdout)
    const page = readFileSync(path.join(out, readdirSync(out).find((name) => name.endsWith('.md'))!), 'utf8')
    assert.match(
      page,
      /\| smoke \| failed \|(.|\n)*\| tests \| not run \| {2}\| not asked for \|(.|\n)*ok training, fp32/,
    )
    assert.match(page, /WRONG .*bf16/)
  })

  it('says what is missing where there is no GPU, and runs nothing', () => {
    const args = [path.join(root, 'scripts', 'gpu.mjs'), '--device', 'cuda:99', '--out', path.join(folder, 'none')]
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
    assert.equal(status, 1)
    assert.match(stderr, /^gpu needs a GPU\. .*cuda/)
    for (const name of ['bench', 'tests', 'racecheck']) assert.match(stdout, new RegExp(`${name}: not run \\(.*\\)`))
    assert.deepEqual(readdirSync(path.join(folder, 'none')), ['gpu-logs'])
  })

  it('compute-sanitizer is found, or it is said where it was looked for; its summaries are added up', async () => {
    const { findSanitizer, sanitizerSummary } = await script('compute-sanitizer.mjs')
    const found = findSanitizer({ PATH: '/nowhere' })
    assert.ok(found.sanitizer?.startsWith('/usr/local/cuda') || /neither in PATH/.test(found.why))
    const summary = (...lines: string[]) => sanitizerSummary(lines.join('\n')).errors
    assert.equal(summary('========= ERROR SUMMARY: 0 errors', '========= ERROR SUMMARY: 3 errors'), 3)
    assert.equal(summary('========= RACECHECK SUMMARY: 2 hazards displayed (1 error, 1 warning)'), 1)
    assert.equal(summary('nothing'), undefined)
  })
})

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch {
    return false
  }
}
