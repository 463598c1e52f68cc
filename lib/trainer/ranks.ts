/**
 * The processes of a training. One leads: it alone has the run folder, saves and tells; the others take steps and evaluate. Options are
 * those of one process that has all batches of a step.
 */
import { isDeepStrictEqual } from 'node:util'
import { deserialize, serialize } from 'node:v8'
import { DiffusionError, describe } from '../errors'
import { bigintsAsText } from '../printable'
import type { World } from '../world'

export class Ranks {
  /** `world`: of those that train together; undefined where this process does alone. */
  constructor(readonly world: World | undefined) {}

  get size(): number {
    return this.world?.size ?? 1
  }

  get rank(): number {
    return this.world?.rank ?? 0
  }

  get leads(): boolean {
    return this.rank === 0
  }

  /** Of `accumulate` batches of a step, how many this rank has, and the first of them. Throws `invalid-argument`. */
  share(accumulate: number): { readonly own: number; readonly first: number } {
    const own = accumulate / this.size
    if (Number.isInteger(own)) return { own, first: this.rank * own }
    const what = `${accumulate} batches of a step are not to be divided among ${this.size} processes`
    throw new DiffusionError('invalid-argument', what, {
      argument: 'accumulate',
      expected: `a multiple of ${this.size} in all`,
      received: String(accumulate),
    })
  }

  /** Of all batches of a training from step `step` on, the number of this rank's k-th. */
  batchAt(step: number, k: number, accumulate: number): number {
    const { own, first } = this.share(accumulate)
    return (step + Math.floor(k / own)) * accumulate + first + (k % own)
  }

  /** Whether it holds for any rank. */
  async any(holds: boolean): Promise<boolean> {
    if (!this.world) return holds
    return (await this.world.gather([holds ? 1 : 0])).some(([flag]) => flag === 1)
  }

  /** The numbers of all ranks, one after the other. */
  async inOrder(numbers: readonly number[]): Promise<readonly number[]> {
    return this.world ? (await this.world.gather(numbers)).flat() : numbers
  }

  /** What the leader has, as JSON has it. */
  async ofLeader<T>(value: T): Promise<T> {
    if (!this.world) return value
    const [text] = await this.world.gatherTexts(this.leads ? JSON.stringify({ value }, bigintsAsText) : '')
    return (JSON.parse(text) as { value: T }).value
  }

  /**
   * What `work` gives, when all ranks have done theirs, however long that takes: meanwhile each tells the others every so often that it is
   * there, so that one that hangs is missed in time. `work` asks nothing of the others. An abort of one is one of all: throws `aborted`,
   * once they have ended theirs, which `stop` asks them to. `signal`: of this rank, a part of `stop`, and heard while it waits for others, too.
   */
  async together<T>(work: (stop: AbortSignal) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const stop = new AbortController()
    const own = outcomeOf(() => work(signal ? AbortSignal.any([signal, stop.signal]) : stop.signal))
    let outcome: Outcome<T> | undefined
    own
      .then((ended) => {
        outcome = ended
      })
      .catch(() => {}) // it is looked at below
    const beat = () => (outcome === undefined ? 0 : 'value' in outcome && !signal?.aborted ? 1 : 2)
    let mine = 0
    for (let isOver = !this.world; !isOver; ) {
      await within(own, beatOf(this.world!))
      mine = beat()
      const beats = (await this.world!.gather([mine])).map(([flag]) => flag)
      if (mine !== 2 && beats.includes(2))
        stop.abort(new DiffusionError('aborted', `rank ${beats.indexOf(2)} was aborted`))
      isOver = !beats.includes(0)
    }
    const ended = await own
    if (stop.signal.aborted) throw stop.signal.reason
    if (!('value' in ended)) throw ended.aborted
    if (mine === 2)
      throw new DiffusionError('aborted', 'waiting for the other ranks was aborted', { cause: signal?.reason })
    return ended.value
  }

  /** What `work` gives the leader, as JSON has it, when that has done it. */
  async byLeader<T>(work: () => Promise<T>): Promise<T> {
    return this.ofLeader((await this.together(async () => (this.leads ? await work() : undefined))) as T)
  }

  /** What the leader does first, and the others when it has. */
  async leaderFirst<T>(open: () => Promise<T>): Promise<T> {
    const first = await this.together(async () => (this.leads ? { opened: await open() } : undefined))
    return first ? first.opened : await open()
  }

  /**
   * What `compute` gives of 0 to `count` - 1, in their order, on all ranks: each computes some of them. Objects of numbers, typed arrays and
   * texts. An abort of one rank ends all, as in together().
   */
  async *divided<T>(count: number, compute: (index: number) => Promise<T>): AsyncGenerator<T> {
    for (let first = 0; first < count; first += this.size) {
      const own = first + this.rank
      const value = await this.together(async () => (own < count ? await compute(own) : undefined))
      if (this.world) {
        const all = await this.world.gatherBytes(serialize(value))
        for (const bytes of all.slice(0, count - first)) yield deserialize(bytes) as T
      } else yield value as T
    }
  }

  /** Throws `rank-failed`, on all of them, for the first fact that one has otherwise than the leader. */
  async compare(facts: Readonly<Record<string, unknown>>): Promise<void> {
    if (!this.world) return
    const texts = await this.world.gatherTexts(JSON.stringify(facts, bigintsAsText))
    const [first, ...others] = texts.map((text) => JSON.parse(text) as Record<string, unknown>)
    for (const [i, other] of others.entries()) {
      const names = [...new Set([...Object.keys(first), ...Object.keys(other)])]
      const name = names.find((key) => !isDeepStrictEqual(first[key], other[key]))
      if (name === undefined) continue
      const [expected, received] = [describe(first[name]), describe(other[name])]
      throw new DiffusionError('rank-failed', `rank ${i + 1} has ${name} ${received}, rank 0 has ${expected}`, {
        argument: name,
        expected,
        received,
      })
    }
  }
}

type Outcome<T> = { readonly value: T } | { readonly aborted: unknown }

/** Rejects where it fails otherwise than by an abort. */
async function outcomeOf<T>(work: () => Promise<T>): Promise<Outcome<T>> {
  try {
    return { value: await work() }
  } catch (error) {
    if (error instanceof DiffusionError && error.code === 'aborted') return { aborted: error }
    throw error
  }
}

/** Milliseconds from one word to the others to the next: often enough for how long they wait, and to hear of an abort. */
function beatOf({ seconds }: World): number {
  return 1000 * Math.min(seconds / 4, 2)
}

/** When it has ended, or that time is over. */
async function within(work: Promise<unknown>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const over = new Promise((resolve) => {
    timer = setTimeout(resolve, ms)
  })
  await Promise.race([work, over]).finally(() => clearTimeout(timer))
}
