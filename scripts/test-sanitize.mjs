// npm run test:sanitize: the tests of ops, the addon and the API, with everything compiled for AddressSanitizer and
// UndefinedBehaviorSanitizer (asan), and again for ThreadSanitizer (tsan); then the fuzzers for a short while (fuzz).
// Options: --only asan|tsan|fuzz, --isa NAME|all (of the CPU's kernels; default: the machine's best), --grep TITLE,
// --minutes N (of the fuzzers altogether, default 4).
import { spawn, spawnSync } from 'node:child_process'
import { createWriteStream, existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { buildSanitized, probe, readReports, sanitizedEnvironment, sanitizers } from './sanitizer-build.mjs'

const root = path.join(import.meta.dirname, '..')
const require = createRequire(import.meta.url)
const mocha = require.resolve('mocha/bin/mocha.js')
const stressSeconds = 8
/** On cuda-host, where threads of a GPU are emulated. */
const slowScenes = { asan: ['evictions'], tsan: ['evictions', 'several models'] }
const allIsas = ['portable', 'avx2', 'avx512']
const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    isa: { type: 'string' },
    grep: { type: 'string' },
    minutes: { type: 'string', default: '4' },
  },
})
const parts = ['asan', 'tsan', 'fuzz']
if (values.only !== undefined && !parts.includes(values.only)) fail(`--only is one of ${parts.join(', ')}`)
if (values.isa !== undefined && ![...allIsas, 'all'].includes(values.isa)) fail(`--isa is all, ${allIsas.join(', ')}`)

function fail(problem) {
  console.error(`test:sanitize: ${problem}`)
  process.exit(1)
}

if (!existsSync(path.join(root, 'dist', 'test'))) fail('dist/test is missing; npm run build:ts makes it')

const rows = []
const seconds = (start) => Math.round((performance.now() - start) / 1000)

function addRow(row, start) {
  const fine = row.run === row.passed && row.findings === 0 && (row.run > 0 || values.grep !== undefined)
  rows.push({ ...row, result: fine ? 'passed' : 'FAILED', seconds: seconds(start) })
}

/** Runs mocha; its output goes to a log and, where it fails, to the terminal. */
function runMocha(env, specs, log) {
  const args = ['--no-config', '--timeout', '0', '--require', path.join(root, 'test', 'sanitize', 'left-out.cjs')]
  if (values.grep !== undefined) args.push('--grep', values.grep)
  const child = spawn(process.execPath, [mocha, ...args, ...specs], { cwd: root, env })
  const file = createWriteStream(log)
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      output += chunk
      file.write(chunk)
    })
  }
  return new Promise((resolve) => child.on('close', (code, signal) => resolve({ code, signal, output })))
}

const specsOf = (...folders) => folders.map((folder) => `dist/test/${folder}/**/*.test.js`)
const count = (output, word) => Number(new RegExp(`^ *(\\d+) ${word}`, 'm').exec(output)?.[1] ?? 0)

async function runTests(name, build, isa, what, specs) {
  const start = performance.now()
  const reports = path.join(build.folder, 'reports')
  const env = { ...sanitizedEnvironment(name, build, reports), DDPM_CPU_ISA: isa, DDPM_SANITIZER: name }
  // cuda-host computes on one thread; what others do meanwhile is in the tests of native and api, and in the stress.
  if (name === 'tsan' && what === 'ops') env.DDPM_TEST_DEVICE = 'cpu'
  probe(env, reports)
  const log = path.join(build.folder, `${what}-${isa}.log`)
  const { code, signal, output } = await runMocha(env, specs, log)
  const findings = readReports(reports)
  for (const finding of findings.slice(0, 10)) console.log(finding)
  const [passed, failed, leftOut] = ['passing', 'failing', 'pending'].map((word) => count(output, word))
  const fine = code === 0 && findings.length === 0
  if (!fine)
    console.log(`${output.split('\n').slice(-60).join('\n')}\n${name}: ${signal ?? `exit code ${code}`}; ${log}`)
  // A process that died has run fewer tests than there are.
  const run = passed + failed + (code !== 0 && failed === 0 ? 1 : 0)
  addRow({ build: name, isa, tests: what, run, passed, 'left out': leftOut, findings: findings.length }, start)
}

