// state.json and the configuration of a model file: each field may be anything.
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { writeSafetensors } from '../../lib/checkpoint/safetensors'
import { loadModel } from '../../lib/index'
import { openCheckpoint } from '../../lib/train/checkpoint'
import { modelFormat } from '../../lib/train/model-file'
import { writeModelAndRun } from '../fuzz/seeds'
import { temporaryFolder } from './support'

type Json = Record<string, unknown>

const odd: readonly unknown[] = [null, true, -1, 1.5, 1e300, 'x', [], {}, [null], { constructor: { name: {} } }]

describe('the state of a run', () => {
  const folder = temporaryFolder()
  let checkpoint: string
  let state: Json
  before(async () => {
    checkpoint = (await writeModelAndRun(folder)).checkpoint
    state = JSON.parse(readFileSync(path.join(checkpoint, 'state.json'), 'utf8'))
  })

  const opened = (json: unknown) => {
    writeFileSync(path.join(checkpoint, 'state.json'), JSON.stringify(json))
    return openCheckpoint(checkpoint)
  }
  const refused = (json: unknown, code: string, what: string) =>
    assert.rejects(opened(json), { name: 'DiffusionError', code }, what)

  it('is read as it was written', async () => {
    assert.deepEqual(JSON.parse(JSON.stringify((await opened(state)).state)), state)
  })

  const monitor = { best: { step: 4, value: 0.5 }, score: 0.5, wait: 1, sum: 0.25, count: 2 }
  const evaluated = { heldOut: { fingerprint: 'a', images: 3 }, evaluated: 4, monitor }

  it("has nothing in its model's options of where and how it is computed", () => {
    const { model } = state.options as { model: Json }
    const compute = ['device', 'memoryLimit', 'precision', 'weightFormat', 'distributed', 'seed', 'deterministic']
    assert.deepEqual(
      Object.keys(model).filter((name) => compute.includes(name)),
      [],
    )
  })

  it('has what evaluations left', async () => {
    const { heldOut, evaluated: step, monitor: own } = (await opened({ ...state, ...evaluated })).state
    assert.deepEqual({ heldOut, evaluated: step, monitor: own }, evaluated)
    for (const [name, value] of Object.entries(evaluated)) {
      for (const wrong of odd.slice(1)) {
        const what = `${name} ${JSON.stringify(wrong)}`
        await refused({ ...state, ...evaluated, [name]: wrong }, 'bad-file', what)
        if (typeof value !== 'object') continue
        for (const inner of Object.keys(value)) {
          const number = ['sum', 'score'].includes(inner) && typeof wrong === 'number'
          const text = inner === 'fingerprint' && typeof wrong === 'string'
          if (number || text || (inner === 'images' && wrong === -1)) continue
          await refused(
            { ...state, ...evaluated, [name]: { ...value, [inner]: wrong } },
            'bad-file',
            `${inner} ${what}`,
          )
        }
      }
    }
  })

  it('has no field that may be of another type', async () => {
    for (const name of ['format', 'version', 'step', 'samples', 'optimizerStep', 'draws', 'data', 'options']) {
      for (const value of odd)
        await refused({ ...state, [name]: value }, 'bad-file', `${name} ${JSON.stringify(value)}`)
    }
    for (const value of odd.slice(1)) await refused({ ...state, lossScale: value }, 'bad-file', JSON.stringify(value))
    const options = state.options as Json
    const model = options.model as Json
    const unet = model.unetConfig as Json
    const withModel = (own: unknown) => ({ ...state, options: { ...options, model: own } })
    for (const value of odd) {
      if (value !== null) await refused({ ...state, options: { ...options, betas: value } }, 'bad-file', 'betas')
      await refused(withModel(value), 'bad-file', 'model')
      await refused(withModel({ ...model, unetConfig: value }), 'bad-file', 'unetConfig')
      if (value !== null && value !== 'x') {
        await refused(withModel({ ...model, unetConfig: { ...unet, channelMult: value } }), 'bad-file', 'channelMult')
      }
    }
    await refused([], 'bad-file', 'an array')
    await refused({ ...state, options: { ...options, unheardOf: 1 } }, 'bad-file', 'an unknown option')
  })

  it('must be of the weights beside it', async () => {
    const options = state.options as Json
    const model = options.model as Json
    for (const field of [{ numResBlocks: 100 }, { modelChannels: 1024 }, { numClasses: 1000 }]) {
      const unetConfig = { ...(model.unetConfig as Json), ...field }
      await refused({ ...state, options: { ...options, model: { ...model, unetConfig } } }, 'state-mismatch', 'weights')
    }
  })

  it("a model file's configuration is compared with its tensors before anything is made", async () => {
    const file = path.join(folder, 'small.safetensors')
    const unet = { imageSize: 8, inChannels: 3, outChannels: 3, channelMult: [1], attentionResolutions: [] }
    const rejects = async (config: string, code: string) => {
      const metadata = { format: modelFormat, config, training: '{}' }
      await writeSafetensors(file, { x: { dtype: 'F32', shape: [1], data: Float32Array.of(1) } }, metadata)
      await assert.rejects(loadModel(file, { device: 'cpu' }), { name: 'DiffusionError', code }, config)
    }
    const configOf = (unetConfig: unknown) => JSON.stringify({ unetConfig })
    await rejects(configOf({ ...unet, modelChannels: 1024, numResBlocks: 1 }), 'state-mismatch')
    await rejects(configOf({ ...unet, modelChannels: 32, numResBlocks: 100 }), 'state-mismatch')
    await rejects(configOf({ ...unet, modelChannels: 32, numResBlocks: 1e9 }), 'invalid-argument')
    await rejects(configOf(null), 'invalid-argument')
    await rejects('{"a":'.repeat(5000), 'bad-file')
    await rejects(`{"a":[${'{},'.repeat(1_000_000)}0]}`, 'bad-file')
    await rejects('{"a":1,"a":2}', 'bad-file')
  })
})
