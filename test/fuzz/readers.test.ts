// Damaged files: an error or a valid result, every time.
import assert from 'node:assert/strict'
import { Random } from '../support/random'
import { readCorpus } from './corpus'
import { mutate } from './mutate'
import { outcome, type Reader, readers } from './readers'

async function check(reader: Reader, bytes: Uint8Array): Promise<'read' | 'refused'> {
  try {
    return (await outcome(reader, bytes)) === 'read' ? 'read' : 'refused'
  } catch (error) {
    throw new Error(`neither read nor refused: ${Buffer.from(bytes).toString('base64')}`, { cause: error })
  }
}

describe('damaged files', () => {
  for (const [name, open] of Object.entries(readers)) {
    it(`${name}: read or refused`, async () => {
      const reader = await open()
      const random = new Random(20260101)
      const tally = { read: 0, refused: 0 }
      try {
        assert.equal(await check(reader, reader.seeds[0]), 'read')
        for (let i = 0; i < reader.rounds; i++) {
          tally[await check(reader, mutate(reader.seeds[i % reader.seeds.length], reader.snippets, random))]++
        }
        for (const bytes of readCorpus(name)) await check(reader, bytes)
      } finally {
        await reader.dispose?.()
      }
      // Changes that all do nothing, or all destroy the file, would test little.
      const refuses = reader.codes.length === 0 || tally.refused > reader.rounds / 10
      assert.ok(tally.read > 0 && refuses, `${tally.read} read, ${tally.refused} refused`)
    })
  }
})
