/** How ranks that know where rank 0 is come to have an id in common, and who is refused: each side on a thread. */
import assert from 'node:assert/strict'
import http from 'node:http'
import path from 'node:path'
import { MessageChannel, Worker } from 'node:worker_threads'
import { ownGpu } from '../../lib/launch'
import type { Answer, Request } from '../../lib/rendezvous'
import { World } from '../../lib/world'
import { freePort } from './launch'

const id = '0123456789abcdef'.repeat(16)
const [address, seconds] = ['127.0.0.1', 0.7]

function meet(port: number, rank: number, size: number, within = seconds): Promise<Answer> {
  const { port1, port2 } = new MessageChannel()
  const request: Request = {
    meeting: { address, port, rank, size },
    id: rank === 0 ? id : undefined,
    seconds: within,
  }
  const workerData = { request, port: port2, flag: new Int32Array(new SharedArrayBuffer(4)) }
  const worker = new Worker(path.join(__dirname, '..', '..', 'lib', 'rendezvous-worker.js'), {
    workerData,
    transferList: [port2],
  })
  return new Promise((resolve, reject) => {
    worker.on('error', reject)
    port1.on('message', (answer) => {
      port1.close()
      void worker.terminate()
      resolve(answer)
    })
  })
}

const withEnvironment = <T>(env: Record<string, string>, f: () => T): T => {
  const before = { ...process.env }
  Object.assign(process.env, env)
  try {
    return f()
  } finally {
    for (const name of Object.keys(env)) delete process.env[name]
    Object.assign(process.env, before)
  }
}

describe('the meeting of ranks', () => {
  it('gives all the id of rank 0, which may come last', async () => {
    const port = await freePort()
    const others = [meet(port, 2, 3, 30), meet(port, 1, 3, 30)]
    await new Promise((resolve) => setTimeout(resolve, 100))
    for (const answer of await Promise.all([meet(port, 0, 3, 30), ...others])) assert.deepEqual(answer, { id })
  })

  it('refuses a rank twice, one of another number, and what is no rank', async () => {
    const port = await freePort()
    const first = meet(port, 0, 3)
    assert.deepEqual(await meet(port, 1, 3), { id })
    const [again, other, none] = await Promise.all([
      meet(port, 1, 3),
      meet(port, 2, 4),
      new Promise<number | undefined>((resolve) => {
        http.get({ host: address, port, path: '/index.html' }, (response) => resolve(response.resume().statusCode))
      }),
    ])
    assert.deepEqual(again, { code: 'invalid-argument', message: 'there is a rank 1 already, or none in 3' })
    assert.deepEqual(other, {
      code: 'invalid-argument',
      message: 'rank 2 was started as one of 4, rank 0 as one of 3',
    })
    assert.equal(none, 409)
    const answer = (await first) as { code: string; message: string }
    assert.equal(answer.code, 'rank-failed')
    assert.match(answer.message, /^rank 2 did not come within 0\.7 seconds; refused: .*this serves the ranks/s)
  })

  it('ends in time where rank 0 is not there, something else is, or its place is taken', async () => {
    const nowhere = (await meet(await freePort(), 1, 2, 0.2)) as { code: string; message: string }
    assert.equal(nowhere.code, 'rank-failed')
    assert.match(nowhere.message, /rank 0 did not answer within 0\.2 seconds: connect ECONNREFUSED/)
    const port = await freePort()
    const other = http.createServer((_, response) => response.end('hello')).listen(port, address)
    const elsewhere = (await meet(port, 1, 2, 0.3)) as { code: string; message: string }
    assert.match(elsewhere.message, /something else is there, which says 200/)
    const taken = (await meet(port, 0, 2, 0.3)) as { code: string; message: string }
    assert.deepEqual([taken.code, /EADDRINUSE/.test(taken.message)], ['io', true])
    other.close()
    other.closeAllConnections()
  })
})

describe('what a launcher tells', () => {
  const told = { MASTER_ADDR: address, MASTER_PORT: '1', RANK: '1', WORLD_SIZE: '2' }

  it("is which GPU is a process's own", () => {
    assert.equal(ownGpu(), 0)
    for (const [env, gpu] of [
      [{ LOCAL_RANK: '1' }, 0], // nobody started several
      [{ ...told, LOCAL_RANK: '1' }, 1],
      [{ OMPI_COMM_WORLD_SIZE: '2', OMPI_COMM_WORLD_LOCAL_RANK: '1' }, 1],
      [{ ...told, LOCAL_RANK: '1', CUDA_VISIBLE_DEVICES: '3' }, 0], // it sees one
      [{ ...told, LOCAL_RANK: '1', CUDA_VISIBLE_DEVICES: '2,3' }, 1],
    ] as const) {
      assert.equal(
        withEnvironment({ ...env }, () => ownGpu()),
        gpu,
        JSON.stringify(env),
      )
    }
  })

  it('is checked', () => {
    for (const [env, argument] of [
      [{ WORLD_SIZE: 'two' }, 'WORLD_SIZE'],
      [{ RANK: '2' }, 'RANK'],
      [{ MASTER_PORT: '70000' }, 'MASTER_PORT'],
      [{ LOCAL_RANK: '-1' }, 'LOCAL_RANK'],
    ] as const) {
      assert.throws(() => withEnvironment({ ...told, ...env }, () => ownGpu()), { code: 'invalid-argument', argument })
    }
  })

  it('does not join CPUs by NCCL, nor anybody whom nobody told', () => {
    withEnvironment(told, () => {
      assert.equal(World.of('off'), undefined)
      assert.throws(() => World.of('auto', 'cpu'), { code: 'unsupported', argument: 'distributed' })
    })
    assert.throws(() => World.of('nccl', 'cuda-host'), {
      code: 'device-unavailable',
      message: /MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE are not set/,
    })
  })
})
