// npm run fuzz: fuzzers guided by coverage. The graph compiler by libFuzzer under AddressSanitizer (needs clang 16 or later),
// every reader of files by test/fuzz/guided.ts (needs nothing). Options: --minutes N altogether (default 10), --only graph or
// a reader's name, --seed N, --save (what the readers' fuzzing found becomes their corpus in test/fuzz/corpus).
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import os from 'node:os'
import path from 'node:path'
import { parseArgs } from 'node:util'

const root = path.join(import.meta.dirname, '..')
const guided = path.join(root, 'dist', 'test', 'fuzz', 'guided.js')
const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    only: { type: 'string' },
    seed: { type: 'string', default: String(Date.now() % 2 ** 31) },
    save: { type: 'boolean', default: false },
  },
})

function fail(problem) {
  console.error(`fuzz: ${problem}`)
  process.exit(1)
}

const seconds = 60 * Number(values.minutes)
if (!(seconds > 0)) fail(`--minutes ${values.minutes} is not a number above 0`)
if (!existsSync(guided)) fail('dist/test/fuzz/guided.js is missing; npm run build:ts makes it')
const { readers } = createRequire(import.meta.url)(path.join(root, 'dist', 'test', 'fuzz', 'readers.js'))
const all = ['graph', ...Object.keys(readers)]
if (values.only !== undefined && !all.includes(values.only)) fail(`--only is one of ${all.join(', ')}`)
const chosen = values.only === undefined ? all : [values.only]

// ---- the graph compiler -----------------------------------------------------------------------------------------------

/** The newest clang++ that has std::source_location, which cuda-host uses. */
function findClang() {
  const names = process.env.CXX ? [process.env.CXX] : [21, 20, 19, 18, 17, 16].map((version) => `clang++-${version}`)
  for (const name of [...names, ...(process.env.CXX ? [] : ['clang++'])]) {
    const { stdout, error } = spawnSync(name, ['-dM', '-E', '-x', 'c++', os.devNull], { encoding: 'utf8' })
    if (!error && Number(/__clang_major__ (\d+)/.exec(stdout)?.[1] ?? 0) >= 16) return name
  }
  throw new Error(
    `${names.join(', ')}: none is clang 16 or later. On Debian: apt-get install clang-19 libclang-rt-19-dev`,
  )
}

function run(command, args, options = {}) {
  const { status, signal, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options })
  if (error) throw new Error(`${command}: ${error.message}`)
  if (status !== 0) throw new Error(`${path.basename(command)} ended with ${signal ?? `exit code ${status}`}`)
}

function buildGraphFuzzer() {
  const clang = findClang()
  const folder = path.join(root, 'build-fuzz')
  const release = path.join(folder, 'Release')
  run('cmake', [
    ...['-S', root, '-B', folder, '--log-level=WARNING', `-DCMAKE_CXX_COMPILER=${clang}`],
    ...['-DDDPM_SANITIZE=address', '-DDDPM_FUZZ=ON', `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${release}`],
  ])
  const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? String(os.availableParallelism())
  const targets = ['graph_fuzzer', 'ddpm_reference', 'ddpm_cuda-host']
  const built = spawnSync('cmake', ['--build', folder, '--target', ...targets, '--parallel', jobs], {
    encoding: 'utf8',
  })
  if (built.status !== 0) throw new Error(`the build in ${folder} failed\n${built.stderr}`)
  const symbolizer = `/usr/bin/llvm-symbolizer${/-\d+$/.exec(clang)?.[0] ?? ''}`
  return { folder, fuzzer: path.join(release, 'graph_fuzzer'), symbolizer }
}

function fuzzGraph(share) {
  const { folder, fuzzer, symbolizer } = buildGraphFuzzer()
  const corpus = path.join(folder, 'corpus')
  mkdirSync(corpus, { recursive: true })
  run(
    fuzzer,
    [
      ...[corpus, `-max_total_time=${Math.ceil(share)}`, `-seed=${values.seed}`, '-timeout=60', '-rss_limit_mb=3000'],
      ...[
        '-max_len=512',
        '-len_control=0',
        '-print_final_stats=1',
        '-verbosity=0',
        '-print_funcs=0',
        `-artifact_prefix=${folder}/`,
      ],
    ],
    {
      env: {
        ...process.env,
        ASAN_OPTIONS: 'detect_leaks=0',
        UBSAN_OPTIONS: 'print_stacktrace=1',
        ...(existsSync(symbolizer) && { ASAN_SYMBOLIZER_PATH: symbolizer }),
      },
    },
  )
}

// ---- the readers --------------------------------------------------------------------------------------------------------

function fuzzReader(name, share) {
  const args = [guided, name, String(share), values.seed, ...(values.save ? ['--save'] : [])]
  const { status, signal, stdout } = spawnSync(process.execPath, args, {
    ...{ cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] },
  })
  if (status !== 0) throw new Error(`seed ${values.seed}: ${signal ?? `exit code ${status}`}`)
  return JSON.parse(stdout)
}

// ---------------------------------------------------------------------------------------------------------------------------

const rows = []
// The graph has more to be found than any reader.
const shares = chosen.map((name) => (name === 'graph' && chosen.length > 1 ? 4 : 1))
const unit = seconds / shares.reduce((a, b) => a + b, 0)
for (const [i, name] of chosen.entries()) {
  const share = unit * shares[i]
  try {
    if (name === 'graph') {
      fuzzGraph(share)
      rows.push({ name, result: 'passed' })
    } else rows.push({ ...fuzzReader(name, share), result: 'passed' })
  } catch (error) {
    console.error(`${name}: ${error.message}`)
    rows.push({ name, result: 'FAILED' })
  }
}
console.table(rows)
process.exit(rows.every(({ result }) => result === 'passed') ? 0 : 1)
