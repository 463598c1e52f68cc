// What is loaded when, and what is left where a part is missing.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { temporaryFolder } from '../train/support'

const root = path.join(__dirname, '..', '..', '..')

describe('loading', function () {
  this.timeout(30_000)
  const folder = temporaryFolder()

  /** Runs a script in a copy of the package; stdout as JSON. */
  function run(copy: string, script: string) {
    const args = ['-e', `const library = require('./dist/lib/index.js')\n${script}`]
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: copy, encoding: 'utf8' })
    assert.equal(status, 0, stderr)
    return JSON.parse(stdout)
  }

  /** The library and what it depends on, without some packages and without the addon. */
  function copyOf(name: string, without: readonly string[] = []): string {
    const copy = path.join(folder, name)
    cpSync(path.join(root, 'dist', 'lib'), path.join(copy, 'dist', 'lib'), { recursive: true })
    writeFileSync(path.join(copy, 'package.json'), '{ "name": "ddpm-native", "type": "commonjs" }')
    symlinkSync(path.join(root, 'models'), path.join(copy, 'models'))
    mkdirSync(path.join(copy, 'node_modules'))
    for (const name of readdirSync(path.join(root, 'node_modules'))) {
      if (!without.includes(name)) {
        symlinkSync(path.join(root, 'node_modules', name), path.join(copy, 'node_modules', name))
      }
    }
    return copy
  }

  it('of sharp waits for the first image', () => {
    const script = `
      const loaded = () => Object.keys(require.cache).some((file) => /node_modules.sharp/.test(file))
      const before = loaded()
      library.encodePng(library.Tensor.from(new Float32Array(3), [1, 3, 1, 1])).then(() => {
        console.log(JSON.stringify([before, loaded()]))
      })`
    assert.deepEqual(run(root, script), [false, true])
  })

  it('of a package without a fitting addon leaves what is pure, and says what was looked for', () => {
    const copy = copyOf('no-addon')
    const script = `
      const told = (f) => { try { f() } catch (error) { const { name, code, message } = error; return { name, code, message } } }
      const tensor = library.Tensor.from([1, 2])
      const ddpm = told(() => new library.DDPM({ model: (x) => x, timesteps: 4 }))
      library.loadModel('nothing').catch(({ code }) => {
        library.encodePng(library.Tensor.from(new Float32Array(3), [1, 3, 1, 1])).then(({ length }) => {
          console.log(JSON.stringify({ size: tensor.size, ddpm, randn: told(() => library.Tensor.randn([2])), code, length }))
        })
      })`
    const { size, ddpm, randn, code, length } = run(copy, script)
    assert.equal(size, 2)
    assert.ok(length > 0)
    assert.equal(code, 'not-found')
    for (const error of [ddpm, randn]) {
      assert.deepEqual([error.name, error.code], ['DiffusionError', 'device-unavailable'])
      assert.ok(error.message.includes(path.join('build', 'Release')) && error.message.includes('prebuilds'))
      assert.match(error.message, /No native build was found for platform=\w+ .*a checkout builds it/)
    }
    const args = [path.join(copy, 'dist', 'lib', 'cli', 'main.js'), 'sample', '--count', '1']
    const { status, stderr } = spawnSync(process.execPath, args, { cwd: copy, encoding: 'utf8' })
    assert.equal(status, 1)
    assert.match(stderr, /^ddpm sample: the addon of ddpm-native can't be loaded on .*\n$/)
  })

  it('without the package of the hub leaves all but models of the hub', () => {
    const copy = copyOf('no-hub', ['@huggingface'])
    const script = `
      library.DDPM.fromPretrained('some/model').catch(({ name, code, message }) => {
        console.log(JSON.stringify({ name, code, message }))
      })`
    const { name, code, message } = run(copy, script)
    assert.deepEqual([name, code], ['DiffusionError', 'unsupported'])
    assert.match(message, /some\/model is no folder here.*npm install @huggingface\/hub/)
  })

  it('without sharp leaves all but images', () => {
    const copy = copyOf('no-sharp', ['sharp'])
    const script = `
      library.encodePng(library.Tensor.from(new Float32Array(3), [1, 3, 1, 1])).catch(({ name, code, message }) => {
        console.log(JSON.stringify({ name, code, message }))
      })`
    const { name, code, message } = run(copy, script)
    assert.deepEqual([name, code], ['DiffusionError', 'unsupported'])
    assert.match(message, /sharp, which can't be loaded: Cannot find module 'sharp'.*npm install sharp/)
  })
})