/** Workers, aborts, disposals, evictions: a process for each scene of the attack's stress on each backend. */
function runStress(name, build, isa) {
  const start = performance.now()
  const reports = path.join(build.folder, 'reports')
  const env = { ...sanitizedEnvironment(name, build, reports), DDPM_CPU_ISA: isa }
  const stress = path.join(root, 'dist', 'test', 'attack', 'stress')
  const { scenes, backends } = require(`${stress}.js`)
  const failures = []
  let [run, leftOut] = [0, 0]
  for (const backend of backends) {
    for (const scene of scenes) {
      if (backend === 'cuda-host' && slowScenes[name].includes(scene)) {
        console.log(`left out: ${scene}, ${backend}: minutes an iteration; what it is about is the same on cpu`)
        leftOut++
        continue
      }
      run++
      const args = ['--expose-gc', `${stress}-child.js`, scene, backend, String(stressSeconds), '1']
      const { status, signal, stderr } = spawnSync(process.execPath, args, { cwd: root, env, encoding: 'utf8' })
      if (status !== 0) failures.push(`${scene}, ${backend}: ${signal ?? `exit code ${status}`} ${stderr.slice(-2000)}`)
    }
  }
  const findings = readReports(reports)
  for (const text of [...findings.slice(0, 10), ...failures]) console.log(text)
  const passed = run - failures.length
  addRow({ build: name, isa, tests: 'stress', run, passed, 'left out': leftOut, findings: findings.length }, start)
}

/** The instruction sets to test, the machine's best first; only those that it has. */
function isasOf(name, build) {
  const reports = path.join(build.folder, 'reports')
  const code = "process.stdout.write(require('./dist/lib/device.js').Device.open('cpu').info().isa)"
  const opened = (isa) => {
    const env = { ...sanitizedEnvironment(name, build, reports), ...(isa && { DDPM_CPU_ISA: isa }) }
    const { status, stdout, stderr } = spawnSync(process.execPath, ['-e', code], { cwd: root, env, encoding: 'utf8' })
    return { isa: status === 0 ? stdout : undefined, why: stderr }
  }
  const best = opened(undefined)
  if (best.isa === undefined) throw new Error(`no device of the CPU: ${best.why}`)
  if (values.isa === undefined) return [best.isa]
  const wanted = values.isa === 'all' ? [best.isa, ...allIsas.filter((isa) => isa !== best.isa)] : [values.isa]
  return wanted.filter((isa) => {
    if (opened(isa).isa === isa) return true
    if (values.isa === isa) throw new Error(`this machine has no ${isa}`)
    console.log(`${isa}: not tested, this machine does not have it`)
    return false
  })
}

async function runSanitizer(name) {
  const start = performance.now()
  console.log(`\n== ${name}: build with -fsanitize=${sanitizers[name].kind}`)
  const build = buildSanitized(name)
  probe(sanitizedEnvironment(name, build, path.join(build.folder, 'reports')), path.join(build.folder, 'reports'))
  console.log(`built in ${seconds(start)} s`)
  const [first, ...others] = isasOf(name, build)
  for (const folder of ['native', 'api', 'ops']) {
    console.log(`\n== ${name}: tests of ${folder} (${first})`)
    await runTests(name, build, first, folder, specsOf(folder))
  }
  console.log(`\n== ${name}: stress (${first})`)
  if (values.grep === undefined) runStress(name, build, first)
  // Only the kernels differ.
  for (const isa of others) {
    console.log(`\n== ${name}: tests of ops (${isa})`)
    await runTests(name, build, isa, 'ops', specsOf('ops'))
  }
}

function runFuzzers() {
  const start = performance.now()
  console.log('\n== fuzz')
  const args = [path.join(import.meta.dirname, 'fuzz.mjs'), '--minutes', values.minutes]
  const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' })
  rows.push({ build: 'fuzz', result: status === 0 ? 'passed' : 'FAILED', seconds: seconds(start) })
}

for (const part of parts) {
  if (values.only !== undefined && part !== values.only) continue
  try {
    if (part === 'fuzz') runFuzzers()
    else await runSanitizer(part)
  } catch (error) {
    console.error(`${part}: ${error.message}`)
    rows.push({ build: part, result: 'FAILED' })
  }
}
console.table(rows)
process.exit(rows.every(({ result }) => result === 'passed') ? 0 : 1)
