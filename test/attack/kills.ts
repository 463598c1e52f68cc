/** Signals at random moments of a training, one or two at once: what is resumed ends as one that was never stopped, to the bit. */
import { mkdirSync, rmSync } from 'node:fs'
import path from 'node:path'
import { openCheckpoint } from '../../lib/train/checkpoint'
import { type Ended, ended, readMetrics, startCli } from '../train/support'
import type { Attack, Figures, Part } from './support/attack'
import { checkWhole, leftovers, namesIn, resultOf } from './support/run-folder'
import { makeTiny, type Tiny, tinyTraining } from './support/tiny'

const signals = ['SIGKILL', 'SIGTERM', 'SIGHUP', 'SIGINT', 'SIGUSR1'] as const
type Signal = (typeof signals)[number]

/** 128 and the signal's number, as shells report it. */
const codes: Readonly<Record<Signal, number>> = { SIGKILL: 137, SIGTERM: 143, SIGHUP: 129, SIGINT: 130, SIGUSR1: 138 }
const steps = 30
const hang = 120_000

interface Tally {
  signals: number
  inTraining: number
  twice: number
}

class Kills {
  #folders = 0
  readonly tallies = new Map<Signal, Tally>()

  constructor(
    readonly attack: Attack,
    readonly tiny: Tiny,
  ) {}

  #args(run: string): string[] {
    return ['train', this.tiny.images, '--out', run, '--steps', String(steps), ...tinyTraining, '--keep', '3', '--json']
  }

  /** How long the whole takes, and what comes of it. */
  async unbroken(): Promise<{ milliseconds: number; result: string; names: string[] }> {
    const run = path.join(this.attack.folder, 'unbroken')
    const start = performance.now()
    const { code, stderr } = await ended(startCli(this.#args(run)))
    if (code !== 0) throw new Error(`the training to be killed failed: ${stderr}`)
    return { milliseconds: performance.now() - start, result: await resultOf(run), names: namesIn(run) }
  }

  async once(name: string, whole: Awaited<ReturnType<Kills['unbroken']>>): Promise<void> {
    const random = this.attack.random(name)
    const folder = path.join(this.attack.folder, String(this.#folders++))
    const run = path.join(folder, 'run')
    mkdirSync(folder)
    try {
      const kills = 1 + Math.floor(3 * random.uniform())
      for (let kill = 0; kill < kills; kill++) {
        const signal = signals[Math.floor(signals.length * random.uniform())]
        const again = random.uniform() < 0.4 ? 60 * random.uniform() : undefined
        await this.#kill(name, run, signal, whole.milliseconds * random.uniform(), again)
      }
      const { code, stderr } = await ended(startCli([...this.#args(run), '--resume']))
      if (code !== 0) return this.attack.fail(name, `it can't be resumed: ${stderr}`)
      if ((await resultOf(run)) !== whole.result)
        this.attack.fail(name, 'it ends with other numbers than an unbroken run')
      if (leftovers(run).length > 0) this.attack.fail(name, `it leaves ${leftovers(run).join(', ')}`)
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  }

  async #kill(name: string, run: string, signal: Signal, after: number, again: number | undefined): Promise<void> {
    const child = startCli([...this.#args(run), '--resume'])
    let training = false
    const send = setTimeout(() => {
      child.kill(signal)
      if (again !== undefined) setTimeout(() => child.kill(signal), again)
    }, after)
    const timer = setTimeout(() => child.kill('SIGABRT'), hang)
    let trainingWhenSent = false
    const result = await ended(child, (stdout) => {
      training ||= stdout.includes('"event":"step"')
      if (!child.killed) trainingWhenSent = training
    })
    clearTimeout(send)
    clearTimeout(timer)
    const tally = this.tallies.get(signal) ?? { signals: 0, inTraining: 0, twice: 0 }
    this.tallies.set(signal, tally)
    tally.signals++
    if (trainingWhenSent) tally.inTraining++
    if (again !== undefined) tally.twice++
    const problem = await this.#problem(run, signal, result, trainingWhenSent)
    if (problem)
      this.attack.fail(name, `${signal}${again === undefined ? '' : ' twice'} after ${after.toFixed(0)} ms: ${problem}`)
  }

  async #problem(run: string, signal: Signal, result: Ended, training: boolean): Promise<string | undefined> {
    try {
      await checkWhole(run)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') return `${(error as Error).message}`
    }
    const [code, { stderr }] = [result.signal ?? result.code, result]
    if (code === 0) return undefined // it was done before
    if (signal === 'SIGKILL') return code === 'SIGKILL' ? undefined : `it ends with ${code}: ${stderr}`
    // Before it has begun, a signal may do what signals do.
    if (!training && code === signal) return undefined
    if (code !== codes[signal]) return `it ends with ${code} in place of ${codes[signal]}: ${stderr}`
    if (!training) return undefined
    const { state } = await openCheckpoint(run)
    const done = readMetrics(run).length
    return state.step === done ? undefined : `step ${done} was done, the checkpoint is of step ${state.step}`
  }
}

async function run(attack: Attack): Promise<readonly Figures[]> {
  const kills = new Kills(attack, await makeTiny(path.join(attack.folder, 'tiny')))
  const whole = await kills.unbroken()
  let next = 0
  const worker = async () => {
    while (!attack.over && next < 1e5) {
      const name = `run ${next++}`
      if (attack.wants(name)) await kills.once(name, whole)
    }
  }
  await Promise.all([worker(), worker()])
  attack.log(`${next} runs were killed and resumed`)
  return signals.map((signal) => {
    const { signals = 0, inTraining = 0, twice = 0 } = kills.tallies.get(signal) ?? {}
    return { signal, sent: signals, 'in training': inTraining, twice }
  })
}

export const kills: Part = { name: 'kills', share: 3, run }
