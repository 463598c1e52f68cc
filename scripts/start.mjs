// Draws pictures of words with models/emoji-64 into samples.png: sixteen, or of the prompts that are given.
// Usage: npm start [-- --prompt "purple heart" [--prompt ...] [other options of ddpm sample]]
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const prompts = [
  ...['red apple', 'cat with heart eyes', 'flag of Japan', 'green heart'],
  ...['grinning face', 'man with beard', 'woman', 'blue book'],
  ...['eggplant', 'carrot', 'tangerine', 'cactus'],
  ...['red circle', 'full moon', 'snowman', 'penguin'],
]

const given = process.argv.slice(2)
const isGiven = (name) => given.some((argument) => argument === name || argument.startsWith(`${name}=`))
const defaults = { '--sampler': 'dpmsolver++', '--steps': '30', '--guidance': '3' }
const args = [path.join(root, 'dist/lib/cli/main.js'), 'sample', path.join(root, 'models/emoji-64'), '--variant=fp16']
if (!isGiven('--prompt')) args.push(...prompts.map((prompt) => `--prompt=${prompt}`))
if (!isGiven('--output')) args.push('--output=samples.png', '--overwrite')
for (const [name, value] of Object.entries(defaults)) if (!isGiven(name)) args.push(`${name}=${value}`)
process.exitCode = spawnSync(process.execPath, [...args, ...given], { stdio: 'inherit' }).status ?? 1
