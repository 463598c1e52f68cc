// The guide's snippets for other services run as they are printed, with stand-ins for the services.
import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import path from 'node:path'
import { ended, readMetrics, startScript, temporaryFolder, writeImages } from './train/support'

const root = path.join(__dirname, '..', '..')
const small =
  'steps: 4, validationEvery: 2, batchSize: 2, sampleEvery: 0, device: "cpu", ' +
  'model: { timesteps: 20, unetConfig: { imageSize: 8, modelChannels: 32, channelMult: [1], numResBlocks: 1, attentionResolutions: [] } }'

describe('hooks of the guide', function () {
  this.timeout(60_000)
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const snippets = [...readFileSync(path.join(root, 'docs', 'guide.md'), 'utf8').matchAll(/^```js\n([\s\S]*?)^```/gm)]

  before(() => writeImages(at('photos'), 6))

  /** Runs the snippet that has `word`, made short. */
  async function run(word: string, env: Record<string, string> = {}) {
    const [code, ...others] = snippets.map(([, body]) => body).filter((body) => body.includes(word))
    assert.deepEqual(others, [])
    const short = code.replace('steps: 20_000', small)
    assert.notEqual(short, code)
    const library = JSON.stringify(path.join(root, 'dist', 'lib', 'index.mjs'))
    writeFileSync(at(`${word}.mjs`), short.replace("'ddpm-native'", library))
    return ended(startScript(at(`${word}.mjs`), [], env, folder))
  }

  /** What must have been told: by step, as in metrics.jsonl. */
  function check(told: readonly { step: number; scalars: Record<string, number> }[], run: string): void {
    const lines = readMetrics(at(run)) as unknown as Record<string, number>[]
    assert.deepEqual(
      told.map(({ step }) => step),
      lines.map(({ step }) => step),
    )
    for (const [i, { scalars }] of told.entries()) {
      if ('loss' in lines[i]) assert.deepEqual([scalars['train/loss'], scalars.lr_abs], [lines[i].loss, lines[i].lr])
      else assert.equal(scalars['val/loss_ema'], lines[i]['val/loss_ema'])
    }
    assert.equal(told.filter(({ scalars }) => 'val/loss_ema' in scalars).length, 2)
  }

  it('Weights & Biases', async () => {
    const module = at('node_modules', '@wandb', 'sdk')
    mkdirSync(module, { recursive: true })
    writeFileSync(path.join(module, 'package.json'), '{ "name": "@wandb/sdk", "type": "module", "main": "index.js" }')
    const calls =
      "import { appendFileSync } from 'node:fs'\nconst call = (...of) => appendFileSync('wandb.jsonl', JSON.stringify(of) + '\\n')\n"
    const methods =
      "init: async (o) => call('init', o), log: (data, step) => call('log', data, step), finish: async () => call('finish')"
    writeFileSync(path.join(module, 'index.js'), `${calls}export default { ${methods} }\n`)
    const { code, stderr } = await run('wandb')
    assert.equal(code, 0, stderr)
    const made = readFileSync(at('wandb.jsonl'), 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line))
    assert.equal(made[0][0], 'init')
    assert.deepEqual([made[0][1].project, made[0][1].config.validation], ['photos', 0.2])
    assert.deepEqual(made.at(-1), ['finish'])
    check(
      made.slice(1, -1).map(([, scalars, step]) => ({ scalars, step })),
      'runs/watched',
    )
  })

  it('MLflow', async () => {
    const calls: { method: string; body: Record<string, unknown> }[] = []
    const server = createServer((request, response) => {
      let text = ''
      request.on('data', (chunk) => {
        text += chunk
      })
      request.on('end', () => {
        const method = /^\/api\/2\.0\/mlflow\/(.*)$/.exec(request.url!)?.[1] ?? ''
        calls.push({ method, body: JSON.parse(text) })
        response.end(JSON.stringify(method === 'runs/create' ? { run: { info: { run_id: 'r1' } } } : {}))
      })
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    try {
      const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
      const { code, stderr } = await run('mlflow', { MLFLOW_TRACKING_URI: url })
      assert.equal(code, 0, stderr)
    } finally {
      server.close()
    }
    assert.deepEqual([calls[0].method, calls[0].body.experiment_id], ['runs/create', '0'])
    const { method, body } = calls.at(-1)!
    assert.deepEqual([method, body.run_id, body.status], ['runs/update', 'r1', 'FINISHED'])
    const batches = calls.slice(1, -1).map(({ method, body }) => {
      assert.deepEqual([method, body.run_id], ['runs/log-batch', 'r1'])
      const metrics = body.metrics as { key: string; value: number; step: number; timestamp: number }[]
      assert.ok(metrics.every(({ timestamp, step }) => timestamp > 1e12 && step === metrics[0].step))
      return { step: metrics[0].step, scalars: Object.fromEntries(metrics.map(({ key, value }) => [key, value])) }
    })
    check(batches, 'runs/watched-too')
  })
})
