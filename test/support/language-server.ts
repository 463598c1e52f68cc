/** The language server that editors ask, `tsc --lsp`: JSON-RPC over its stdin and stdout. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

interface Message {
  readonly id?: number | string
  readonly method?: string
  readonly result?: unknown
  readonly error?: { readonly message: string }
}

export class LanguageServer {
  readonly #server: ChildProcess
  readonly #waiting = new Map<number, (message: Message) => void>()
  #received = Buffer.alloc(0)
  #last = 0

  private constructor(folder: string) {
    const tsc = path.join(path.dirname(require.resolve('typescript/package.json')), 'bin', 'tsc')
    this.#server = spawn(process.execPath, [tsc, '--lsp', '--stdio'], {
      cwd: folder,
      stdio: ['pipe', 'pipe', 'ignore'],
    })
    this.#server.stdout!.on('data', (data) => this.#receive(data))
    this.#server.once('exit', () => {
      for (const settle of this.#waiting.values()) settle({ error: { message: 'the language server ended' } })
    })
  }

  static async start(folder: string): Promise<LanguageServer> {
    const server = new LanguageServer(folder)
    const capabilities = { textDocument: { hover: { contentFormat: ['markdown'] } } }
    await server.#request('initialize', { processId: process.pid, rootUri: pathToFileURL(folder).href, capabilities })
    server.#send({ method: 'initialized', params: {} })
    return server
  }

  open(file: string, text: string): void {
    const textDocument = { uri: pathToFileURL(file).href, languageId: 'typescript', version: 1, text }
    this.#send({ method: 'textDocument/didOpen', params: { textDocument } })
  }

  /** What an editor shows over this place, counted from 0, in Markdown. */
  async hover(file: string, line: number, character: number): Promise<string> {
    const params = { textDocument: { uri: pathToFileURL(file).href }, position: { line, character } }
    const result = (await this.#request('textDocument/hover', params)) as { contents: { value: string } } | null
    return result?.contents.value ?? ''
  }

  async stop(): Promise<void> {
    await this.#request('shutdown')
    const ended = once(this.#server, 'exit')
    this.#send({ method: 'exit' })
    await ended
  }

  #request(method: string, params?: unknown): Promise<unknown> {
    const id = ++this.#last
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, ({ error, result }) => (error ? reject(new Error(error.message)) : resolve(result)))
      this.#send({ id, method, params })
    })
  }

  #send(message: object): void {
    const body = JSON.stringify({ jsonrpc: '2.0', ...message })
    this.#server.stdin!.write(`Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`)
  }

  #receive(data: Buffer): void {
    this.#received = Buffer.concat([this.#received, data])
    for (;;) {
      const end = this.#received.indexOf('\r\n\r\n')
      if (end < 0) return
      const length = Number(/Content-Length: (\d+)/i.exec(this.#received.toString('latin1', 0, end))?.[1])
      if (this.#received.length < end + 4 + length) return
      const message: Message = JSON.parse(this.#received.toString('utf8', end + 4, end + 4 + length))
      this.#received = this.#received.subarray(end + 4 + length)
      // What the server asks of an editor (configuration, registrations) has no answer here.
      if (message.method !== undefined && message.id !== undefined) this.#send({ id: message.id, result: null })
      else if (typeof message.id === 'number') this.#waiting.get(message.id)?.(message)
    }
  }
}
