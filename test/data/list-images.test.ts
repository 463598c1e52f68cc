import assert from 'node:assert/strict'
import { copyFileSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'
import { listImages } from '../../lib/data/list-images'
import { ImageFolder } from '../../lib/index'
import { temporaryFolder, writeImages } from '../train/support'

describe('the images of a folder', () => {
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)

  it('are known by their names, or without an extension by their first bytes', async () => {
    const image = sharp({ create: { width: 8, height: 8, channels: 3, background: '#369' } })
    const own = at('names')
    mkdirSync(own)
    for (const name of ['a.JPG', 'b.jfif', 'c.jpe', 'd', 'e.bmp', 'f.txt'])
      writeFileSync(path.join(own, name), await image.jpeg().toBuffer())
    writeFileSync(path.join(own, 'g.bmp'), 'BM, and what follows')
    writeFileSync(path.join(own, 'h.jxl'), '\xff\x0a', 'latin1')
    writeFileSync(path.join(own, 'LICENSE'), 'no image')
    const heard: string[] = []
    const data = await ImageFolder.open(own, { size: 8, onUnreadable: ({ file }) => heard.push(file) })
    assert.deepEqual(data.files, ['a.JPG', 'b.jfif', 'c.jpe', 'd', 'e.bmp'])
    // What begins like an image and is not called so is no silent loss.
    assert.deepEqual(heard.sort(), ['f.txt', 'g.bmp', 'h.jxl'])
    const { leftOut } = await listImages(own)
    assert.deepEqual(leftOut, [{ file: 'f.txt', reason: "it begins like an image, but its name ends in '.txt'" }])
  })

  it('are followed through symbolic links, each folder once', async () => {
    await writeImages(at('set', 'cat'), 1)
    await writeImages(at('elsewhere', 'bird'), 2)
    symlinkSync('../elsewhere/bird', at('set', 'bird'))
    symlinkSync('../elsewhere/bird', at('set', 'birds-again'))
    symlinkSync('..', at('set', 'up'))
    symlinkSync('.', at('set', 'cat', 'itself'))
    symlinkSync('../../set', at('elsewhere', 'bird', 'back'))
    symlinkSync('nowhere', at('set', 'dangling'))
    symlinkSync('loop.png', at('set', 'loop.png'))
    symlinkSync('nowhere', at('set', 'notes.txt'))
    copyFileSync(at('set', 'cat', '0000.png'), at('one.png'))
    symlinkSync(at('one.png'), at('set', 'cat', 'linked.png'))
    const { files, leftOut } = await listImages(at('set'))
    assert.deepEqual(files, ['bird/0000.png', 'bird/0001.png', 'cat/0000.png', 'cat/linked.png'])
    assert.deepEqual(
      leftOut.map(({ file, reason }) => `${file}: ${reason}`),
      [
        'bird/back: a symbolic link to the folder ., which is read already',
        'birds-again: a symbolic link to the folder bird, which is read already',
        'cat/itself: a symbolic link to the folder cat, which is read already',
        'dangling: a symbolic link to nothing',
        'loop.png: a symbolic link to nothing',
        'up: a symbolic link to a folder that it is in itself',
      ],
    )
    const data = await ImageFolder.open(at('set'), { size: 8, classes: 'folders' })
    assert.deepEqual(data.classNames, ['bird', 'cat'])
    assert.equal(data.unreadable.length, 6)
  })

  it('are told of where nothing else is there', async () => {
    mkdirSync(at('only'))
    symlinkSync('nowhere', at('only', 'bird'))
    await assert.rejects(ImageFolder.open(at('only'), { size: 8 }), /first bird: a symbolic link to nothing/)
  })
})
