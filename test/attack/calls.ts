/**
 * Calls of the file system that fail, each in its turn: a command does its work or ends with an `io` error, what was there before is
 * as it was or replaced as a whole, and the next run finds nothing in its way.
 */
import { cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import type { Attack, Figures, Part } from './support/attack'
import { groupBy } from './support/group'
import { checkWhole, contentsOf, leftovers, namesIn, resultOf } from './support/run-folder'
import { buildShim, type Fault, type Ran, runWithFault } from './support/shim'
import { makeTiny, type Tiny, tinyTraining } from './support/tiny'

/** A command line, in a folder that is made anew for each fault. */
interface Scenario {
  readonly name: string
  prepare(folder: string): void
  args(folder: string): string[]
  /** After a fault. Throws. */
  check(folder: string): Promise<void> | void
  /** The command line that mends what is left. */
  again(folder: string): string[]
  /** What there is in the end, whatever happened on the way. */
  result(folder: string): Promise<string> | string
}

function scenarios(tiny: Tiny): Scenario[] {
  const run = (folder: string) => path.join(folder, 'run')
  const training = (folder: string) => [
    ...['train', path.join(folder, 'images'), '--out', run(folder), '--steps', '4', ...tinyTraining, '--json'],
  ]
  return [
    {
      name: 'training',
      prepare: (folder) => cpSync(tiny.images, path.join(folder, 'images'), { recursive: true }),
      args: training,
      check: (folder) => checkWhole(run(folder)),
      again: (folder) => [...training(folder), '--resume'],
      // A picture that could not be written is not drawn again.
      result: async (folder) => {
        const names = namesIn(run(folder)).filter((name) => !name.startsWith('samples'))
        return `${names}\n${await resultOf(run(folder))}`
      },
    },
    writing('sampling', tiny, ['s.png'], (model, out) => {
      return [
        'sample',
        '--model',
        model,
        '--count',
        '1',
        '--steps',
        '1',
        '--output',
        path.join(out, 's.png'),
        '--overwrite',
        '--json',
      ]
    }),
    writing('export', tiny, ['m.onnx'], (model, out) => {
      return ['export', '--model', model, '--output', path.join(out, 'm.onnx'), '--json']
    }),
    writing('export of two files', tiny, ['x.onnx', 'x.onnx_data'], (model, out) => {
      return [
        'export',
        '--model',
        model,
        '--output',
        path.join(out, 'x.onnx'),
        '--external-data',
        '--overwrite',
        '--json',
      ]
    }),
    writing('conversion to .ckpt', tiny, ['m.ckpt', 'm.yaml'], (model, out) => {
      return ['convert', model, path.join(out, 'm.ckpt'), '--json']
    }),
    writing('conversion to a folder', tiny, ['d/model_index.json', 'd/unet/config.json'], (model, out) => {
      return ['convert', model, path.join(out, 'd'), '--json']
    }),
  ]
}

/** A command that writes files, some of which are there already. */
function writing(
  name: string,
  tiny: Tiny,
  older: readonly string[],
  command: (model: string, out: string) => string[],
): Scenario {
  const out = (folder: string) => path.join(folder, 'out')
  const old = Buffer.from('what was there before')
  const args = (folder: string) => command(path.join(folder, 'model.safetensors'), out(folder))
  let whole: Record<string, string> | undefined
  return {
    name,
    prepare: (folder) => {
      cpSync(tiny.model, path.join(folder, 'model.safetensors'))
      for (const file of older) {
        mkdirSync(path.dirname(path.join(out(folder), file)), { recursive: true })
        writeFileSync(path.join(out(folder), file), old)
      }
    },
    args,
    check: (folder) => {
      for (const [file, contents] of Object.entries(contentsOf(out(folder)))) {
        if (path.basename(file).startsWith('.')) continue
        const before = older.includes(file) && contents === old.toString('base64')
        if (!before && contents !== whole![file]) throw new Error(`${file} is neither as it was nor new`)
      }
      checkPair(contentsOf(out(folder)), old.toString('base64'))
    },
    again: args,
    result: (folder) => {
      const contents = contentsOf(out(folder))
      whole ??= contents // of the run without a fault, which comes first
      return JSON.stringify(contents)
    },
  }
}

/** No model beside another's external data. */
function checkPair({ 'x.onnx': model, 'x.onnx_data': data }: Record<string, string>, old: string): void {
  if (model === undefined || data === undefined) return
  if ((model === old) !== (data === old)) throw new Error('a model lies beside the data of another')
}

interface Case {
  readonly fault: Fault
  /** Where it is in the program: the same for calls of one name on files of one kind. */
  readonly place: string
}

/** What can be wrong with the n-th call, by its name. */
function faultsOf(call: number, which: string): Case[] {
  const faults: Fault[] = [
    { call, how: 'EIO' },
    { call, how: 'kill' },
    { call, how: 'EIO', lasting: true },
  ]
  const [name] = which.split(' ', 1)
  if (name !== 'read') faults.push({ call, how: 'ENOSPC' }, { call, how: 'ENOSPC', lasting: true })
  if (name === 'open') faults.push({ call, how: 'EMFILE' })
  const kind = which.replace(/[0-9a-f]*\d[0-9a-f-]*/g, '')
  return faults.map((fault) => ({ fault, place: `${fault.how} ${fault.lasting ?? false} ${kind}` }))
}

/** One of each place first, then another of each: in a short time, most of what there is. */
function byPlace<T extends Case>(cases: readonly T[]): T[] {
  const groups = groupBy(cases, ({ place }) => place)
  const rounds = Math.max(0, ...groups.map(({ length }) => length))
  return Array.from({ length: rounds }, (_, i) => groups.flatMap((group) => group.slice(i, i + 1))).flat()
}

interface Tally {
  calls: number
  cases: number
  run: number
  failed: number
  killed: number
  succeeded: number
}

class Faults {
  #folders = 0

  constructor(
    readonly attack: Attack,
    readonly library: string,
  ) {}

  async in<T>(scenario: Scenario, use: (folder: string) => Promise<T>): Promise<T> {
    const folder = path.join(this.attack.folder, `work-${this.#folders++}`)
    mkdirSync(folder)
    try {
      scenario.prepare(folder)
      return await use(folder)
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  }

  /** Without a fault: the calls there are, and what comes of it. */
  measure(scenario: Scenario): Promise<{ calls: readonly string[]; result: string }> {
    return this.in(scenario, async (folder) => {
      const ran = await runWithFault(this.library, folder, scenario.args(folder), { call: 0, how: 'EIO' })
      if (ran.code !== 0) throw new Error(`${scenario.name} fails by itself: ${ran.stderr}`)
      return { calls: ran.calls, result: await scenario.result(folder) }
    })
  }

  async attackOnce(scenario: Scenario, fault: Fault, name: string, expected: string, tally: Tally): Promise<void> {
    await this.in(scenario, async (folder) => {
      const ran = await runWithFault(this.library, folder, scenario.args(folder), fault)
      tally.run++
      if (ran.signal === 'SIGKILL') tally.killed++
      else if (ran.code === 0) tally.succeeded++
      else tally.failed++
      const hit = ran.calls[fault.call - 1] ?? 'no call'
      const fail = (problem: string) => this.attack.fail(name, `${hit}: ${problem}`)
      const problem = problemOf(ran, fault)
      if (problem) fail(problem)
      // What is removed may fail to be; else nothing is left of a process that could tidy up.
      if (ran.signal === null && !fault.lasting && !hit.startsWith('unlink')) {
        const left = leftovers(folder)
        if (left.length > 0) fail(`it leaves ${left.join(', ')}`)
      }
      try {
        await scenario.check(folder)
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') fail(`afterwards: ${(error as Error).message}`)
      }
      const again = await runWithFault(this.library, folder, scenario.again(folder), { call: 0, how: 'EIO' })
      if (again.code !== 0) return fail(`the next run ends with ${again.signal ?? again.code}: ${last(again.stderr)}`)
      const left = leftovers(folder)
      if (left.length > 0) fail(`the next run leaves ${left.join(', ')}`)
      if ((await scenario.result(folder)) !== expected) fail('the next run does not end as one without a fault does')
    })
  }
}

const last = (text: string) => JSON.stringify(text.trimEnd().split('\n').at(-1))

function problemOf(ran: Ran, fault: Fault): string | undefined {
  if (ran.signal === 'SIGKILL' && fault.how === 'kill') return undefined
  if (ran.signal) return `it ends by ${ran.signal}: ${last(ran.stderr)}`
  if (ran.code === 0) return undefined
  if (ran.code !== 1) return `exit code ${ran.code}: ${last(ran.stderr)}`
  const event = JSON.parse(ran.stdout.trimEnd().split('\n').at(-1) || '{}')
  if (event.event !== 'error' || event.code !== 'io')
    return `it ends with ${event.code ?? 'no event'}: ${last(ran.stderr)}`
  return undefined
}

async function run(attack: Attack): Promise<readonly Figures[]> {
  const shim = buildShim(attack.folder)
  if ('missing' in shim) {
    attack.log(`not run: ${shim.missing}`)
    return []
  }
  const faults = new Faults(attack, shim.library)
  const tallies = new Map<string, Tally>()
  const cases: (Case & { scenario: Scenario; expected: string; tally: Tally })[] = []
  for (const scenario of scenarios(await makeTiny(path.join(attack.folder, 'tiny')))) {
    const { calls, result: expected } = await faults.measure(scenario)
    const all = calls.flatMap((call, i) => faultsOf(i + 1, call))
    const tally = { calls: calls.length, cases: all.length, run: 0, failed: 0, killed: 0, succeeded: 0 }
    tallies.set(scenario.name, tally)
    const own = all.map(({ fault, place }) => ({ fault, place: `${scenario.name} ${place}` }))
    cases.push(...own.map((one) => ({ ...one, scenario, expected, tally })))
  }
  const queue = byPlace(attack.shuffled(cases)).reverse()
  const worker = async () => {
    for (let next = queue.pop(); next && !attack.over; next = queue.pop()) {
      const { scenario, fault, expected, tally } = next
      const name = `${scenario.name}, ${fault.how} ${fault.lasting ? 'from' : 'at'} ${fault.call}`
      if (attack.wants(name)) await faults.attackOnce(scenario, fault, name, expected, tally)
      if (queue.length % 100 === 0) attack.log(`${cases.length - queue.length} of ${cases.length} faults`)
    }
  }
  await Promise.all([worker(), worker()])
  return [...tallies].map(([command, { calls, cases, run, failed, killed, succeeded }]) => ({
    command,
    calls,
    faults: `${run} of ${cases}`,
    'io errors': failed,
    'went on': succeeded,
    'kills survived': killed,
  }))
}

export const calls: Part = { name: 'calls', share: 6, run }
