// A build of the addon and its backends that a sanitizer of GCC watches, and the environment in which Node can load it.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import os from 'node:os'
import path from 'node:path'

const root = path.join(import.meta.dirname, '..')
const compiler = process.env.CXX ?? 'c++'
const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? String(os.availableParallelism())

/** `libraries` come before all others in the process; the C++ library with them, whose exceptions they watch. */
export const sanitizers = {
  asan: { kind: 'address', libraries: ['libasan.so', 'libubsan.so', 'libstdc++.so'] },
  tsan: { kind: 'thread', libraries: ['libtsan.so', 'libstdc++.so'] },
}

/** Why there can be no such build here; undefined where there can. */
function missing() {
  if (process.platform !== 'linux') return 'the sanitizers are loaded before Node by LD_PRELOAD, which is Linux only'
  const version = spawnSync(compiler, ['--version'], { encoding: 'utf8' })
  if (version.error) return `there is no compiler ${compiler}; on Debian: apt-get install g++`
  if (/clang/.test(version.stdout)) return `${compiler} is clang, whose sanitizers are linked otherwise; set CXX=g++`
  return undefined
}

function findLibrary(name) {
  const { stdout } = spawnSync(compiler, [`-print-file-name=${name}`], { encoding: 'utf8' })
  const file = stdout.trim()
  if (path.isAbsolute(file) && existsSync(file)) return file
  throw new Error(`${compiler} has no ${name}; on Debian it comes with g++ (libgcc-*-dev)`)
}

/** Builds into build-NAME. Throws where the compiler or a library is missing, or the build fails. */
export function buildSanitized(name) {
  const why = missing()
  if (why) throw new Error(why)
  const { kind, libraries } = sanitizers[name]
  const preload = libraries.map(findLibrary).join(':')
  const cmakeJs = createRequire(import.meta.url).resolve('cmake-js/bin/cmake-js')
  const folder = path.join(root, `build-${name}`)
  // node-gyp-build looks for build/Release in the folder that it is given.
  const args = ['build', '--log-level', 'error', '--parallel', jobs, '-O', path.join(folder, 'build')]
  const { status } = spawnSync(process.execPath, [cmakeJs, ...args, `--CDDDPM_SANITIZE=${kind}`], {
    ...{ cwd: root, stdio: ['ignore', 'ignore', 'inherit'] },
  })
  if (status !== 0) throw new Error(`the build in ${folder} failed`)
  return { folder, preload }
}

/** The environment of a run; what the sanitizers find, in children too, is written into `reports`. */
export function sanitizedEnvironment(name, { folder, preload }, reports) {
  rmSync(reports, { recursive: true, force: true })
  mkdirSync(reports, { recursive: true })
  const log = `log_path=${path.join(reports, name)}`
  const suppressions = `suppressions=${path.join(root, 'test', 'sanitize', 'tsan.supp')}`
  return {
    ...process.env,
    LD_PRELOAD: preload,
    DDPM_NATIVE_PREBUILD: folder,
    // Node leaves memory to the system when it ends; what does not fit is an error of the library's, not of the sanitizer's.
    // UBSan, a library of its own, writes to stderr only: it aborts, and ASan reports where.
    ASAN_OPTIONS: `detect_leaks=0:allocator_may_return_null=1:handle_segv=1:handle_abort=1:abort_on_error=1:${log}`,
    UBSAN_OPTIONS: `print_stacktrace=1:abort_on_error=1:${log}`,
    TSAN_OPTIONS: `halt_on_error=0:second_deadlock_stack=1:history_size=4:${suppressions}:${log}`,
  }
}

/** Fails with what the sanitizer says where Node does not start under it. */
export function probe(env, reports) {
  const { status, stderr } = spawnSync(process.execPath, ['-e', ''], { env, encoding: 'utf8' })
  if (status === 0) return
  const said = [stderr, ...readReports(reports)].join('\n').trim().slice(0, 2000)
  const hint = 'where it complains of the memory mapping: sudo sysctl vm.mmap_rnd_bits=28'
  throw new Error(`Node does not start with ${env.LD_PRELOAD}:\n${said}\n${hint}`)
}

/** What the sanitizers wrote, a text a finding. */
export function readReports(reports) {
  return readdirSync(reports).flatMap((file) => {
    const text = readFileSync(path.join(reports, file), 'utf8')
    const findings = text.split(/^(?==+\n(?:==\d+==ERROR|WARNING: ThreadSanitizer))|^(?=.*: runtime error: )/m)
    const known = findings.filter((part) => /ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error: /.test(part))
    return known.length > 0 || text === '' ? known : [text]
  })
}
