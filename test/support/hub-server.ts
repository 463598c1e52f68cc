/** A server that speaks the hub's API for one model, and fails as networks do. */
import { createHash } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export const commit = 'c0ffee'.padEnd(40, '0')

type Files = ReadonlyMap<string, Buffer>

/** A request with its body, and how it is answered. */
interface Exchange {
  readonly url: string
  readonly method: string
  readonly body: Buffer
  readonly response: ServerResponse
}

export class HubServer {
  /** '/path', with the range where one was asked for; 'POST /path' and 'PUT /path' of what is sent. */
  readonly requests: string[] = []
  /** What it asks for; undefined: nothing. */
  token: string | undefined
  /** Ends connections after so many bytes of a file. */
  cutAfter = Infinity
  /** Whether it knows ranges. */
  ranges = true
  /** What it sends in place of a file's bytes. */
  lie: (file: string, bytes: Buffer) => Buffer = (_, bytes) => bytes
  /** What it does with a POST or PUT: `cut` the connection before or `late`, after it is done; refuse with a status; do it. */
  refuse: (url: string) => number | 'cut' | 'late' | undefined = () => undefined
  /** Whether it exists, and its branches and commits. */
  branches = new Map<string, string>([
    ['main', commit],
    ['v1', commit],
  ])
  readonly commits = new Map<string, Files>()
  /** Bodies of what was asked for when it was made. */
  readonly created: Record<string, unknown>[] = []
  /** First lines of commits. */
  readonly titles: string[] = []
  readonly #large = new Map<string, Buffer>()
  readonly #server: Server

  constructor(
    readonly name: string,
    readonly files: Files,
  ) {
    this.commits.set(commit, files)
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

  /** It has never been made. */
  remove(): void {
    this.branches.clear()
  }

  filesOf(branch: string): Files {
    return this.commits.get(this.branches.get(branch)!)!
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const url = decodeURIComponent(request.url!.split('?')[0])
    const { range, authorization } = request.headers
    const { method = 'GET' } = request
    const line = method === 'GET' ? url : `${method} ${url}`
    this.requests.push(range ? `${line} ${range}` : line)
    const isStorage = url.startsWith('/storage/')
    if (this.token && !isStorage && authorization !== `Bearer ${this.token}`) {
      return void json(response, { error: 'Unauthorized' }, 401)
    }
    if (method !== 'GET') return void this.#write(request, response, { url, method })
    const [, revision = ''] = new RegExp(`^/api/models/${this.name}/revision/(.+)$`).exec(url) ?? []
    const sha = this.branches.get(revision) ?? (this.commits.has(revision) ? revision : undefined)
    if (sha) return void json(response, { _id: '1', id: this.name, sha, lastModified: '2026-01-01T00:00:00Z' })
    const [, tree] = new RegExp(`^/api/models/${this.name}/tree/(\\w+)$`).exec(url) ?? []
    const listed = this.commits.get(tree)
    if (listed) return void json(response, [...listed].map(entry))
    const [, at, file] = new RegExp(`^/${this.name}/resolve/(\\w+)/(.+)$`).exec(url) ?? []
    const bytes = this.commits.get(at)?.get(file)
    if (!bytes) return void json(response, { error: 'Not found' }, 404)
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

  // ---- what is sent to it --------------------------------------------------------------------------------------------

  async #write(request: IncomingMessage, response: ServerResponse, at: { url: string; method: string }): Promise<void> {
    const refused = this.refuse(at.url)
    if (refused === 'cut') return void request.socket.destroy()
    if (typeof refused === 'number') {
      request.resume()
      return void json(response, { error: 'Refused' }, refused)
    }
    const pieces: Buffer[] = []
    for await (const piece of request) pieces.push(piece)
    const answer = this.#done({ ...at, body: Buffer.concat(pieces), response })
    if (refused === 'late') return void request.socket.destroy()
    if (answer) json(response, answer.value, answer.status)
    else response.writeHead(200).end()
  }

  #done({ url, body, response }: Exchange): { value: unknown; status?: number } | undefined {
    const api = `/api/models/${this.name}`
    const parsed = () => JSON.parse(body.toString())
    if (url.startsWith('/storage/')) {
      this.#large.set(url.slice('/storage/'.length), body)
      return undefined
    }
    if (url === '/api/repos/create') {
      if (this.branches.size > 0) return { value: { error: 'You already created this model repo' }, status: 409 }
      const made = parsed()
      this.created.push(made)
      this.#commit('main', new Map())
      return { value: { url: `http://${response.req.headers.host}/${this.name}`, id: '1' } }
    }
    if (this.branches.size === 0) return { value: { error: 'Repository not found' }, status: 404 }
    if (url.startsWith(`${api}/branch/`)) {
      this.branches.set(url.slice(`${api}/branch/`.length), this.branches.get('main')!)
      return undefined
    }
    if (url.startsWith(`${api}/preupload/`)) {
      const files = parsed().files.map(({ path }: { path: string }) => ({
        path,
        uploadMode: isLarge(path) ? 'lfs' : 'regular',
      }))
      return { value: { files } }
    }
    if (url === `/${this.name}.git/info/lfs/objects/batch`) {
      const objects = parsed().objects.map(({ oid, size }: { oid: string; size: number }) => {
        const href = `http://${response.req.headers.host}/storage/${oid}`
        return { oid, size, ...(!this.#large.has(oid) && { actions: { upload: { href } } }) }
      })
      return { value: { transfer: 'basic', objects } }
    }
    if (url.startsWith(`${api}/commit/`)) return this.#commitOf(url.slice(`${api}/commit/`.length), body.toString())
    return { value: { error: 'Not found' }, status: 404 }
  }

  #commitOf(branch: string, lines: string): { value: unknown; status?: number } {
    const head = this.branches.get(branch)
    if (head === undefined) return { value: { error: 'Invalid rev id' }, status: 404 }
    const files = new Map(this.commits.get(head))
    for (const { key, value } of lines.split('\n').map((line) => JSON.parse(line))) {
      if (key === 'header') {
        if (value.parentCommit !== undefined && value.parentCommit !== head) {
          return { value: { error: 'A commit has happened since' }, status: 412 }
        }
        this.titles.push(value.summary)
      }
      const keep = (bytes: Buffer) => files.set(value.path, this.lie(value.path, bytes))
      if (key === 'file') keep(Buffer.from(value.content, 'base64'))
      if (key === 'lfsFile') keep(this.#large.get(value.oid)!)
      if (key === 'deletedFile') files.delete(value.path)
    }
    const commitOid = this.#commit(branch, files)
    return { value: { commitOid, commitUrl: `/${this.name}/commit/${commitOid}`, hookOutput: '' } }
  }

  #commit(branch: string, files: Files): string {
    const oid = createHash('sha1').update(`${this.commits.size}`).digest('hex')
    this.commits.set(oid, files)
    this.branches.set(branch, oid)
    return oid
  }
}

function json(response: ServerResponse, value: unknown, status = 200): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value))
}

const isLarge = (path: string) => /\.(safetensors|bin)$/.test(path)

/** As the hub lists a file: large ones with their SHA-256, others by git's hash. */
function entry([path, bytes]: [string, Buffer]) {
  const size = bytes.length
  const oid = createHash('sha1').update(`blob ${size}\0`).update(bytes).digest('hex')
  const lfs = { oid: createHash('sha256').update(bytes).digest('hex'), size, pointerSize: 134 }
  return { type: 'file', path, size, oid, ...(isLarge(path) && { lfs }) }
}
