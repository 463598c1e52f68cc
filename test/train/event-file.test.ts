import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { appendFileSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import sharp from 'sharp'
import { crc32c } from '../../lib/trainer/crc32c'
import { EventFile } from '../../lib/trainer/event-file'
import { Trainer } from '../../lib/trainer/trainer'
import { readMetrics, temporaryFolder, tinyTraining, writeImages } from './support'

interface Events {
  readonly scalars: Record<string, [step: number, value: number][]>
  readonly images: Record<string, [step: number, [height: number, width: number, colorspace: number], png: string][]>
  readonly versions: string[]
}

/** By a reader that shares no code with the writer; undefined where there is no python3. */
function readEvents(folder: string): Events | undefined {
  const script = path.join(__dirname, '..', '..', '..', 'test', 'train', 'read_events.py')
  const { error, status, stdout, stderr } = spawnSync('python3', [script, folder], { encoding: 'utf8' })
  if (error) {
    console.log('      (skipped: there is no python3)')
    return undefined
  }
  assert.equal(status, 0, stderr)
  return JSON.parse(stdout)
}

const eventFiles = (folder: string) => readdirSync(folder).filter((name) => name.includes('tfevents'))

describe('event files', () => {
  const folder = temporaryFolder()
  const data = path.join(folder, 'images')
  before(() => writeImages(data, 9))

  it('have the checksum of RFC 3720', () => {
    const cases: [Uint8Array, number][] = [
      [new Uint8Array(32), 0x8a9136aa],
      [new Uint8Array(32).fill(0xff), 0x62a8ab43],
      [Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
      [Buffer.from('123456789'), 0xe3069283],
    ]
    for (const [bytes, crc] of cases) assert.equal(crc32c(bytes), crc)
  })

  it('hold what a training measured and drew, also after a kill and a resume', async function () {
    this.timeout(60_000)
    const out = path.join(folder, 'run')
    const plan = tinyTraining(data, out, {
      steps: 6,
      checkpointEvery: 4,
      sampleEvery: 3,
      sampleCount: 3,
      sampleSteps: 4,
    })
    // Two steps beyond the checkpoint of step 4 and half a record: what a kill leaves.
    const first = new AbortController()
    await new Trainer({ ...plan, steps: 4 }).run({ signal: first.signal })
    const killed = EventFile.open(out, 4)
    killed.scalars(5, { 'train/loss': 1e6 })
    killed.scalars(6, { 'train/loss': 1e6 })
    killed.close()
    appendFileSync(path.join(out, eventFiles(out).at(-1)!), Uint8Array.of(9, 0, 0, 0, 0, 0, 0))
    await new Trainer({ data, out, resume: true, steps: 6 }).run()
    assert.equal(eventFiles(out).length, 3)

    const events = readEvents(out)
    if (!events) return this.skip()
    assert.deepEqual(events.versions, Array(3).fill('brain.Event:2'))
    const metrics = readMetrics(out)
    const expected = (key: 'loss' | 'loss_simple' | 'loss_vlb' | 'gradNorm' | 'lr' | 'imagesPerSecond') =>
      metrics.map((m) => [m.step, Math.fround(Number(m[key]))])
    assert.deepEqual(events.scalars, {
      'train/loss': expected('loss'),
      'train/loss_simple': expected('loss_simple'),
      'train/loss_vlb': expected('loss_vlb'),
      'train/grad_norm': expected('gradNorm'),
      lr_abs: expected('lr'),
      images_per_second: expected('imagesPerSecond'),
    })
    assert.deepEqual(Object.keys(events.images), ['inputs', 'diffusion_row', 'samples', 'denoise_row'])
    for (const [name, series] of Object.entries(events.images)) {
      assert.deepEqual(
        series.map(([step]) => step),
        [3, 4, 6], // the end of the first training is one too
      )
      for (const [step, [height, width, channels], png] of series) {
        const file = path.join(out, 'samples', `step-0000000${step}${name === 'samples' ? '' : `.${name}`}.png`)
        const decode = (image: string | Buffer) => sharp(image).raw().toBuffer({ resolveWithObject: true })
        const [ofEvent, ofFile] = [await decode(Buffer.from(png, 'base64')), await decode(readFileSync(file))]
        assert.deepEqual([ofEvent.info.height, ofEvent.info.width, ofEvent.info.channels], [height, width, channels])
        assert.ok(ofEvent.data.equals(ofFile.data), `${name} of step ${step}`)
      }
    }
  })

  it('are read by TensorBoard itself', async function () {
    const out = path.join(folder, 'tensorboard')
    const script = `
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "images": 0})
events.Reload()
image = events.Images("samples")[0]
print(json.dumps([[e.step, e.value] for e in events.Scalars("train/loss")] + [[image.width, image.height]]))`
    if (spawnSync('python3', ['-c', 'import tensorboard']).status !== 0) {
      console.log('      (skipped: python3 has no tensorboard)')
      return this.skip()
    }
    await new Trainer(tinyTraining(data, out, { steps: 2, sampleEvery: 2, sampleCount: 2, sampleSteps: 2 })).run()
    const { status, stdout, stderr } = spawnSync('python3', ['-c', script, out], { encoding: 'utf8' })
    assert.equal(status, 0, stderr)
    const losses = readMetrics(out).map(({ step, loss }) => [step, Math.fround(loss)])
    assert.deepEqual(JSON.parse(stdout), [...losses, [2 * 10 + 2, 10 + 2]])
  })

  it('hold whole records only where writing fails', function () {
    const own = path.join(folder, 'limited')
    mkdirSync(own)
    const script = `
      const { EventFile } = require(${JSON.stringify(require.resolve('../../lib/trainer/event-file'))})
      const events = EventFile.open(${JSON.stringify(own)}, 0)
      let step = 0
      try { for (;;) events.scalars(++step, { loss: step }) } catch ({ code, message }) { console.log(step, code, message) }`
    const limited = spawnSync('bash', ['-c', 'ulimit -f 4; exec "$0" -e "$1"', process.execPath, script], {
      encoding: 'utf8',
    })
    assert.match(limited.stdout, /^\d+ io cannot write .*tfevents.*: the file would be larger than the limit for files/)
    const events = readEvents(own)
    if (!events) return this.skip()
    const steps = Number.parseInt(limited.stdout, 10) - 1
    assert.ok(steps > 10)
    assert.deepEqual(
      events.scalars.loss,
      Array.from({ length: steps }, (_, i) => [i + 1, i + 1]),
    )
  })
})
