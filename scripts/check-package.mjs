// What a user gets from the tarball: packs it, installs it into an empty project without install scripts, and loads it by
// require and by import, at run time and in the type checker. Any warning is a failure, and so is a prebuilt addon that asks for a
// newer glibc than Node.js does.
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { tooNew } from './symbol-versions.mjs'

const root = path.join(import.meta.dirname, '..')
const project = mkdtempSync(path.join(tmpdir(), 'ddpm-native-package-'))
const bin = (name) => path.join(root, 'node_modules', '.bin', name)

function run(what, command, args, cwd = project) {
  const result = spawnSync(command, args, { cwd, encoding: 'utf8', env: { ...process.env, NODE_OPTIONS: '' } })
  if (result.status !== 0) {
    console.error(`${what}: failed\n${result.stdout}${result.stderr}`)
    process.exit(1)
  }
  return result
}

function quiet(what, args) {
  const { stdout, stderr } = run(what, process.execPath, args)
  if (stderr !== '') {
    console.error(`${what}: not silent\n${stderr}`)
    process.exit(1)
  }
  console.log(`${what}: ${stdout.trim()}`)
}

try {
  run('prebuild', process.execPath, [path.join(root, 'scripts', 'prebuild.mjs')], root)
  const packed = JSON.parse(
    execFileSync('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', project], {
      cwd: root,
      encoding: 'utf8',
    }),
  )
  const { filename, size, files } = Array.isArray(packed) ? packed[0] : Object.values(packed)[0]
  const tarball = path.join(project, filename)
  console.log(`tarball: ${filename}, ${(size / 2 ** 20).toFixed(1)} MiB, ${files.length} files`)
  const stray = files
    .map((f) => f.path)
    .filter((f) => /^(test|kernels|native|build|bench)\/|binding\.gyp|ddpm_reference/.test(f))
  if (stray.length > 0) throw new Error(`the tarball holds ${stray.join(', ')}`)

  for (const { path: file } of files.filter(({ path: file }) => /^prebuilds\/linux-.*glibc\.node$/.test(file))) {
    const symbols = tooNew(path.join(root, file))
    if (symbols.length > 0) {
      throw new Error(`${file} does not load with glibc 2.28, as Node.js does: it asks for ${symbols.join(', ')}`)
    }
    console.log(`${file}: loads with glibc 2.28`)
  }

  writeFileSync(path.join(project, 'package.json'), '{ "name": "empty", "private": true }')
  run('npm install', 'npm', ['install', '--ignore-scripts', '--no-audit', '--no-fund', tarball])

  const body = `
const ddpm = new DDPM({
  unetConfig: { imageSize: 8, inChannels: 1, outChannels: 1, modelChannels: 32, numResBlocks: 1, attentionResolutions: [], channelMult: [1] },
  timesteps: 4, imageSize: 8, channels: 1, device: 'cpu',
})
ddpm.sample({ batchSize: 1, seed: 1 }).then((images) => images.data()).then((data) => {
  console.log(data.length, 'pixels')
  ddpm.dispose()
})
`
  writeFileSync(path.join(project, 'use.cjs'), `const { DDPM } = require('ddpm-native')\n${body}`)
  writeFileSync(path.join(project, 'use.mjs'), `import { DDPM } from 'ddpm-native'\n${body}`)
  quiet('require', ['--throw-deprecation', '--trace-warnings', 'use.cjs'])
  quiet('import', ['--throw-deprecation', '--trace-warnings', 'use.mjs'])

  mkdirSync(path.join(project, 'types'))
  const typed = `
const x: Tensor = Tensor.from(new Float32Array(4), [1, 1, 2, 2])
const ddpm = new DDPM({ model: async (input: Tensor) => input, timesteps: 4, imageSize: 2, channels: 1 })
const sampled: Promise<Float32Array> = ddpm.pSample(x, 0).then((y) => y.data())
void sampled
`
  writeFileSync(
    path.join(project, 'types', 'use.cts'),
    `import ddpmNative = require('ddpm-native')\nimport type { Tensor as T } from 'ddpm-native'\nconst { DDPM, Tensor } = ddpmNative\ntype Tensor = T\n${typed}`,
  )
  writeFileSync(path.join(project, 'types', 'use.mts'), `import { DDPM, Tensor } from 'ddpm-native'\n${typed}`)
  // With @types/node, which has AbortSignal, as TypeScript for Node.js has anyway.
  const node = { types: ['node'], typeRoots: [path.join(root, 'node_modules', '@types')] }
  const lib = ['es2023', 'esnext.disposable']
  const options = { strict: true, noEmit: true, module: 'nodenext', target: 'es2023', lib, ...node }
  writeFileSync(path.join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions: options, include: ['types'] }))
  run('tsc', bin('tsc'), ['-p', project])
  console.log('tsc: types check in a CommonJS and in an ES module')

  run('publint', bin('publint'), ['run', tarball, '--strict'])
  console.log('publint: no complaint')
  run('attw', bin('attw'), [tarball, '--profile', 'node16'])
  console.log('attw: no complaint')
} finally {
  rmSync(project, { recursive: true, force: true })
}
