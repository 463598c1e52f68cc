/** What the tests of diffusers folders share. */
import assert from 'node:assert/strict'
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { DDPM } from '../../lib/index'

export const fixtures = path.join(__dirname, '..', '..', '..', 'test', 'fixtures')
export const goldenFolder = path.join(fixtures, 'diffusers_ddpm')
export const legacyFolder = path.join(fixtures, 'diffusers_ddpm_legacy_keys')

export const unetConfig = {
  imageSize: 8,
  inChannels: 3,
  outChannels: 3,
  modelChannels: 16,
  numResBlocks: 1,
  normGroups: 8,
}

export const open = (folder: string) => DDPM.fromPretrained(folder, { device: 'cpu' })

/** A temporary folder for each test of the suite around the call, and what is done with a model in it. */
export class WorkFolder {
  folder = ''

  constructor() {
    beforeEach(async () => {
      this.folder = await mkdtemp(path.join(os.tmpdir(), 'ddpm-diffusers-'))
    })
    afterEach(() => rm(this.folder, { recursive: true }))
  }

  readonly copy = (folder = goldenFolder) => cp(folder, this.folder, { recursive: true })

  readonly edit = async (file: string, change: (json: Record<string, unknown>) => void) => {
    const json = JSON.parse(await readFile(path.join(this.folder, file), 'utf8'))
    change(json)
    await writeFile(path.join(this.folder, file), JSON.stringify(json))
  }

  readonly rejects = (expected: object) => assert.rejects(open(this.folder), { name: 'DiffusionError', ...expected })
}

/** The network's, by its names. */
export async function weightsOf(ddpm: DDPM): Promise<Record<string, Float32Array>> {
  const result: Record<string, Float32Array> = {}
  for (const [name, tensor] of Object.entries((await ddpm.trainingState()).weights)) result[name] = await tensor.data()
  return result
}
