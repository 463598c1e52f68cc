/** What a benchmark case is, and how one is timed. */
export interface Prepared {
  /** One unit of work, finished when the promise resolves. */
  run(): Promise<unknown>
  /** Peak memory of the programs involved, in bytes, where it is of interest. */
  memory?(): number
  dispose(): void
}

export interface Case {
  readonly name: string
  /** Floating-point operations of one run, two to a multiply-add, of the direct algorithm. */
  readonly flops?: number
  /** Images (or other items) that one run finishes. */
  readonly items?: number
  prepare(): Promise<Prepared>
}

export interface Result {
  readonly name: string
  readonly medianMs: number
  readonly minMs: number
  readonly samples: number
  readonly flops?: number
  readonly items?: number
  readonly memoryBytes?: number
}

/** Warms the case up and times it, in this process. */
export async function measure(benchCase: Case, seconds: number): Promise<Result> {
  const prepared = await benchCase.prepare()
  try {
    const { Bench } = await import('tinybench') // an ES module only
    const bench = new Bench({ time: seconds * 1000, iterations: 3, warmupTime: 200, warmupIterations: 1 })
    bench.add(benchCase.name, async () => {
      await prepared.run()
    })
    await bench.run()
    const result = bench.tasks[0].result
    if (!('latency' in result)) throw new Error(`${benchCase.name}: ${JSON.stringify(result)}`)
    const { p50, min, samplesCount } = result.latency
    return {
      name: benchCase.name,
      medianMs: p50,
      minMs: min,
      samples: samplesCount,
      flops: benchCase.flops,
      items: benchCase.items,
      memoryBytes: prepared.memory?.(),
    }
  } finally {
    prepared.dispose()
  }
}
