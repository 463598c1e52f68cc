// Fetches the Noto emoji (64x64 PNGs, Apache-2.0) of the npm package emoji-datasource-google into data/emoji, which git ignores.
// Usage: node scripts/fetch-emoji.mjs
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const packageName = 'emoji-datasource-google@16.0.0'
const images = 'package/img/google/64'
const data = fileURLToPath(new URL('../data', import.meta.url))
const target = path.join(data, 'emoji')

if (existsSync(target)) {
  console.log(`${target} is there already`)
  process.exit(0)
}
mkdirSync(data, { recursive: true })
const temporary = mkdtempSync(path.join(data, '.fetch-')) // beside the target, so that the last rename is atomic
try {
  const options = {
    cwd: temporary,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    shell: process.platform === 'win32',
  }
  const [{ filename }] = JSON.parse(execFileSync('npm', ['pack', packageName, '--json'], options))
  mkdirSync(path.join(temporary, 'unpacked'))
  execFileSync('tar', ['-xzf', filename, '-C', 'unpacked', images], options)
  renameSync(path.join(temporary, 'unpacked', images), target)
} finally {
  rmSync(temporary, { recursive: true, force: true })
}
console.log(`${readdirSync(target).length} images in ${target}`)
