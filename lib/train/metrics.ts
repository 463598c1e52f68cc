/** metrics.jsonl: one JSON object a line, one line a training step. */
import { closeSync, existsSync, openSync, readFileSync, writeSync } from 'node:fs'
import { atomicWrite } from '../checkpoint/atomic-write'

/** What a training step reports. */
export interface StepMetrics {
  /** Completed optimizer steps, this one included. */
  readonly step: number
  /** Means over the accumulated batches; keys as in ddpm.py's loss dictionary. */
  readonly loss: number
  readonly loss_simple: number
  readonly loss_vlb: number
  /** Global L2 norm of the gradients before clipping; null where they overflowed in fp16 and the step changed nothing. */
  readonly gradNorm: number | null
  /** With fp16: what the loss was multiplied by for its gradients. */
  readonly lossScale?: number
  readonly lr: number
  readonly imagesPerSecond: number
  /** ISO 8601. */
  readonly time: string
}

export class MetricsLog {
  readonly #fd: number

  private constructor(fd: number) {
    this.#fd = fd
  }

  /** Appends to `file`, after dropping what a killed run wrote beyond `step`: those steps will be taken again. */
  static async open(file: string, step: number): Promise<MetricsLog> {
    if (existsSync(file)) {
      const kept = readFileSync(file, 'utf8')
        .split('\n')
        .filter((line) => isWithin(line, step))
      await atomicWrite(file, kept.map((line) => `${line}\n`).join(''))
    }
    return new MetricsLog(openSync(file, 'a'))
  }

  write(metrics: StepMetrics): void {
    writeSync(this.#fd, `${JSON.stringify(metrics)}\n`)
  }

  close(): void {
    closeSync(this.#fd)
  }
}

function isWithin(line: string, step: number): boolean {
  try {
    return JSON.parse(line).step <= step
  } catch {
    return false // the empty end of the file, or a line torn by a kill
  }
}
