// Formats the native sources, or with --check fails where one is not formatted.
import { execFileSync } from 'node:child_process'
import { createRequire } from 'node:module'

const check = process.argv.includes('--check')
const files = execFileSync('git', ['ls-files', '-co', '--exclude-standard', '*.h', '*.cpp', '*.cu', '*.cuh'], {
  encoding: 'utf8',
})
const { getNativeBinary } = createRequire(import.meta.url)('clang-format')
const list = files.split('\n').filter(Boolean)
if (list.length > 0) {
  execFileSync(getNativeBinary(), [...(check ? ['--dry-run', '-Werror'] : ['-i']), ...list], { stdio: 'inherit' })
}
