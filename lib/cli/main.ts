#!/usr/bin/env node
/** The `ddpm` command. Exit codes: 0 done, 1 failed, 2 wrong use, 130 and 143 ended by SIGINT and SIGTERM. */
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { DiffusionError } from '../errors'
import { closest } from '../options'
import { type Command, helpOf, parseCommand, UsageError } from './args'
import { Interrupted } from './output'

/** Loaded when used: `ddpm --help` and --version need no addon. */
const commands: Readonly<Record<string, () => Promise<Command>>> = {
  train: async () => (await import('./train.js')).train as unknown as Command,
  sample: async () => (await import('./sample.js')).sample as unknown as Command,
  evaluate: async () => (await import('./evaluate.js')).evaluate as unknown as Command,
  export: async () => (await import('./export.js')).exportModel as unknown as Command,
  convert: async () => (await import('./convert.js')).convert as unknown as Command,
  info: async () => (await import('./info.js')).info as unknown as Command,
}

const help = `Train denoising diffusion models and draw images with them.

Usage: ddpm <command> [options]

Commands:
  train <folder> --out <run>   train a model on a folder of images
  sample                       draw images
  evaluate <folder>            bits per dimension and errors over a folder of images
  export --model <file>        write a model for other runtimes, as ONNX
  convert <source> <target>    write a model in the form that other libraries open
  info <checkpoint>            what a model file or a checkpoint holds

Options:
  -h, --help   this help, or a command's: ddpm train --help
  --version    the version

DDPM_NUM_THREADS sets the number of CPU threads (all cores).
`

async function main(argv: readonly string[]): Promise<number> {
  const [name, ...rest] = argv
  if (name === '--version' || name === '-v') {
    const file = path.join(__dirname, '..', '..', '..', 'package.json')
    process.stdout.write(`${JSON.parse(readFileSync(file, 'utf8')).version}\n`)
    return 0
  }
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    ;(name === undefined ? process.stderr : process.stdout).write(help)
    return name === undefined ? 2 : 0
  }
  const load = Object.hasOwn(commands, name) ? commands[name] : undefined
  if (!load) {
    const likely = closest(name, Object.keys(commands))
    return usage('ddpm', `unknown command '${name}'${likely ? `; did you mean '${likely}'?` : '; see ddpm --help'}`)
  }
  const json = rest.includes('--json')
  try {
    const command = await load()
    const { values, positionals } = parseCommand(command, rest)
    if (values.help) {
      process.stdout.write(helpOf(command))
      return 0
    }
    return await command.run(values, positionals)
  } catch (error) {
    if (error instanceof UsageError) return usage(`ddpm ${name}`, `${error.message} (see ddpm ${name} --help)`)
    return failure(`ddpm ${name}`, error, json)
  }
}

function usage(who: string, message: string): number {
  process.stderr.write(`${who}: ${message}\n`)
  return 2
}

function failure(who: string, error: unknown, json: boolean): number {
  if (error instanceof DiffusionError && error.cause instanceof Interrupted) return error.cause.exitCode
  const known = error instanceof DiffusionError
  const message = error instanceof Error ? error.message : String(error)
  process.stderr.write(`${who}: ${message.split('\n').join(' ')}\n`)
  if (!known && process.env.DDPM_DEBUG && error instanceof Error) process.stderr.write(`${error.stack}\n`)
  if (json)
    process.stdout.write(`${JSON.stringify({ event: 'error', code: known ? error.code : 'internal', message })}\n`)
  return 1
}

// A reader that went away (`ddpm info ... | head -1`) is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0)
  throw error
})

main(process.argv.slice(2)).then((code) => {
  process.exitCode = code
})
