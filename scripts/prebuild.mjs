// Puts the addon that was built in this checkout where the published package expects it:
// prebuilds/<platform>-<arch>/ddpm-native[.glibc|.musl].node, without symbols. The libraries of the test backends stay out.
import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync } from 'node:fs'
import path from 'node:path'

const root = path.join(import.meta.dirname, '..')
const libc =
  process.platform !== 'linux' ? '' : process.report.getReport().header.glibcVersionRuntime ? '.glibc' : '.musl'
const folder = path.join(root, 'prebuilds', `${process.platform}-${process.arch}`)
const file = path.join(folder, `ddpm-native${libc}.node`)

mkdirSync(folder, { recursive: true })
copyFileSync(path.join(root, 'build', 'Release', 'ddpm_native.node'), file)
execFileSync('strip', process.platform === 'darwin' ? ['-x', file] : ['--strip-unneeded', file])
console.log(path.relative(root, file))
