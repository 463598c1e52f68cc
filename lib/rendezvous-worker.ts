/** The thread of rendezvous.ts: serves the id, or asks for it. */
import http from 'node:http'
import { type MessagePort, workerData } from 'node:worker_threads'
import type { Answer, Request } from './rendezvous'

/** Between two attempts to reach rank 0, which may start later. */
const pauseMs = 50

const { request, port, flag } = workerData as { request: Request; port: MessagePort; flag: Int32Array }
const { meeting, seconds } = request
const deadline = Date.now() + seconds * 1000

function answer(result: Answer): void {
  port.postMessage(result)
  Atomics.store(flag, 0, 1)
  Atomics.notify(flag, 0)
}

/** Node's timers hold no more than 2^31 - 1 milliseconds. */
function atDeadline(run: () => void): void {
  setTimeout(run, Math.min(deadline - Date.now(), 2 ** 31 - 1))
}

function serve(id: string): void {
  const { address, size } = meeting
  const missing = new Set(Array.from({ length: size - 1 }, (_, i) => i + 1))
  const refused: string[] = []
  const server = http.createServer({ keepAlive: false }, (incoming, response) => {
    const query = new URL(incoming.url ?? '/', 'http://rank').searchParams
    const [rank, theirs] = [Number(query.get('rank')), Number(query.get('size'))]
    const why =
      incoming.method !== 'GET' || !query.has('rank') || !query.has('size')
        ? 'this serves the ranks of a training'
        : theirs !== size
          ? `rank ${rank} was started as one of ${theirs}, rank 0 as one of ${size}`
          : !missing.has(rank)
            ? `there is a rank ${rank} already, or none in ${size}`
            : undefined
    if (why !== undefined) {
      if (refused.length < 8) refused.push(why)
      response.writeHead(409).end(why)
      return
    }
    missing.delete(rank)
    response.end(id)
    response.on('close', () => {
      if (!response.writableFinished) missing.add(rank) // it did not hear the end of it
      if (missing.size === 0) server.close(() => answer({ id }))
    })
  })
  server.on('error', (error) => answer({ code: 'io', message: `the others' place can't be opened: ${error.message}` }))
  server.listen(meeting.port, address)
  atDeadline(() => {
    const [which, why] = [[...missing].join(', '), refused.map((text) => `; refused: ${text}`).join('')]
    answer({ code: 'rank-failed', message: `rank ${which} did not come within ${seconds} seconds${why}` })
  })
}

function ask(): void {
  const { address, rank, size } = meeting
  const again = (why: string) => {
    if (Date.now() + pauseMs < deadline) setTimeout(ask, pauseMs)
    else answer({ code: 'rank-failed', message: `rank 0 did not answer within ${seconds} seconds: ${why}` })
  }
  const options = { host: address, port: meeting.port, path: `/?rank=${rank}&size=${size}`, agent: false }
  const sent = http.get({ ...options, timeout: Math.max(1, Math.min(deadline - Date.now(), 10_000)) }, (response) => {
    let text = ''
    response.setEncoding('utf8')
    response.on('data', (data) => {
      text += data
      if (text.length > 1024) response.destroy()
    })
    response.on('error', (error) => again(error.message))
    response.on('end', () => {
      if (response.statusCode === 409) answer({ code: 'invalid-argument', message: text })
      else if (response.statusCode === 200 && /^[0-9a-f]{256}$/.test(text)) answer({ id: text })
      else again(`something else is there, which says ${response.statusCode}`)
    })
  })
  sent.on('timeout', () => sent.destroy(new Error('it is silent')))
  sent.on('error', (error) => again(error.message))
}

if (meeting.rank > 0) ask()
else if (meeting.size > 1) serve(request.id!)
else answer({ id: request.id! })
