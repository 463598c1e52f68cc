import { readSource } from '../convert/source'
import { type Command, type OptionTable, UsageError } from './args'
import { checkWeights, convertOptions } from './convert'
import { createOutput, stderr, warn } from './output'
import { Progress } from './progress'
import { stoppable } from './stop'

const { to: _, weights: __, ...ofConvert } = convertOptions

const options = {
  ...ofConvert,
  weights: {
    kind: 'string',
    choices: ['ema', 'model'],
    help: 'the averaged weights (where there are any) or the trained ones',
  },
  revision: { kind: 'string', value: 'branch', help: 'where to, which is made where it is not there (main)' },
  private: { kind: 'flag', help: 'a model that is made is private' },
  message: { kind: 'string', value: 'text', help: 'of the commit (Upload model)' },
  license: { kind: 'string', value: 'name', help: "for the model card, such as 'mit' (none is said)" },
  'overwrite-card': { kind: 'flag', help: 'replace a README.md that is there (it stays)' },
} as const satisfies OptionTable

export const push: Command<typeof options> = {
  name: 'push',
  summary: 'Sends a model to the Hugging Face hub, as a diffusers folder with a model card.',
  usage: '<model> <owner/name> [options]',
  positionals: 2,
  options,
  notes: `
HF_TOKEN, or what a login has left, must be a token that may write there. A model that is not there is made. What is
there already is not sent again, and what the hub has afterwards is compared with what was sent.

  ddpm push runs/photos someone/photos --private
  ddpm push photos.safetensors someone/photos --revision v2 --license mit`,

  async run(values, [source, name]) {
    if (source === undefined || name === undefined)
      throw new UsageError('the model or the name, <owner/name>, is missing')
    const { weights, config, key, from, variant, 'max-shard-size': maxShardSize, revision, license, json } = values
    checkWeights(weights, values['sigma-rel'])
    const output = createOutput(json === true)
    const model = await readSource(source, { config, key, variant: from, sigmaRel: values['sigma-rel'] })
    let bar: Progress | undefined
    try {
      const { exitCode } = await stoppable(async (signal) => {
        const result = await model.ddpm.pushToHub(name, {
          ...{ weights, variant, maxShardSize, revision, license, signal },
          private: values.private,
          commitMessage: values.message,
          overwriteCard: values['overwrite-card'],
          onUpload: ({ sent, total }) => {
            bar ??= new Progress(stderr, { label: 'upload', total, rate: false })
            bar.update(sent)
          },
        })
        bar?.clear()
        const sent = result.files.length === 0 ? 'all of it was there' : `${result.files.length} files`
        output.say(`${source} (${model.kind}) -> ${result.url}: ${sent}`)
        for (const warning of model.ddpm.warnings()) warn(output, warning)
        output.event('done', { from: model.kind, ...result })
      })
      return exitCode
    } finally {
      bar?.clear()
      model.ddpm.dispose()
    }
  },
}
