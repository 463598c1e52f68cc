#!/usr/bin/env node
/**
 * The `ddpm` command. Exit codes:
 *
 * - 0 done. A stdout whose reader went away (`ddpm info ... | head -1`) is no failure.
 * - 1 failed, or stdout or stderr could not be written
 * - 2 wrong use
 * - 128 + n asked to stop by signal n: 129 SIGHUP, 130 SIGINT, 143 SIGTERM and so on. A training saves first; its own stdout or
 *   stderr counts as such a request when it fails, a closed one with 141 as for SIGPIPE, a full disk with 1.
 */
import './addon-first'

import { removeTemporaryFiles } from '../checkpoint/temporary-file'
import { DiffusionError } from '../errors'
import { closest } from '../options'
import { packageVersion } from '../version'
import { type Command, helpOf, parseCommand, UsageError } from './args'
import { inOptionNames } from './option-names'
import { closeLostTerminals, createOutput, flushed, note, stderr, stdout } from './output'
import { Interrupted, listenToSignals } from './stop'

/** Loaded when used: `ddpm --help` and --version need no addon. */
const commands: Readonly<Record<string, () => Promise<Command>>> = {
  train: async () => (await import('./train.js')).train as unknown as Command,
  'train-autoencoder': async () => (await import('./train-autoencoder.js')).trainAutoencoder as unknown as Command,
  sample: async () => (await import('./sample.js')).sample as unknown as Command,
  merge: async () => (await import('./merge.js')).merge as unknown as Command,
  evaluate: async () => (await import('./evaluate.js')).evaluate as unknown as Command,
  export: async () => (await import('./export.js')).exportModel as unknown as Command,
  convert: async () => (await import('./convert.js')).convert as unknown as Command,
  push: async () => (await import('./push.js')).push as unknown as Command,
  info: async () => (await import('./info.js')).info as unknown as Command,
}

const help = `Train denoising diffusion models and draw images with them.

Usage: ddpm <command> [options]

Commands:
  train <folder> --out <run>   train a model on a folder of images
  train-autoencoder <folder> --out <run>   train a first stage for latents
  sample [<model>]             draw images
  merge <part>... --out <file> what shards of a sampling drew, as one file
  evaluate                     bits per dimension of images, or FID of samples
  export [<model>]             write a model for other runtimes, as ONNX
  convert <source> <target>    write a model in the form that others open
  push <model> <owner/name>    send a model to the Hugging Face hub
  info [<model>]               what a model holds

Options:
  -h, --help   this help, or a command's: ddpm train --help
  --version    the version

DDPM_NUM_THREADS sets the number of CPU threads (all cores).
`

async function main(argv: readonly string[]): Promise<number> {
  const [name, ...rest] = argv
  if (name === '--version' || name === '-v') {
    stdout.write(`${packageVersion()}\n`)
    return 0
  }
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    ;(name === undefined ? stderr : stdout).write(help)
    return name === undefined ? 2 : 0
  }
  const load = Object.hasOwn(commands, name) ? commands[name] : undefined
  if (!load) {
    const likely = closest(name, Object.keys(commands))
    return usage('ddpm', `unknown command '${name}'${likely ? `; did you mean '${likely}'?` : '; see ddpm --help'}`)
  }
  const json = rest.includes('--json')
  let command: Command | undefined
  try {
    command = await load()
    const { values, positionals } = parseCommand(command, rest)
    if (values.help) {
      stdout.write(helpOf(command))
      return 0
    }
    return await command.run(values, positionals)
  } catch (error) {
    if (error instanceof UsageError) return usage(`ddpm ${name}`, `${error.message} (see ddpm ${name} --help)`)
    return failure(`ddpm ${name}`, error, json, command)
  }
}

function usage(who: string, message: string): number {
  note(`${who}: ${message}`)
  return 2
}

function failure(who: string, error: unknown, json: boolean, command?: Command): number {
  if (error instanceof DiffusionError && error.cause instanceof Interrupted) return error.cause.exitCode
  const known = error instanceof DiffusionError
  const said = error instanceof Error ? error.message : String(error)
  const message = known && command ? inOptionNames(said, error.argument, command.options) : said
  note(`${who}: ${message.split('\n').join(' ')}`)
  if (!known && process.env.DDPM_DEBUG && error instanceof Error) stderr.write(`${error.stack}\n`)
  createOutput(json).event('error', { code: known ? error.code : 'internal', message })
  return 1
}

const lastLinesMs = 5000

process.on('exit', (code) => {
  removeTemporaryFiles()
  const lost = [stdout, stderr].map((channel) => channel.lost).find((lost) => lost && !lost.closed)
  if (code === 0 && lost) {
    note(`ddpm: cannot write to ${lost.name}: ${lost.reason}`)
    process.exitCode = 1
  }
  closeLostTerminals()
})
listenToSignals()
main(process.argv.slice(2)).then(async (code) => {
  process.exitCode = code
  // What was asked to stop does not wait for ever for somebody to read its last lines.
  if (code !== 0) setTimeout(() => process.exit(), lastLinesMs).unref()
  await flushed()
  process.exit() // where Node ends by itself, it takes the listeners to signals off first: one that comes then is deadly
})
