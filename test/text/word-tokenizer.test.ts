// Tokenizers of captions' own words.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { Tokenizer } from '../../lib/text/tokenizer'
import { writeWordTokenizer } from '../../lib/text/word-tokenizer'

describe('a tokenizer of words', () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'ddpm-words-'))
  after(() => rmSync(folder, { recursive: true }))

  it('has room for the longest text, of ideographs, too, each of which is a word', async () => {
    const texts = ['一只红色的猫坐在蓝色的椅子上', '一只 black 狗', "Don't STOP, İstanbul ½ 한국어 \u{20000}\u{20001}"]
    await writeWordTokenizer(folder, texts)
    const tokenizer = await Tokenizer.fromPretrained(folder)
    const { ids, length, warnings } = tokenizer.tokenize(texts)
    assert.deepEqual([length, warnings], [14 + 2, []])
    assert.ok(!ids.includes(tokenizer.ids('[UNK]')[0]))
    assert.deepEqual(
      texts.map((text) => tokenizer.ids(text).length),
      [14, 4, 8],
    )
  })
})
