/** A server that speaks the hub's API for one model, and fails as networks do. */
import { createHash } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export const commit = 'c0ffee'.padEnd(40, '0')

export class HubServer {
  /** 'GET /path', with the range where one was asked for. */
  readonly requests: string[] = []
  /** What it asks for; undefined: nothing. */
  token: string | undefined
  /** Ends connections after so many bytes of a file. */
  cutAfter = Infinity
  /** Whether it knows ranges. */
  ranges = true
  /** What it sends in place of a file's bytes. */
  lie: (file: string, bytes: Buffer) => Buffer = (_, bytes) => bytes
  readonly #server: Server

  constructor(
    readonly name: string,
    readonly files: ReadonlyMap<string, Buffer>,
  ) {
    this.#server = createServer((request, response) => this.#answer(request, response))
  }

  async listen(): Promise<string> {
    await new Promise<void>((done) => this.#server.listen(0, '127.0.0.1', done))
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  close(): void {
    this.#server.closeAllConnections()
    this.#server.close()
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const url = decodeURIComponent(request.url!.split('?')[0])
    const { range, authorization } = request.headers
    this.requests.push(range ? `${url} ${range}` : url)
    const json = (value: unknown, status = 200) =>
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value))
    if (this.token && authorization !== `Bearer ${this.token}`) return void json({ error: 'Unauthorized' }, 401)
    const info = new RegExp(`^/api/models/${this.name}/revision/(main|v1|${commit})$`)
    const resolve = `/${this.name}/resolve/${commit}/`
    if (info.test(url)) return void json({ _id: '1', id: this.name, sha: commit, lastModified: '2026-01-01T00:00:00Z' })
    if (url === `/api/models/${this.name}/tree/${commit}`) return void json([...this.files].map(entry))
    const file = url.startsWith(resolve) ? url.slice(resolve.length) : ''
    const bytes = this.files.get(file)
    if (!bytes) return void json({ error: 'Not found' }, 404)
    this.#send(response, this.lie(file, bytes), range)
  }

  #send(response: ServerResponse, bytes: Buffer, range: string | undefined): void {
    const from = (this.ranges && Number(/^bytes=(\d+)-$/.exec(range ?? '')?.[1])) || 0
    const part = bytes.subarray(from)
    const headers = { 'content-length': part.length, 'accept-ranges': 'bytes' }
    if (from)
      response.writeHead(206, { ...headers, 'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` })
    else response.writeHead(200, headers)
    if (part.length <= this.cutAfter) return void response.end(part)
    response.write(part.subarray(0, this.cutAfter), () => setTimeout(() => response.destroy(), 20))
  }
}

/** As the hub lists a file: large ones with their SHA-256, others by git's hash. */
function entry([path, bytes]: [string, Buffer]) {
  const size = bytes.length
  const oid = createHash('sha1').update(`blob ${size}\0`).update(bytes).digest('hex')
  const large = /\.(safetensors|bin)$/.test(path)
  const lfs = { oid: createHash('sha256').update(bytes).digest('hex'), size, pointerSize: 134 }
  return { type: 'file', path, size, oid, ...(large && { lfs }) }
}
