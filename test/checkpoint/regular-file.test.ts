// What is no file: reading it would wait for ever.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { readJsonFile } from '../../lib/checkpoint/json'
import { openRegularFile } from '../../lib/checkpoint/regular-file'
import { readSafetensors, readSafetensorsHeader } from '../../lib/checkpoint/safetensors'
import { readShapes, readStateDictFile } from '../../lib/checkpoint/state-dict-file'
import { withTorchFile } from '../../lib/checkpoint/torch/checkpoint'
import { readYaml } from '../../lib/checkpoint/yaml'
import { classLabels } from '../../lib/data/class-labels'
import { checkImageHeader } from '../../lib/data/image-file'
import { DDPM, readImage } from '../../lib/index'
import { openCheckpoint } from '../../lib/train/checkpoint'
import { loadModelFile } from '../../lib/train/model-file'

const readers: Record<string, (file: string) => Promise<unknown>> = {
  openRegularFile: (file) => openRegularFile(file),
  readSafetensors,
  readSafetensorsHeader,
  readStateDictFile: (file) => readStateDictFile(file),
  readShapes,
  withTorchFile: (file) => withTorchFile(file, async () => {}),
  readJsonFile: (file) => readJsonFile(file),
  readYaml,
  fromConfig: (file) => DDPM.fromConfig(file, { device: 'cpu' }),
  classLabels: (file) => classLabels(['a.png'], file),
  loadModelFile: (file) => loadModelFile(file, { device: 'cpu' }),
  readImage: (file) => readImage(file, { size: 8 }),
  checkImageHeader: (file) => checkImageHeader(file),
}

describe('what is no regular file', () => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'ddpm-pipe-'))
  after(() => rmSync(folder, { recursive: true }))
  const at = (...names: string[]) => path.join(folder, ...names)
  const bad = { name: 'DiffusionError', code: 'bad-file', message: /not a regular file/ }

  before(function () {
    if (process.platform === 'win32') {
      console.log('      skipped: there are no named pipes in Windows folders')
      this.skip()
    }
    execFileSync('mkfifo', [at('pipe')])
    mkdirSync(at('folder'))
    mkdirSync(at('run', 'checkpoints', 'step-00000002'), { recursive: true })
    execFileSync('mkfifo', [at('run', 'checkpoints', 'step-00000002', 'state.json')])
  })

  for (const [name, read] of Object.entries(readers)) {
    it(`${name} refuses it at once`, async () => {
      for (const kind of ['pipe', 'folder']) await assert.rejects(read(at(kind)), bad, kind)
      for (const device of ['/dev/zero', '/dev/tty']) await assert.rejects(read(device), bad, device)
      await assert.rejects(read(at('nothing')), { name: 'DiffusionError', code: 'not-found' })
    })
  }

  it('a socket, and the state of a run', async () => {
    const server = createServer()
    await new Promise<void>((done) => server.listen(at('socket'), done))
    try {
      await assert.rejects(readSafetensors(at('socket')), bad)
    } finally {
      server.close()
    }
    await assert.rejects(openCheckpoint(at('run')), bad)
  })
})
