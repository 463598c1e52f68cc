/**
 * What `ddpm train --preset small` is worth: 200 icons are drawn, the preset is trained on them, and then the command line's defaults for
 * as many seconds. Writes a sheet of icons and one of samples of each, and prints how far a sample is from the nearest icon, in units
 * of a pixel's range: the icons themselves are so far from each other.
 * Usage: npm run build:ts && node dist/bench/preset-small.js [--steps n] [--out folder]
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, rmSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { Dataset, loadModel, saveImages, Tensor } from '../lib/index'
import { drawPictures, icon } from './drawings'

const count = 200
const shown = 64
const cli = path.join(__dirname, '..', 'lib', 'cli', 'main.js')

/** Ends it as Ctrl-C would after so many seconds; how long it ran. Throws where it fails. */
async function train(args: readonly string[], seconds?: number): Promise<number> {
  const start = performance.now()
  const child = spawn(process.execPath, [cli, 'train', ...args], { stdio: ['ignore', 'inherit', 'inherit'] })
  const timer = seconds === undefined ? undefined : setTimeout(() => child.kill('SIGINT'), 1000 * seconds)
  const [code] = await once(child, 'exit')
  clearTimeout(timer)
  if (code !== 0 && code !== 130) throw new Error(`ddpm train ${args.join(' ')} ended with ${code}`)
  return (performance.now() - start) / 1000
}

/** Root mean square over all values. */
function distance(a: Float32Array, b: Float32Array): number {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += ((a[i] - b[i]) / 2) ** 2
  return Math.sqrt(sum / a.length)
}

/** The mean over `images` of the distance to the nearest of `others` that is not itself. */
function nearest(images: readonly Float32Array[], others: readonly Float32Array[]): number {
  const least = images.map((image) =>
    others.reduce((best, other) => (other === image ? best : Math.min(best, distance(image, other))), Infinity),
  )
  return least.reduce((sum, value) => sum + value, 0) / least.length
}

function split(values: Float32Array, n: number): Float32Array[] {
  const size = values.length / n
  return Array.from({ length: n }, (_, i) => values.slice(i * size, (i + 1) * size))
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { steps: { type: 'string' }, out: { type: 'string', default: 'preset-small' } },
  })
  const at = (name: string) => path.join(values.out, name)
  for (const name of ['preset', 'defaults']) if (existsSync(at(name))) rmSync(at(name), { recursive: true })
  const folder = await drawPictures(at('icons'), count, 1, icon)
  const data = await Dataset.open(folder, { size: 32, flip: false, seed: 0 })
  const { images } = await data.batch(0, count)
  const icons = split(images, count)
  await saveImages(at('icons.png'), Tensor.wrap(images, [count, 3, 32, 32]), { columns: 20 })
  console.log(`${count} icons, each ${nearest(icons, icons).toFixed(4)} from the nearest other`)

  const common = [folder, '--sample-every', '0', ...(values.steps ? ['--steps', values.steps] : [])]
  const seconds = await train([...common, '--out', at('preset'), '--preset', 'small'])
  await train([...common, '--out', at('defaults'), '--no-flip'], seconds)
  for (const name of ['preset', 'defaults']) {
    using ddpm = await loadModel(at(name))
    using samples = await ddpm.sample({ batchSize: shown, sampler: 'dpmsolver++', steps: 25, seed: 1 })
    await saveImages(at(`${name}.png`), samples, { columns: 8, scale: 3 })
    const drawn = split(await samples.data(), shown)
    console.log(
      `${name.padEnd(9)} ${seconds.toFixed(0)} s: a sample is ${nearest(drawn, icons).toFixed(4)} from the nearest icon`,
    )
  }
}

main().catch((error) => {
  console.error(error)
  process.exitCode = 1
})
