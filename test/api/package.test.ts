// `require` and `import` give the same classes.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import * as library from '../../lib/index'

describe('the ES module', () => {
  const folder = path.join(__dirname, '..', '..', 'lib')

  it('exports what the CommonJS module exports', async () => {
    const imported = await import(pathToFileURL(path.join(folder, 'index.mjs')).href)
    assert.deepEqual(Object.keys(imported).sort(), Object.keys(library).sort())
    assert.equal(imported.DDPM, library.DDPM)
  })

  it('has types', () => {
    assert.match(readFileSync(path.join(folder, 'index.d.mts'), 'utf8'), /export \* from '\.\/index\.js'/)
  })
})
