// Damaged files: an error or a valid result, every time.
import assert from 'node:assert/strict'
import { fuzz, readers } from './fuzz'

describe('damaged files', () => {
  for (const name of Object.keys(readers)) {
    const rounds = name.endsWith('Config') ? 1000 : 4000
    it(`${name}: ${rounds} are read or refused`, async () => {
      const { read, refused } = await fuzz(name, rounds, 20260101)
      // Changes that all do nothing, or all destroy the file, would test little.
      assert.ok(read > 0 && refused > rounds / 10, `${read} read, ${refused} refused`)
    })
  }
})
