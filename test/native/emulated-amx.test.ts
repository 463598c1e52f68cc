// The emulation of AMX's tiles faults as the processor does (test/emulated-amx/misused.cpp).
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import path from 'node:path'

const root = path.join(__dirname, '..', '..', '..')
const misused = path.join(root, 'build', 'Release', 'emulated-amx')

describe('emulated tiles of AMX', () => {
  const run = (name: string) => spawnSync(misused, [name], { encoding: 'utf8' })

  it('keep what is configured', () => {
    const { status, stdout, error } = run('right')
    assert.equal(status, 0, String(error))
    assert.equal(stdout, '7 7 7 7 7 7 ')
  })

  for (const [name, fault] of [
    ['palette', 'LDTILECFG: palette'],
    ['reserved', 'LDTILECFG: a reserved byte'],
    ['tile 8', 'LDTILECFG: a tile that palette 1 has not'],
    ['17 rows', 'LDTILECFG: a tile is too large'],
    ['68 bytes', 'LDTILECFG: a tile is too large'],
    ['rows alone', 'LDTILECFG: rows without columns, or columns without rows'],
    ['rows differ', 'TDPBF16PS: rows of the sums and of the first operand'],
    ['depths differ', 'TDPBF16PS: columns of the first operand, rows of the second'],
    ['columns differ', 'TDPBF16PS: columns of the sums and of the second operand'],
    ['half a pair', 'TDPBF16PS: columns that are no pairs'],
    ['not configured', 'TILEZERO: no such tile is configured'],
    ['twice', 'TDPBF16PS: one tile twice'],
  ]) {
    it(`fault: ${name}`, () => {
      const { signal, stderr } = run(name)
      assert.equal(signal, 'SIGABRT')
      assert.equal(stderr, `emulated AMX: ${fault}\n`)
    })
  }
})
