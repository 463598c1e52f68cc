/**
 * How processes that only know where rank 0 is come to have an id in common: rank 0 serves it once to each of the others, by HTTP, and
 * nothing else. On a thread of its own (rendezvous-worker.ts), for which the caller waits, as one does who joins by MPI.
 */
import path from 'node:path'
import { MessageChannel, receiveMessageOnPort, Worker } from 'node:worker_threads'
import { DiffusionError, type DiffusionErrorCode } from './errors'
import type { Meeting } from './launch'

export interface Request {
  readonly meeting: Meeting
  /** Hexadecimal. Of rank 0. */
  readonly id?: string
  readonly seconds: number
}

export type Answer = { readonly id: string } | { readonly code: DiffusionErrorCode; readonly message: string }

/**
 * The id, when this rank has it and, of rank 0, all others do, too. Throws `rank-failed` where that takes longer than `seconds`,
 * `invalid-argument` for a rank that there is already, or with another number of ranks, `io` where rank 0 can't serve.
 */
export function meet(meeting: Meeting, seconds: number, id?: Uint8Array): Uint8Array {
  const { port1, port2 } = new MessageChannel()
  const flag = new Int32Array(new SharedArrayBuffer(4))
  const request: Request = { meeting, id: id && Buffer.from(id).toString('hex'), seconds }
  const worker = new Worker(path.join(__dirname, 'rendezvous-worker.js'), {
    workerData: { request, port: port2, flag },
    transferList: [port2],
  })
  // It watches the time itself; what it can't tell of takes no longer than that either.
  Atomics.wait(flag, 0, 0, (Math.min(seconds, 2 ** 20) + 10) * 1000)
  const answer = receiveMessageOnPort(port1)?.message as Answer | undefined
  port1.close()
  worker.unref()
  void worker.terminate()
  if (answer && 'id' in answer) return Buffer.from(answer.id, 'hex')
  const { code, message } = answer ?? { code: 'internal' as const, message: 'its thread did not answer' }
  const { address, port } = meeting
  throw new DiffusionError(code, `rank ${meeting.rank} of ${meeting.size}, at ${address}:${port}: ${message}`)
}
