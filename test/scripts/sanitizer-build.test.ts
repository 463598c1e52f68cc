// What `npm run test:sanitize` takes for a finding.
import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const root = path.join(__dirname, '..', '..', '..')
const script = path.join(root, 'scripts', 'sanitizer-build.mjs')

describe('test:sanitize', () => {
  it('counts what the sanitizers wrote, and anything else that they wrote as one', async () => {
    const { readReports } = await import(pathToFileURL(script).href)
    const folder = mkdtempSync(path.join(tmpdir(), 'ddpm-reports-'))
    try {
      assert.deepEqual(readReports(folder), [])
      const race = (name: string) =>
        `==================\nWARNING: ThreadSanitizer: data race (pid=1)\n  ${name}\n==================\n`
      writeFileSync(path.join(folder, 'tsan.1'), race('first') + race('second'))
      writeFileSync(
        path.join(folder, 'asan.2'),
        '=================\n==2==ERROR: AddressSanitizer: heap-use-after-free\n',
      )
      writeFileSync(
        path.join(folder, 'asan.3'),
        'a.cpp:1:2: runtime error: nan is outside the range\n    #0 f a.cpp:1\n',
      )
      writeFileSync(path.join(folder, 'tsan.4'), 'ThreadSanitizer: CHECK failed: tsan_clock.cpp:572\n')
      writeFileSync(path.join(folder, 'tsan.5'), '')
      const findings: string[] = readReports(folder)
      assert.equal(findings.length, 5)
      for (const word of ['first', 'second', 'use-after-free', 'nan', 'CHECK']) {
        assert.equal(findings.filter((finding) => finding.includes(word)).length, 1, word)
      }
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it('suppresses nothing of this project', () => {
    const text = readFileSync(path.join(root, 'test', 'sanitize', 'tsan.supp'), 'utf8')
    const rules = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
    // Wider ones would match frames of Node below the addon's.
    for (const rule of rules)
      assert.match(rule, /^race:(v8::platform::\w+|v8::internal::\w+::\w+|node::worker::\w+::\w+|uv_\w+)/)
  })
})
