/** Where a process may have only so much address space (ulimit -v), memory of ours is refused before V8 has none left. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'

const library = JSON.stringify(require.resolve('../../lib/index'))

/** Takes device memory until it is refused, then goes on with JavaScript that needs memory itself. */
const script = `
  const { Device } = require(${library})
  const device = Device.open('cpu', { threads: 2 })
  const held = []
  try {
    for (;;) held.push(device.allocate(1 << 18))
  } catch (error) {
    let made = []
    for (let i = 0; i < 200; i++) made = Array.from({ length: 1e4 }, (_, k) => ({ k, text: String(k) }))
    console.log(JSON.stringify({ name: error.name, code: error.code, message: error.message, made: made.length }))
  }`

function limited(mebibytes: number, code: string) {
  const command = `ulimit -c 0; ulimit -v ${1024 * mebibytes}; exec "$0" "$@"`
  return spawnSync('sh', ['-c', command, process.execPath, '-e', code], { encoding: 'utf8', timeout: 60_000 })
}

describe('little address space', () => {
  before(function () {
    if (process.platform === 'linux') return
    console.log('Not tested: ulimit -v is enforced on Linux only')
    this.skip()
  })

  for (const mebibytes of [750, 800, 900, 1000, 1200, 1600]) {
    it(`of ${mebibytes} MiB: out-of-memory, and JavaScript goes on`, function () {
      if (limited(mebibytes, '0').status !== 0) {
        console.log(`Not tested: Node.js itself does not start with ${mebibytes} MiB`)
        this.skip()
      }
      const { status, signal, stdout, stderr } = limited(mebibytes, script)
      if (status === 1) {
        assert.match(stderr, /code: 'out-of-memory'/) // there is too little to load the library or open the device
        return
      }
      assert.deepEqual({ status, signal, stderr }, { status: 0, signal: null, stderr: '' })
      const { message, ...rest } = JSON.parse(stdout) as { message: string }
      assert.deepEqual(rest, { name: 'DiffusionError', code: 'out-of-memory', made: 1e4 })
      assert.match(message, /no memory for 1048576 bytes: of the \d+ bytes of address space .*ulimit -v/)
    })
  }
})
