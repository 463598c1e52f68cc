/** Opens the files that it is told of, and says what came of it; see support/pool.ts. */
import { DiffusionError } from '../../lib/errors'
import { readers } from './readers'
import { forgetPeak, resident } from './support/memory'
import type { Opened } from './support/pool'

async function open(reader: string, file: string): Promise<Opened> {
  // Garbage of the file before is not of this one. Finalizers run when the loop has been come to.
  globalThis.gc!()
  await new Promise((resolve) => setImmediate(resolve))
  globalThis.gc!()
  forgetPeak()
  const before = resident('self')!.now
  const start = process.cpuUsage()
  const outcome = await readers[reader](file).then(
    () => ({ outcome: 'read' as const }),
    (error) => {
      if (error instanceof DiffusionError)
        return { outcome: 'refused' as const, code: error.code, message: error.message }
      return { outcome: 'thrown' as const, message: `${error?.stack ?? error}` }
    },
  )
  const { user, system } = process.cpuUsage(start)
  return { ...outcome, milliseconds: (user + system) / 1000, memory: resident('self')!.peak - before }
}

process.on('message', ({ reader, file }: { reader: string; file: string }) => {
  void open(reader, file).then((opened) => process.send!(opened))
})
process.on('disconnect', () => process.exit())
process.send!('ready')
