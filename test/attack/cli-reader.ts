/** Hostile files for the command line: what it prints counts too. */
import { spawn } from 'node:child_process'
import path from 'node:path'
import type { Answer, Bounds } from './support/pool'

const main = path.join(__dirname, '..', '..', 'lib', 'cli', 'main.js')
const meter = path.join(__dirname, 'support', 'meter.js')
const maxOutput = 256 * 1024

export const commandLines: Readonly<Record<string, (file: string, target: string) => string[]>> = {
  info: (file) => ['info', file],
  convert: (file, target) => ['convert', file, `${target}.safetensors`],
  sample: (file, target) => ['sample', '--model', file, '--output', `${target}.png`, '--count', '1', '--steps', '1'],
}

/** Once a process, as people read its output, and once as programs do, for the error's code. */
export async function openByCommand(name: string, file: string, target: string, bounds: Bounds): Promise<Answer> {
  const args = commandLines[name](file, target)
  const shown = await start([...args], bounds)
  if (shown.outcome !== 'read' || shown.exitCode === 0) return shown
  const { outcome, events, ...rest } = await start([...args, '--json'], bounds)
  if (outcome !== 'read') return { outcome, ...rest } as Answer
  const { event, code, message } = JSON.parse(events.trimEnd().split('\n').at(-1) || '{}')
  if (event !== 'error') return { ...shown, outcome: 'thrown', message: `it failed without an event: ${events}` }
  return { ...shown, outcome: 'refused', code, message }
}

type Ran = Answer & { readonly exitCode: number | null; readonly events: string }

function start(args: readonly string[], { hang }: Bounds): Promise<Ran> {
  const child = spawn(process.execPath, ['-r', meter, main, ...args], {
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    env: { ...process.env, DDPM_NUM_THREADS: '1' },
  })
  const outputs = ['', '', '']
  for (const i of [1, 2, 3]) {
    child.stdio[i]!.on('data', (data) => {
      outputs[i - 1] = (outputs[i - 1] + data).slice(0, 2 * maxOutput)
    })
  }
  const timer = setTimeout(() => child.kill('SIGKILL'), hang)
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (exitCode, signal) => {
      clearTimeout(timer)
      const [stdout, stderr, measured] = outputs
      const base = { exitCode, events: stdout }
      if (signal || !measured) {
        const how = child.killed ? `busy after ${hang / 1000} s` : `the process ended: ${signal ?? exitCode}`
        return resolve({ ...base, outcome: 'died', message: `${how} ${stderr.slice(-500)}` })
      }
      const problem = problemOf(exitCode, stdout, stderr, args.includes('--json'))
      const { memory, milliseconds } = JSON.parse(measured)
      resolve({ ...base, outcome: problem ? 'thrown' : 'read', message: problem, memory, milliseconds })
    })
  })
}

function problemOf(code: number | null, stdout: string, stderr: string, json: boolean): string | undefined {
  if (code !== 0 && code !== 1 && code !== 2) return `exit code ${code}: ${stderr}`
  if (code !== 0 && !/^ddpm \w+: [^\n]+\n$/.test(stderr)) return `not one line on stderr: ${stderr}`
  // Everything but tab and newline that a terminal acts upon: C0, DEL and C1.
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  const control = /[\x00-\x08\x0b-\x1f\x7f-\x9f]/.exec(stdout + stderr)
  if (control) return `a control character, ${JSON.stringify(control[0])}, in its output`
  if (!json && stdout.length > maxOutput) return 'more than 256 KB of output'
  if (stderr.length > 8192) return `${stderr.length} characters on stderr`
  return undefined
}
