// The documents name files and npm scripts that are there.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'

const root = path.join(__dirname, '..', '..')
const read = (file: string) => readFileSync(path.join(root, file), 'utf8')
const skipped = ['build', 'dist', 'data', 'runs', 'prebuilds', 'docs/api/html']

/** Every document of the repository, and none of what is built, installed or downloaded. */
function documents(folder = ''): string[] {
  return readdirSync(path.join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const file = path.posix.join(folder, entry.name)
    if (entry.name.startsWith('.') || entry.name === 'node_modules' || skipped.includes(file)) return []
    if (entry.isDirectory()) return documents(file)
    return entry.name.endsWith('.md') ? [file] : []
  })
}

const fences = /^(```+)(\w*)[^\n]*\n([\s\S]*?)^\1/gm

/** Anchors of a document's headings, as GitHub makes them. */
function anchors(text: string): string[] {
  const headings = [...text.replace(fences, '').matchAll(/^#+\s+(.*)$/gm)]
  return headings.map(([, heading]) =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  )
}

describe('documents', () => {
  const all = documents()

  it('are found', () => {
    for (const file of ['README.md', 'CONTRIBUTING.md', 'docs/architecture.md']) assert.ok(all.includes(file), file)
  })

  it('of the package link to nothing that it has not got', () => {
    const listing = execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
      cwd: root,
      encoding: 'utf8',
    })
    const [{ files }] = Object.values<{ files: { path: string }[] }>(JSON.parse(listing))
    const packed = files.map(({ path }) => path)
    const texts = packed.filter((file) => file.endsWith('.md'))
    assert.ok(texts.includes('README.md') && texts.includes('docs/guide.md'))
    for (const file of texts) {
      for (const [, link] of read(file).matchAll(/\]\((?!https?:|mailto:|#)([^)#]+)[^)]*\)/g)) {
        const target = path.posix.join(path.posix.dirname(file), link).replace(/\/$/, '')
        assert.ok(
          packed.some((name) => name === target || name.startsWith(`${target}/`)),
          `${file} links to ${link}`,
        )
      }
    }
  }).timeout(20_000)

  for (const file of all) {
    it(`${file}: links lead somewhere`, () => {
      const text = read(file).replace(fences, '')
      for (const [, link] of text.matchAll(/\]\(\s*<?([^)\s>]+)>?[^)]*\)/g)) {
        if (/^[a-z]+:/i.test(link)) continue
        const [target, anchor] = link.split('#')
        const resolved = target === '' ? file : path.posix.join(path.posix.dirname(file), decodeURI(target))
        assert.ok(existsSync(path.join(root, resolved)), `${file} links to ${link}`)
        if (anchor) assert.ok(anchors(read(resolved)).includes(anchor), `${file} links to ${link}: no such heading`)
      }
    })

    it(`${file}: commands exist`, () => {
      const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> }
      for (const [, , language, body] of read(file).matchAll(fences)) {
        if (!['sh', 'bash', 'shell', ''].includes(language)) continue
        const named = [...body.matchAll(/\bnpm run ([\w:-]+)/g)].map(([, name]) => name)
        const short = [...body.matchAll(/\bnpm (start|test)\b/g)].map(([, name]) => name)
        for (const name of [...named, ...short]) assert.ok(name in scripts, `${file}: npm has no script '${name}'`)
        for (const [, script] of body.matchAll(/\bnode ([\w./-]+\.mjs)\b/g)) {
          assert.ok(existsSync(path.join(root, script)), `${file}: there is no ${script}`)
        }
      }
    })
  }
})
