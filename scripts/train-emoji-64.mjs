// Trains models/emoji-64, the text-to-image model that `npm start` draws with: a first stage, then a network on its latents
// with a text encoder of its own. Before: npm run build, node scripts/fetch-emoji.mjs
// Usage: node scripts/train-emoji-64.mjs [--first-steps n] [--steps n] [--device name] [--out folder] [--model folder]
// Ctrl-C saves; started again it goes on.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { splitEmoji } from './emoji/split.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const { values } = parseArgs({
  options: {
    'first-steps': { type: 'string', default: '12000' },
    steps: { type: 'string', default: '20000' },
    device: { type: 'string', default: 'auto' },
    data: { type: 'string', default: path.join(root, 'data/emoji') },
    out: { type: 'string', default: path.join(root, 'runs/emoji-64') },
    model: { type: 'string', default: path.join(root, 'models/emoji-64') },
  },
})

const at = (...names) => path.join(values.out, ...names)
splitEmoji(values.data, at('data/training'), at('data/held-out'))
process.on('SIGINT', () => {}) // a terminal sends it to the training too, which saves

const both = {
  size: 64,
  validation: at('data/held-out'),
  'validation-every': 2000,
  'lr-schedule': 'trapezoid',
  seed: 0,
  device: values.device,
}

await train('train-autoencoder', at('first-stage'), 'vae', {
  ...both,
  'model-channels': 32,
  'channel-mult': '1,2,2',
  'kl-weight': 1e-3,
  batch: 4,
  lr: 8e-4,
  warmup: 200,
  steps: values['first-steps'],
})

await train('train', at('latent'), 'model', {
  ...both,
  'first-stage': at('first-stage/vae'),
  'text-encoder': 'transformer',
  'text-width': 96,
  'text-layers': 1,
  'model-channels': 64,
  'channel-mult': '1,2',
  'res-blocks': 1,
  attention: '1,2',
  heads: 4,
  schedule: 'cosine',
  parameterization: 'v',
  'ema-decay': 0.999,
  batch: 16,
  lr: 5e-4,
  warmup: 300,
  'sample-every': 2000,
  'sample-steps': 50,
  steps: values.steps,
})

const convert = [path.join(root, 'dist/lib/cli/main.js'), 'convert', at('latent/model'), values.model, '--variant=fp16']
process.exit(spawnSync(process.execPath, convert, { stdio: 'inherit' }).status ?? 1)

/** Runs the command, or goes on with what it has begun, unless its result is there. */
async function train(command, out, result, options) {
  if (existsSync(path.join(out, result))) return
  const cli = [path.join(root, 'dist/lib/cli/main.js'), command, '--out', out]
  if (existsSync(path.join(out, 'checkpoints'))) cli.push('--resume')
  // Written text would come out mirrored, so there is no flip.
  else cli.push(at('data/training'), '--no-flip', ...Object.entries(options).map(([name, v]) => `--${name}=${v}`))
  const training = spawn(process.execPath, cli, { stdio: 'inherit' })
  const stop = () => training.kill('SIGTERM')
  process.on('SIGTERM', stop)
  const [status] = await once(training, 'exit')
  process.off('SIGTERM', stop)
  if (status !== 0 || !existsSync(path.join(out, result))) process.exit(status ?? 1)
}
