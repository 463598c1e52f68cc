/** What a part of the attack is given and what it gives back. */
import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { Random } from '../../support/random'

/** A line of the table at the end. */
export type Figures = Readonly<Record<string, string | number>>

export interface Part {
  readonly name: string
  /** Of the time, relative to the others. */
  readonly share: number
  run(attack: Attack): Promise<readonly Figures[]>
}

export interface Failure {
  readonly name: string
  readonly problem: string
  /** A command line. */
  readonly reproduce: string
}

export interface AttackOptions {
  readonly part: string
  readonly seed: number
  readonly milliseconds: number
  /** The cases with this name alone. */
  readonly only?: string
  readonly log?: (line: string) => void
}

/** One part's run. Every case has a name, and follows from the seed and that name alone, so that one can be repeated. */
export class Attack implements Disposable {
  readonly failures: Failure[] = []
  /** Removed afterwards. */
  readonly folder: string
  readonly #options: AttackOptions
  readonly #until: number

  constructor(options: AttackOptions) {
    this.#options = options
    this.#until = Date.now() + options.milliseconds
    this.folder = mkdtempSync(path.join(os.tmpdir(), `ddpm-attack-${options.part}-`))
  }

  /** True when the time is used up. A case that is asked for by its name has all the time it needs. */
  get over(): boolean {
    return this.#options.only === undefined && Date.now() >= this.#until
  }

  /** Milliseconds. */
  get remaining(): number {
    return Math.max(0, this.#until - Date.now())
  }

  /** A part of a part: another deadline, the same failures. */
  within(share: number): { readonly over: boolean } {
    const { only } = this.#options
    const until = Date.now() + share * Math.max(0, this.#until - Date.now())
    return {
      get over() {
        return only === undefined && Date.now() >= until
      },
    }
  }

  wants(name: string): boolean {
    return this.#options.only === undefined || this.#options.only === name
  }

  random(name: string): Random {
    return new Random(createHash('sha256').update(`${this.#options.seed} ${name}`).digest().readUInt32LE())
  }

  /** In an order that the seed decides, so that a short run is a fair sample of a long one. */
  shuffled<T>(items: readonly T[]): T[] {
    const random = this.random('order')
    const result = [...items]
    for (let i = result.length - 1; i > 0; i--) {
      const j = Math.floor(random.uniform() * (i + 1))
      ;[result[i], result[j]] = [result[j], result[i]]
    }
    return result
  }

  fail(name: string, problem: string): void {
    const { part, seed } = this.#options
    const reproduce = `npm run attack -- --only ${part} --seed ${seed} --case '${name}'`
    this.failures.push({ name, problem, reproduce })
    this.log(`FAILED ${name}: ${problem}\n       ${reproduce}`)
  }

  log(line: string): void {
    this.#options.log?.(line)
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true, force: true })
  }
}
