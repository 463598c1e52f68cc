// Token ids as transformers' CLIPTokenizer and BertTokenizer give them.
import assert from 'node:assert/strict'
import { cpSync, mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { Tokenizer } from '../../lib/text/tokenizer'
import { readJson } from '../nn/golden'
import { temporaryFolder } from '../train/support'

const fixture = path.join(__dirname, '..', '..', '..', 'test', 'fixtures', 'clip_tokenizer')
const golden = readJson('clip_tokenizer_ids.json') as {
  max_length: number
  prompts: string[]
  prompt_ids: number[][]
}
const [start, end] = [528, 529]

describe('Tokenizer', () => {
  const folder = temporaryFolder()
  let count = 0

  /** A copy of the fixture with some files replaced; undefined: left out. */
  function changed(files: Record<string, unknown>): string {
    const copy = path.join(folder, `tokenizer-${count++}`)
    cpSync(fixture, copy, { recursive: true, filter: (name) => files[path.basename(name)] === undefined })
    mkdirSync(copy, { recursive: true })
    for (const [name, content] of Object.entries(files)) {
      if (content === null) continue
      writeFileSync(path.join(copy, name), typeof content === 'string' ? content : JSON.stringify(content))
    }
    return copy
  }

  it("CLIP's vocab.json and merges.txt: ids of a text, and padded and cut to 77", async () => {
    const tokenizer = await Tokenizer.fromPretrained(fixture)
    assert.deepEqual([tokenizer.vocabSize, tokenizer.maxLength], [530, golden.max_length])
    assert.deepEqual([tokenizer.startId, tokenizer.endId, tokenizer.padId], [start, end, end])
    for (const [i, prompt] of golden.prompts.entries()) {
      assert.deepEqual([start, ...tokenizer.ids(prompt), end], golden.prompt_ids[i], prompt)
    }
    const { texts, length, ids, warnings } = tokenizer.tokenize(golden.prompts)
    assert.deepEqual([texts, length], [golden.prompts.length, 77])
    for (const [i, all] of golden.prompt_ids.entries()) {
      const cut = all.length > 77 ? [...all.slice(0, 76), end] : all
      const padded = [...cut, ...Array(77 - cut.length).fill(end)]
      assert.deepEqual([...ids.subarray(i * 77, (i + 1) * 77)], padded, golden.prompts[i])
    }
    const left = golden.prompt_ids.filter((all) => all.length > 77)
    assert.equal(warnings.length, left.length)
    assert.match(warnings[0], new RegExp(`is cut to 77 tokens: ${left[0].length - 77} are left out, 'cat the cat`))
  })

  it('weights of tokens, also where the text is cut', async () => {
    const tokenizer = await Tokenizer.fromPretrained(fixture)
    const [the, cat, red] = [513, 515, 518]
    const o = { maxLength: 7, promptWeights: true }
    const { ids, weights } = tokenizer.tokenize('the (cat:1.5) [red]', o)
    assert.deepEqual([...ids], [start, the, cat, red, end, end, end])
    assert.deepEqual([...weights!], [1, 1, 1.5, Math.fround(1 / 1.1), 1, 1, 1])
    const long = tokenizer.tokenize('the (the cat the cat the:2) cat', o)
    assert.deepEqual([...long.ids], [start, the, the, cat, the, cat, end])
    assert.deepEqual([...long.weights!], [1, 1, 2, 2, 2, 2, 1])
    assert.match(long.warnings[0], /2 are left out, 'the cat'/)
    assert.equal(tokenizer.tokenize('(the cat)').weights, undefined)
  })

  it('padding: the map of special tokens goes before an old configuration, not before a new one', async () => {
    const bang = { bos_token: '<|startoftext|>', eos_token: { content: '<|endoftext|>' }, pad_token: '!' }
    const old = { model_max_length: 20, pad_token: '<|endoftext|>' }
    const second = await Tokenizer.fromPretrained(
      changed({ 'special_tokens_map.json': bang, 'tokenizer_config.json': old }),
    )
    assert.equal(second.padId, 0)
    assert.deepEqual([...second.tokenize('the', { maxLength: 5 }).ids], [start, 513, end, 0, 0])
    const recent = await Tokenizer.fromPretrained(
      changed({ 'special_tokens_map.json': bang, 'tokenizer_config.json': { ...old, added_tokens_decoder: {} } }),
    )
    assert.equal(recent.padId, end)
    const bare = await Tokenizer.fromPretrained(
      changed({ 'special_tokens_map.json': null, 'tokenizer_config.json': null }),
    )
    assert.deepEqual([bare.startId, bare.endId, bare.padId, bare.maxLength], [start, end, end, undefined])
    assert.throws(() => bare.tokenize('the'), { code: 'invalid-argument', argument: 'maxLength' })
  })

  const bert = {
    added_tokens: ['[PAD]', '[UNK]', '[CLS]', '[SEP]'].map((content, id) => ({ id, content, special: true })),
    normalizer: { type: 'BertNormalizer', clean_text: true, handle_chinese_chars: true, lowercase: true },
    pre_tokenizer: { type: 'BertPreTokenizer' },
    post_processor: null,
    decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
    model: {
      type: 'WordPiece',
      unk_token: '[UNK]',
      continuing_subword_prefix: '##',
      max_input_chars_per_word: 100,
      vocab: Object.fromEntries(
        ['[PAD]', '[UNK]', '[CLS]', '[SEP]', 'a', 'cat', '##s', 'naive', '!', 'un', '##believ', '##able'].map(
          (token, id) => [token, id],
        ),
      ),
    },
  }
  const bertConfig = { cls_token: '[CLS]', sep_token: '[SEP]', pad_token: '[PAD]', model_max_length: 512 }
  const bertFiles = {
    'vocab.json': null,
    'merges.txt': null,
    'special_tokens_map.json': null,
    'tokenizer.json': bert,
    'tokenizer_config.json': bertConfig,
  }

  it("BERT's tokenizer.json: word pieces between [CLS] and [SEP]", async () => {
    const tokenizer = await Tokenizer.fromPretrained(changed(bertFiles))
    assert.deepEqual([tokenizer.vocabSize, tokenizer.maxLength, tokenizer.padId], [12, 512, 0])
    const { ids } = tokenizer.tokenize('A Naïve unbelievable CATS! dog', { maxLength: 14 })
    assert.deepEqual([...ids], [2, 4, 7, 9, 10, 11, 5, 6, 8, 1, 3, 0, 0, 0])
  })

  it('says what is wrong with a folder', async () => {
    const refused = (files: Record<string, unknown>, code: string, message: RegExp) =>
      assert.rejects(Tokenizer.fromPretrained(changed(files)), (error: { code: string; message: string }) => {
        assert.equal(error.code, code, error.message)
        assert.match(error.message, message)
        return true
      })
    await refused({ 'merges.txt': null }, 'not-found', /expected tokenizer.json, or vocab.json and merges.txt/)
    await refused({ 'vocab.json': { a: 0 } }, 'bad-file', /its vocabulary lacks '<\|startoftext\|>'/)
    await refused({ 'vocab.json': {} }, 'bad-file', /no vocabulary/)
    await refused({ 'vocab.json': { a: 1e9 } }, 'bad-file', /ids are integers from 0/)
    await refused({ 'vocab.json': '[1' }, 'bad-file', /JSON/)
    await refused({ 'merges.txt': '#version: 0.2\nt h\nthe\n' }, 'bad-file', /merge 2 is not two parts/)
    const split = { type: 'Split', pattern: { Glob: '*' }, behavior: 'Removed' }
    await refused({ ...bertFiles, 'tokenizer.json': { ...bert, pre_tokenizer: split } }, 'bad-file', /pattern/)
    await refused({ ...bertFiles, 'tokenizer.json': { model: { type: 'Other', vocab: { a: 0 } } } }, 'bad-file', /./)
    await refused(
      { ...bertFiles, 'tokenizer.json': { ...bert, model: { type: 'WordPiece' } } },
      'bad-file',
      /vocabulary/,
    )
  })

  it('refuses what is no text', async () => {
    const tokenizer = await Tokenizer.fromPretrained(fixture)
    for (const prompt of [undefined, 3, ['the', 4], [], { text: 'the' }]) {
      assert.throws(() => tokenizer.tokenize(prompt as never), { code: 'invalid-argument', argument: 'prompt' })
    }
    await assert.rejects(Tokenizer.fromPretrained(3 as never), { argument: 'folder' })
  })
})
