import assert from 'node:assert/strict'
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { atomicWrite } from '../../lib/checkpoint/atomic-write'
import { temporaryFile } from '../../lib/checkpoint/temporary-file'
import { DiffusionError } from '../../lib/errors'

describe('atomicWrite', () => {
  let folder: string
  beforeEach(() => {
    folder = mkdtempSync(path.join(os.tmpdir(), 'ddpm-atomic-'))
  })
  afterEach(() => rmSync(folder, { recursive: true }))
  const at = (name: string) => path.join(folder, name)
  const text = (name: string) => readFileSync(at(name), 'utf8')
  const mode = (name: string) => (statSync(at(name)).mode & 0o777).toString(8)
  const rejects = (promise: Promise<void>, pattern: RegExp) =>
    assert.rejects(promise, (error) => {
      assert.ok(error instanceof DiffusionError, String(error))
      assert.equal(error.code, 'io')
      assert.match(error.message, pattern)
      return true
    })
  const full = Object.assign(new Error('no space left'), { code: 'ENOSPC' })

  it('replaces a file, and leaves it when writing fails in the middle', async () => {
    await atomicWrite(at('state.json'), 'first')
    await atomicWrite(at('state.json'), Buffer.from('second'))
    const failing = (name: string) =>
      atomicWrite(at(name), async (file) => {
        await file.writeFile('half of the thi')
        throw full
      })
    await rejects(failing('state.json'), /state\.json: the disk is full \(the old file is unchanged\)$/)
    await rejects(failing('new.json'), /new\.json: the disk is full \(nothing is written\)$/)
    assert.equal(text('state.json'), 'second')
    assert.deepEqual(readdirSync(folder), ['state.json'])
  })

  it('many at once leave one whole file', async () => {
    const texts = Array.from({ length: 20 }, (_, i) => String(i).repeat(10_000))
    await Promise.all(texts.map((text) => atomicWrite(at('raced'), text)))
    assert.ok(texts.includes(text('raced')))
    assert.deepEqual(readdirSync(folder), ['raced'])
  })

  it('has one winner among many that may replace nothing', async () => {
    const texts = Array.from({ length: 20 }, (_, i) => String(i).repeat(10_000))
    const ends = await Promise.allSettled(texts.map((text) => atomicWrite(at('one'), text, { exclusive: true })))
    const won = texts.filter((_, i) => ends[i].status === 'fulfilled')
    assert.deepEqual([text('one')], won)
    await rejects(atomicWrite(at('one'), 'x', { exclusive: true }), /one: it is there already \(the old file is unch/)
    symlinkSync('target', at('link'))
    await atomicWrite(at('link'), 'x', { exclusive: true })
    assert.equal(text('target'), 'x')
    assert.deepEqual(readdirSync(folder), ['link', 'one', 'target'])
  })

  it('keeps the mode of what it replaces, and makes new files by the umask', async () => {
    writeFileSync(at('private'), 'old', { mode: 0o600 })
    writeFileSync(at('open'), 'old')
    chmodSync(at('open'), 0o666)
    const umask = process.umask(0o027)
    try {
      for (const name of ['private', 'open', 'new']) await atomicWrite(at(name), 'new')
    } finally {
      process.umask(umask)
    }
    assert.deepEqual([mode('private'), mode('open'), mode('new')], ['600', '666', '640'])
  })

  it('is nowhere readable for others while it replaces a private file', async () => {
    writeFileSync(at('private'), 'old', { mode: 0o600 })
    await atomicWrite(at('private'), async (file) => {
      await file.writeFile('secret')
      for (const name of readdirSync(folder)) assert.equal(mode(name), '600', name)
    })
  })

  it('keeps the owner where that is permitted', async function () {
    if (process.getuid?.() !== 0) {
      console.log('      not shown: only root may give files away')
      return this.skip()
    }
    writeFileSync(at('other'), 'old', { mode: 0o640 })
    chownSync(at('other'), 12_345, 23_456)
    await atomicWrite(at('other'), 'new')
    const { uid, gid } = statSync(at('other'))
    assert.deepEqual([uid, gid, mode('other')], [12_345, 23_456, '640'])
  })

  it('follows symbolic links, also those that point nowhere yet, but in no circle', async () => {
    mkdirSync(at('real'))
    writeFileSync(at('real/a'), 'old', { mode: 0o600 })
    symlinkSync('real/a', at('first'))
    symlinkSync('first', at('second'))
    await atomicWrite(at('second'), 'new')
    assert.deepEqual([readlinkSync(at('second')), readlinkSync(at('first'))], ['first', 'real/a'])
    assert.deepEqual([text('real/a'), mode('real/a')], ['new', '600'])
    symlinkSync('real', at('folder'))
    symlinkSync('../real/b', at('real/dangling'))
    await atomicWrite(at('folder/dangling'), 'made')
    assert.equal(text('real/b'), 'made')
    assert.ok(lstatSync(at('real/dangling')).isSymbolicLink())
    symlinkSync('circle', at('circle'))
    await rejects(atomicWrite(at('circle'), 'x'), /circle: its symbolic links form a loop/)
    assert.ok(lstatSync(at('circle')).isSymbolicLink())
  })

  it('takes names of 255 bytes', async () => {
    const name = `${'ö'.repeat(125)}.json`
    await atomicWrite(at(name), 'long')
    assert.equal(text(name), 'long')
    await rejects(atomicWrite(at('n'.repeat(256)), ''), /the name is too long/)
  })

  it('writes into a pipe, once it has a reader', async () => {
    execFileSync('mkfifo', [at('pipe')])
    const big = 'x'.repeat(200_000) // more than a pipe holds
    const written = atomicWrite(at('pipe'), big)
    const reader = spawn('cat', [at('pipe')], { stdio: ['ignore', 'pipe', 'ignore'] })
    let read = ''
    reader.stdout.on('data', (chunk) => {
      read += chunk
    })
    await Promise.all([written, new Promise((resolve) => reader.once('close', resolve))])
    assert.equal(read, big)
    assert.ok(lstatSync(at('pipe')).isFIFO())
    assert.deepEqual(readdirSync(folder), ['pipe'])
  })

  it('writes into devices, and refuses sockets', async () => {
    await atomicWrite('/dev/null', 'gone')
    assert.ok(lstatSync('/dev/null').isCharacterDevice())
    await rejects(atomicWrite('/dev/full', 'x'), /cannot write \/dev\/full: the disk is full$/)
    const server = net.createServer().listen(at('socket'))
    await new Promise((resolve) => server.once('listening', resolve))
    await rejects(atomicWrite(at('socket'), 'x'), /it is a socket/)
    assert.ok(lstatSync(at('socket')).isSocket())
    await new Promise((resolve) => server.close(resolve))
  })

  it('says what stands in its way', async () => {
    mkdirSync(at('folder'))
    writeFileSync(at('file'), '')
    await rejects(atomicWrite(at('folder'), 'x'), /folder: it is a folder/)
    await rejects(atomicWrite(at('file/x'), 'x'), /file\/x: a part of its path is a file/)
    await rejects(
      atomicWrite(at('nowhere/x'), 'x'),
      /nowhere\/x: there is no such file or folder \(nothing is written\)/,
    )
    assert.deepEqual(readdirSync(folder).sort(), ['file', 'folder'])
  })

  it('stops at the limit for the size of files', () => {
    const script = `require(${JSON.stringify(require.resolve('../../lib/checkpoint/atomic-write'))})
      .atomicWrite(${JSON.stringify(at('big'))}, Buffer.alloc(100_000))
      .catch(({ code, message }) => console.log(code, message))`
    const { stdout } = spawnSync('bash', ['-c', 'ulimit -f 8; exec "$0" -e "$1"', process.execPath, script], {
      encoding: 'utf8',
    })
    assert.match(
      stdout,
      /^io cannot write .*big: the file would be larger than the limit for files \(nothing is written\)/,
    )
    assert.deepEqual(readdirSync(folder), [])
  })

  it('removes what a killed writer left, but not what others are writing, nor what another host may', async () => {
    const script = `require(${JSON.stringify(require.resolve('../../lib/checkpoint/atomic-write'))})
      .atomicWrite(${JSON.stringify(at('a'))}, async (file) => {
        await file.writeFile('half')
        process.kill(process.pid, 'SIGKILL')
      })`
    assert.equal(spawnSync(process.execPath, ['-e', script]).signal, 'SIGKILL')
    assert.equal(readdirSync(folder).length, 1)
    const mine = temporaryFile(folder)
    const otherHost = mine.replace(/(\.ddpm-)[0-9a-f]{8}/, '$100000000')
    const old = otherHost.replace('00000000', '00000001')
    for (const file of [mine, otherHost, old]) writeFileSync(file, '')
    utimesSync(old, 0, 0)
    await atomicWrite(at('b'), 'whole')
    const left = readdirSync(folder).sort()
    assert.deepEqual(left, [mine, otherHost, at('b')].map((file) => path.basename(file)).sort())
    assert.ok(!existsSync(at('a')))
  })
})
