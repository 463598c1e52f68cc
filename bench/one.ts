/** One case in this process: node one.js <name> <seconds>, or node one.js machine. Prints a line of JSON. */
import { native } from '../lib/native'
import { cases } from './cases'
import { measure } from './harness'

async function main([name, seconds]: string[]): Promise<void> {
  if (name === 'machine') {
    const device = native.openDevice('cpu', 0, 0)
    const info = device.info()
    device.close()
    const peakGflops = native.measureFmaPeak(info.threads, 1)
    console.log(JSON.stringify({ device: info.name, isa: info.isa, threads: info.threads, peakGflops }))
    return
  }
  const found = cases.find((c) => c.name === name)
  if (!found) throw new Error(`no case is called ${name}`)
  console.log(JSON.stringify(await measure(found, Number(seconds))))
}

void main(process.argv.slice(2))
