// Builds the reference of the public API with typedoc into docs/api/html; any warning is a failure. typedoc works with an older
// compiler than this project's, so that both have a place of their own, docs/api.
import { spawnSync } from 'node:child_process'
import path from 'node:path'

const root = path.join(import.meta.dirname, '..')
const api = path.join(root, 'docs', 'api')

function run(command, args, cwd) {
  const { status, error } = spawnSync(command, args, { cwd, stdio: 'inherit', shell: process.platform === 'win32' })
  if (error) throw error
  if (status !== 0) process.exit(status ?? 1)
}

run('npm', ['ci', '--no-audit', '--no-fund', '--silent'], api)
run(process.execPath, [path.join(api, 'node_modules', 'typedoc', 'bin', 'typedoc')], root)
