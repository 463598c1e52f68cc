// A page on which images form: node examples/server.mjs [port] [model]
// GET /images?seed=7&steps=30 sends the predicted images every few steps, as a stream of server-sent events with PNGs in base64.
import { createServer } from 'node:http'
import { encodePng, loadModel } from 'ddpm-native'

const [port = '8080', model] = process.argv.slice(2)
const ddpm = await loadModel(model)
const every = 3

const page = `<!doctype html><title>Images as they form</title>
<button>Draw</button><p><img style="image-rendering: pixelated; width: 512px"></p>
<script>
  document.querySelector('button').onclick = () => {
    const events = new EventSource('images?seed=' + Math.floor(Math.random() * 2 ** 32))
    events.onmessage = ({ data }) => { document.querySelector('img').src = 'data:image/png;base64,' + data }
    for (const end of ['done', 'failed']) events.addEventListener(end, () => events.close())
  }
</script>`

const server = createServer(async (request, response) => {
  if (!URL.canParse(request.url, 'http://localhost')) return response.writeHead(400).end()
  const { pathname, searchParams } = new URL(request.url, 'http://localhost')
  if (pathname === '/') return response.setHeader('content-type', 'text/html').end(page)
  if (pathname !== '/images') return response.writeHead(404).end()
  const gone = new AbortController()
  response.on('close', () => gone.abort()) // who has left the page needs no more images
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' })
  try {
    const classLabels = ddpm.classNames.length > 0 ? ddpm.classNames.slice(0, 4) : undefined
    const steps = Number(searchParams.get('steps') ?? 30)
    const options = { batchSize: classLabels?.length ?? 4, seed: Number(searchParams.get('seed') ?? 0), classLabels }
    const sampling = ddpm.sampleSteps({ ...options, sampler: 'ddim', steps, signal: gone.signal })
    for await (const { step, total, predX0 } of sampling) {
      if (step % every !== 0 && step !== total) continue
      const png = Buffer.from(await encodePng(predX0, { columns: 4 }))
      response.write(`data: ${png.toString('base64')}\n\n`)
    }
    response.end('event: done\ndata: \n\n')
  } catch (error) {
    if (!gone.signal.aborted) response.end(`event: failed\ndata: ${error.message}\n\n`)
  }
})
server.listen(Number(port), () => console.log(`http://localhost:${server.address().port}`))
