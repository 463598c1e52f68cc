/**
 * npm run bench:model -- --gpu H200 --batch 1,16,128,512 --training 128 --precision bf16 --rows 25 --note TEXT --output FILE.md
 *
 * How long a step of sampling and of training should take on a GPU, layer by layer, by a model (time.ts): for decisions before a
 * GPU sees them. Nothing is executed; kernels, grids and splits are those that the library itself would launch there.
 */
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { type Precision, precisions } from '../../lib/native'
import { gpus } from './gpus'
import { type Kind, stepsOf } from './programs'
import { layerTable, overview } from './table'
import { timeOf } from './time'

const { values } = parseArgs({
  options: {
    gpu: { type: 'string', default: 'H200' },
    batch: { type: 'string', default: '1,16,128,512' },
    training: { type: 'string', default: '128' },
    precision: { type: 'string', default: 'bf16' },
    rows: { type: 'string', default: '25' },
    note: { type: 'string' },
    output: { type: 'string' },
  },
})

function fail(problem: string): never {
  console.error(`bench:model: ${problem}`)
  process.exit(2)
}

function integers(name: 'batch' | 'training' | 'rows'): number[] {
  const all = values[name].split(',').filter((text) => text !== '')
  return all.map((text) => {
    if (!/^[1-9]\d{0,5}$/.test(text)) fail(`--${name} takes integers of at least 1, not '${text}'`)
    return Number(text)
  })
}

async function main(): Promise<void> {
  const gpu = gpus[values.gpu] ?? fail(`--gpu is one of ${Object.keys(gpus).join(', ')}, not '${values.gpu}'`)
  const precision = precisions.find((name) => name === values.precision) as Precision | undefined
  if (!precision) fail(`--precision is one of ${precisions.join(', ')}, not '${values.precision}'`)
  const [rows] = integers('rows')
  const wanted = (['sampling', 'training'] as const satisfies readonly Kind[]).flatMap((kind) =>
    integers(kind === 'sampling' ? 'batch' : 'training').map((batch) => ({ kind, batch })),
  )
  const results = (await stepsOf(gpu, precision, wanted)).map(({ kind, batch, steps }) => ({
    name: `${kind}, batch ${batch}`,
    times: steps.map((step) => timeOf(step, gpu)),
  }))
  const given = Object.entries(values).filter(([name]) => name !== 'note' && name !== 'output')
  const command = `npm run bench:model -- ${given.map(([name, value]) => `--${name} '${value}'`).join(' ')}`
  const page = [
    `# ${gpu.name}, ${precision}, ${new Date().toISOString().slice(0, 10)}: a model`,
    '',
    `Device: none, a model. CIFAR-10 UNet. \`${command}\``,
    ...(values.note === undefined ? [] : [values.note]),
    '',
    `${gpu.multiprocessors} multiprocessors, ${gpu.tensorFlops / 1e12} TFLOP/s of tensor cores, of which mma.sync reaches`,
    `${100 * gpu.mmaShare} %, ${gpu.bandwidth / 1e12} TB/s (${gpu.source}).`,
    '',
    overview(results, gpu),
    ...results.flatMap((result) => ['', `## A step of ${result.name}`, '', layerTable(result, rows)]),
    '',
  ].join('\n')
  console.log(page)
  if (values.output !== undefined) writeFileSync(values.output, page)
}

main().catch((error: Error) => {
  console.error(`bench:model: ${error.message}`)
  process.exitCode = 1
})
