// Captions of a folder's images: metadata.jsonl, and text files beside them.
import assert from 'node:assert/strict'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { Dataset } from '../../lib/data/dataset'
import { temporaryFolder, writeImages } from '../train/support'

describe('captions of a folder', () => {
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const open = (name: string, captions = true) => Dataset.open(at(name), { size: 8, captions })
  /** By the images' names. */
  const captionsOf = async (data: Dataset, from = 0) => {
    const { captions } = await data.batch(from, data.length)
    return Object.fromEntries(captions!.map((caption, i) => [data.fileOf(from + i), caption]))
  }

  it('are texts beside the images, in one line; those without one have none', async () => {
    await writeImages(at('texts'), 3)
    mkdirSync(at('texts', 'inner'))
    await writeImages(at('texts', 'inner'), 1)
    writeFileSync(at('texts', '0000.txt'), '\uFEFF  a red\n\n apple \r\n')
    writeFileSync(at('texts', 'inner', '0000.txt'), 'ein Apfel, grün')
    const data = await open('texts')
    assert.deepEqual(await captionsOf(data), {
      '0000.png': 'a red apple',
      '0001.png': '',
      '0002.png': '',
      'inner/0000.png': 'ein Apfel, grün',
    })
    const before = data.fingerprint
    writeFileSync(at('texts', '0001.txt'), 'another')
    assert.notEqual((await open('texts')).fingerprint, before, 'a resumed training finds them as they were')
    assert.equal((await open('texts', false)).fingerprint, (await open('texts', false)).fingerprint)
    assert.equal((await (await open('texts', false)).batch(0, 1)).captions, undefined)
  })

  it('are those of metadata.jsonl, of several the one that the position says', async () => {
    await writeImages(at('listed'), 2)
    writeFileSync(at('listed', '0000.txt'), 'not this one')
    const names = ['an apple', 'a fruit', 'something red']
    const lines = [
      { file_name: './0000.png', text: names },
      { file_name: '0001.png', text: 'a pear' },
    ]
    writeFileSync(at('listed', 'metadata.jsonl'), lines.map((line) => JSON.stringify(line)).join('\n'))
    const data = await open('listed')
    const seen = new Set<string>()
    for (let epoch = 0; epoch < 30; epoch++) {
      const captions = await captionsOf(data, 2 * epoch)
      assert.deepEqual(captions, await captionsOf(await open('listed'), 2 * epoch))
      assert.equal(captions['0001.png'], 'a pear')
      seen.add(captions['0000.png'])
    }
    assert.deepEqual([...seen].sort(), [...names].sort())
  })

  it('refuses texts that are none', async () => {
    await writeImages(at('bad'), 1)
    const refuses = (contents: string | Uint8Array, file = '0000.txt') => {
      rmSync(at('bad', 'metadata.jsonl'), { force: true })
      writeFileSync(at('bad', file), contents)
      return assert.rejects(open('bad'), { code: 'bad-file' }, String(contents).slice(0, 20))
    }
    await refuses(Uint8Array.of(0xff, 0xfe, 0x41))
    await refuses('x'.repeat(2 ** 16 + 1))
    await refuses('{"file_name": "0000.png", "text": []}', 'metadata.jsonl')
    await refuses('{"file_name": "0000.png", "text": ["a", 1]}', 'metadata.jsonl')
    await refuses('{"text": "a"}', 'metadata.jsonl')
  })
})
