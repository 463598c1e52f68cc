// Trains models/emoji-32.safetensors, the model that `npm start` draws with. Before: npm run build, node scripts/fetch-emoji.mjs
// Usage: node scripts/train-emoji.mjs [--resume] [--steps n] [--device name] [--out run]
// Ctrl-C saves; --resume goes on (with the same --steps: the learning rate falls to zero at the last one).
// models/README.md has the options and numbers of the model that is shipped.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, mkdirSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const root = fileURLToPath(new URL('..', import.meta.url))
const { values } = parseArgs({
  options: {
    resume: { type: 'boolean', default: false },
    steps: { type: 'string', default: '5000' },
    device: { type: 'string', default: 'auto' },
    data: { type: 'string', default: path.join(root, 'data/emoji') },
    out: { type: 'string', default: path.join(root, 'runs/emoji-32') },
  },
})

// Written text would come out mirrored, so there is no flip. 1.58 M parameters (6.3 MB), 0.25 GMAC an image and step.
const options = {
  size: 32,
  'model-channels': 32,
  'channel-mult': '1,2,2,2',
  'res-blocks': 1,
  attention: '4,8',
  heads: 4,
  schedule: 'cosine',
  parameterization: 'x0', // of a short training: errors of eps at high noise would be wrong colours all over the picture
  batch: 16,
  lr: 5e-4,
  warmup: 300,
  'lr-schedule': 'cosine',
  'ema-decay': 0.998,
  clip: 1,
  seed: 0,
}

const cli = [path.join(root, 'dist/lib/cli/main.js'), 'train', values.data, '--out', values.out, '--no-flip']
for (const [name, value] of Object.entries(options)) cli.push(`--${name}=${value}`)
cli.push(`--steps=${values.steps}`, `--device=${values.device}`, ...(values.resume ? ['--resume'] : []))
const training = spawn(process.execPath, cli, { stdio: 'inherit' })
process.on('SIGINT', () => {}) // a terminal sends it to the training too, which saves
process.on('SIGTERM', () => training.kill('SIGTERM'))
const [status] = await once(training, 'exit')
if (status !== 0) process.exit(status ?? 1)

mkdirSync(path.join(root, 'models'), { recursive: true })
copyFileSync(path.join(values.out, 'model.safetensors'), path.join(root, 'models/emoji-32.safetensors'))
console.log('models/emoji-32.safetensors')
