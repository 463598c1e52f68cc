/** Prints a hash of each result of bf16-cases.ts, of the implementation of bf16 products that this process has. */
import { createHash } from 'node:crypto'
import { attended, attentionFeeds, build, buildAttention, feedsOf, forced, layers, titleOf } from './bf16-cases'
import { runGraph } from './run-graph'

async function main(): Promise<void> {
  const hashes: Record<string, string> = {}
  const add = (title: string, outputs: Readonly<Record<string, Float32Array>>) => {
    for (const [name, { buffer, byteOffset, byteLength }] of Object.entries(outputs)) {
      const bytes = new Uint8Array(buffer, byteOffset, byteLength)
      hashes[`${title}, ${name}`] = createHash('sha256').update(bytes).digest('hex')
    }
  }
  for (const layer of layers) add(titleOf(layer), await runGraph('cpu', feedsOf(layer), build(layer), forced))
  for (const shape of attended)
    add(`attention ${shape}`, await runGraph('cpu', attentionFeeds(shape), buildAttention(shape), forced))
  console.log(JSON.stringify(hashes))
}

main()
