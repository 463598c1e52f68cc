// What check:package takes for an addon that does not load everywhere.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const root = path.join(__dirname, '..', '..', '..')

describe('symbols of a library', () => {
  it('that are newer than those of glibc 2.28 are named', async function () {
    const { header } = process.report.getReport() as { header?: { glibcVersionRuntime?: string } }
    if (!header?.glibcVersionRuntime) {
      console.log('      skipped: only glibc has versions of symbols')
      this.skip()
    }
    const { tooNew } = await import(pathToFileURL(path.join(root, 'scripts', 'symbol-versions.mjs')).href)
    const folder = mkdtempSync(path.join(tmpdir(), 'ddpm-symbols-'))
    const compiled = (body: string) => {
      const [source, library] = ['f.c', 'f.so'].map((name) => path.join(folder, name))
      writeFileSync(source, body)
      execFileSync('cc', ['-shared', '-fPIC', '-o', library, source])
      return tooNew(library)
    }
    try {
      const stat = 'int stat(const char*, void*);\nint f(void* s) { return stat("/", s); }\n' // 2.33; was __xstat before
      assert.deepEqual(compiled(stat), ['stat@GLIBC_2.33'])
      assert.deepEqual(compiled('int puts(const char*);\nint f() { return puts("f"); }\n'), [])
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})
