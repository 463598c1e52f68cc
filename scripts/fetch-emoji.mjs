// Fetches the Noto emoji (64x64 PNGs, Apache-2.0) of the npm package emoji-datasource-google into data/emoji, which git ignores:
// a folder for each category of its emoji.json. The variants in other skin tones, half of all files, are left out.
// Usage: node scripts/fetch-emoji.mjs
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const packageName = 'emoji-datasource-google@16.0.0'
const images = 'package/img/google/64'
const table = 'package/emoji.json'
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
  execFileSync('tar', ['-xzf', filename, images, table], options)
  const emoji = JSON.parse(readFileSync(path.join(temporary, table), 'utf8'))
  // 'Component' is five swatches of skin.
  const wanted = emoji.filter((e) => e.has_img_google && e.category !== 'Component')
  for (const { category, image } of wanted) {
    const folder = path.join(temporary, 'emoji', category)
    mkdirSync(folder, { recursive: true })
    renameSync(path.join(temporary, images, image), path.join(folder, image))
  }
  renameSync(path.join(temporary, 'emoji'), target)
  console.log(`${wanted.length} images in ${target}`)
} finally {
  rmSync(temporary, { recursive: true, force: true })
}
