// Fetches the Noto emoji (64x64 PNGs, Apache-2.0) of the npm package emoji-datasource-google into data/emoji, which git ignores:
// a folder for each category of its emoji.json, and metadata.jsonl with what each picture is called: its names there and in the
// npm package unicode-emoji-json (MIT). The variants in other skin tones, half of all files, are left out.
// Usage: node scripts/fetch-emoji.mjs
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { emojiCaptions } from './emoji/captions.mjs'

const pictures = 'emoji-datasource-google@16.0.0'
const names = 'unicode-emoji-json@0.8.0'
const images = 'package/img/google/64'
const table = 'package/emoji.json'
const nameTable = 'package/data-by-emoji.json'
const data = fileURLToPath(new URL('../data', import.meta.url))
const target = path.join(data, 'emoji')

if (existsSync(path.join(target, 'metadata.jsonl'))) {
  console.log(`${target} is there already`)
  process.exit(0)
}
mkdirSync(data, { recursive: true })
const temporary = mkdtempSync(path.join(data, '.fetch-')) // beside the target, so that the last rename is atomic
try {
  fetch(pictures, [images, table])
  fetch(names, [nameTable])
  const read = (name) => JSON.parse(readFileSync(path.join(temporary, name), 'utf8'))
  // 'Component' is five swatches of skin.
  const wanted = read(table).filter((e) => e.has_img_google && e.category !== 'Component')
  const lines = []
  for (const [i, text] of emojiCaptions(wanted, read(nameTable)).entries()) {
    const { category, image } = wanted[i]
    const folder = path.join(temporary, 'emoji', category)
    mkdirSync(folder, { recursive: true })
    renameSync(path.join(temporary, images, image), path.join(folder, image))
    lines.push(JSON.stringify({ file_name: `${category}/${image}`, text }))
  }
  writeFileSync(path.join(temporary, 'emoji/metadata.jsonl'), `${lines.join('\n')}\n`)
  rmSync(target, { recursive: true, force: true }) // fetched before its names were
  renameSync(path.join(temporary, 'emoji'), target)
  console.log(`${wanted.length} images in ${target}`)
} finally {
  rmSync(temporary, { recursive: true, force: true })
}

function fetch(name, files) {
  const options = {
    cwd: temporary,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    shell: process.platform === 'win32',
  }
  const [{ filename }] = JSON.parse(execFileSync('npm', ['pack', name, '--json'], options))
  execFileSync('tar', ['-xzf', filename, ...files], options)
}
