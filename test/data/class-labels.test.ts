import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'
import { ImageFolder } from '../../lib/data/image-folder'
import { DiffusionError } from '../../lib/errors'
import { temporaryFolder, writeImages } from '../train/support'

describe('classes of images', () => {
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const open = (classes: string, own = at('images')) => ImageFolder.open(own, { size: 8, classes })
  const rejects = (classes: string, code: string, pattern: RegExp, own?: string) =>
    assert.rejects(open(classes, own), (error) => {
      assert.ok(error instanceof DiffusionError, String(error))
      assert.deepEqual([error.code, error.argument], [code, 'classes'])
      assert.match(error.message, pattern)
      return true
    })

  before(async () => {
    await writeImages(at('images', 'tulip'), 3)
    await writeImages(at('images', 'Rose & Co', 'red'), 2)
  })

  it('are their first folders', async () => {
    const dataset = await open('folders')
    assert.deepEqual(dataset.classNames, ['Rose & Co', 'tulip'])
    const { labels } = await dataset.batch(0, 10)
    const expected = Array.from({ length: 10 }, (_, g) => (dataset.fileOf(g).startsWith('tulip') ? 1 : 0))
    assert.deepEqual([...labels!], expected)
    assert.deepEqual(expected.slice(0, 5).toSorted(), [0, 0, 1, 1, 1])
  })

  it('are what a file says', async () => {
    const classOf: Record<string, string> = { 'somewhere/else.png': 'unused' }
    for (const [i, file] of (await open('folders')).files.entries()) classOf[file] = i % 2 ? 'odd' : 'even'
    writeFileSync(at('labels.json'), JSON.stringify(classOf))
    const dataset = await open(at('labels.json'))
    assert.deepEqual(dataset.classNames, ['even', 'odd'])
    const { labels } = await dataset.batch(0, 5)
    for (let g = 0; g < 5; g++) assert.equal(dataset.classNames![labels![g]], classOf[dataset.fileOf(g)])
  })

  it('are the same wherever a file is cut into pieces', async () => {
    const { files } = await open('folders')
    const classOf = Object.fromEntries(files.map((file, i) => [file, ['\u2028 "one"', 'zwei \u{1f337}', '3'][i % 3]]))
    for (const shift of [0, 1, 2, 3, 5, 8, 13, 40]) {
      // The first piece ends somewhere within the labels, and spaces fill more than one.
      const head = `{"${'x'.repeat(60_000)}":"y",${' \n'.repeat(2 ** 19 - 30_000 - 60 + shift)}`
      writeFileSync(at('long.json'), `${head}${JSON.stringify(classOf).slice(1, -1)}${' '.repeat(2 ** 21)}}\n`)
      const dataset = await open(at('long.json'))
      assert.deepEqual(dataset.classNames, ['\u2028 "one"', '3', 'zwei \u{1f337}'].sort())
      const { labels } = await dataset.batch(0, 5)
      for (let g = 0; g < 5; g++) assert.equal(dataset.classNames![labels![g]], classOf[dataset.fileOf(g)])
    }
  })

  it('belong to what identifies the data', async () => {
    const dataset = await open('folders')
    const without = await ImageFolder.open(at('images'), { size: 8 })
    assert.deepEqual([without.classNames, (await without.batch(0, 2)).labels], [undefined, undefined])
    assert.notEqual(dataset.fingerprint, without.fingerprint)
  })

  it('go with the image that stands in for a damaged one', async () => {
    const own = at('damaged')
    await writeImages(path.join(own, 'a'), 1)
    await writeImages(path.join(own, 'b'), 1, 64)
    const whole = await sharp(path.join(own, 'b', '0000.png'))
      .png({ compressionLevel: 0 })
      .toBuffer()
    writeFileSync(path.join(own, 'b', '0000.png'), whole.subarray(0, whole.length / 2)) // a good header
    const dataset = await open('folders', own)
    assert.equal(dataset.length, 2)
    assert.deepEqual([...(await dataset.batch(0, 4)).labels!], [0, 0, 0, 0])
    assert.equal(dataset.unreadable.length, 1)
  })

  it('have a clear error where they are missing or unreadable', async () => {
    await writeImages(at('flat'), 2)
    await rejects('folders', 'invalid-argument', /^2 images lie in no sub-folder.*first 0000\.png/, at('flat'))
    await rejects(at('nowhere.json'), 'not-found', /nowhere\.json does not exist/)
    const cases: [string, RegExp, string?][] = [
      ['{', /not JSON/],
      ['[]', /not a JSON object/],
      ['{"tulip/0000.png":3}', /the class of 'tulip\/0000\.png' is 3/],
      ['{"tulip/0000.png":{"a":1}}', /the class of 'tulip\/0000\.png' is an object/],
      ['{"tulip/0000.png":[]}', /is an array/],
      ['{"tulip/0000.png":""}', /the class of .* is ''/],
      ['{"tulip/0000.png":null}', /the class of .* is null/],
      ['{"tulip/0000.png":"a","tulip\\u002f0000.png":"b"}', /has 'tulip\/0000\.png' twice/],
      ['{"a":"b",}', /not JSON/],
      ['{"a":"b"', /not JSON/],
      ['{"a":"b"} x', /not JSON/],
      ['{"a" "b"}', /not JSON/],
      ['{"a":"b\n"}', /not JSON/],
      ['{a:"b"}', /not JSON/],
      ['{"a":b}', /not JSON/],
      ['{"a":"b', /not JSON/],
      ['', /not a JSON object/],
      [`{"a":"${'x'.repeat(70_000)}"}`, /a name in it has more than 65536 bytes/],
      [' {} ', /^5 images are not in /, 'invalid-argument'],
      ['{"tulip/0000.png":"tulip"}', /^4 images are not in /, 'invalid-argument'],
    ]
    for (const [text, pattern, code = 'bad-file'] of cases) {
      writeFileSync(at('bad.json'), text)
      await rejects(at('bad.json'), code, pattern)
    }
  })
})
