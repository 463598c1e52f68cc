/** Loaded before the command line (node -r): says on file descriptor 3 what memory and time the process took. */
import { writeSync } from 'node:fs'
import { forgetPeak, resident } from './memory'

// From here on, so that Node.js itself does not count. The library does.
forgetPeak()
const before = resident('self')!.now

process.on('exit', () => {
  const { user, system } = process.cpuUsage()
  writeSync(3, JSON.stringify({ memory: resident('self')!.peak - before, milliseconds: (user + system) / 1000 }))
})
