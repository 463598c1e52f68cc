// The direction of the dependencies (docs/architecture.md): each layer may use itself and what lies below it.
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'

const root = path.join(__dirname, '..', '..')

function sources(folder: string, endings: RegExp): string[] {
  return readdirSync(path.join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => endings.test(file))
    .map((file) => path.posix.join(folder, file.split(path.sep).join('/')))
}

const read = (file: string) => readFileSync(path.join(root, file), 'utf8')

/** Folders that the files of a folder may include from. */
const nativeLayers: Record<string, readonly string[]> = {
  'kernels/reference': ['kernels/reference'],
  'kernels/cpu': ['kernels/cpu'],
  'kernels/cuda': ['kernels/cuda'],
  'native/graph': ['native/graph'],
  'native/collectives': ['native/collectives'],
  'native/runtime': ['native/runtime', 'native/collectives', 'native/graph', 'kernels/cpu/backend.h'],
  'native/binding': ['native/binding', 'native/runtime', 'native/graph', 'kernels/cpu/peak.h'],
}
const contract = ['kernels/ops.h', 'kernels/backend.h', 'kernels/philox.h']

/** Folders of lib/ in the order of their dependencies: a file may import from its own and from earlier ones. */
const libLayers = [
  '',
  'nn',
  'checkpoint',
  'text',
  'export',
  'stages',
  'diffusion',
  'autoencoder',
  'data',
  'evaluate',
  'train',
  'convert',
  'trainer',
  'cli',
]

/** Rooms of lib/diffusion in that order. */
const diffusionRooms = ['process', 'training', 'classifier', 'sampling', 'latent', 'options', 'formats', 'models']

/** The files of lib/ that a file imports, types too. */
function imports(file: string): string[] {
  const found = [...read(file).matchAll(/(?:from|import|import\()\s*'(\.[^']+)'/g)]
  return found.map(([, name]) => `${path.posix.join(path.posix.dirname(file), name.replace(/\.js$/, ''))}.ts`)
}

describe('architecture', () => {
  for (const [layer, allowed] of Object.entries(nativeLayers)) {
    it(`${layer} includes nothing above it`, () => {
      for (const file of sources(layer, /\.(h|cpp|cu|cuh)$/)) {
        for (const [, included] of read(file).matchAll(/^\s*#\s*include\s+"([^"]+)"/gm)) {
          if (!included.includes('/') && !included.startsWith('.')) {
            if (!['ops.h', 'backend.h', 'philox.h'].includes(included)) continue // a neighbour
          }
          const target = /^(kernels|native)\//.test(included)
            ? path.posix.normalize(included)
            : path.posix.join(path.posix.dirname(file), included)
          const fine = contract.includes(target) || allowed.some((a) => target === a || target.startsWith(`${a}/`))
          assert.ok(fine, `${file} includes ${included}`)
        }
      }
    })
  }

  it('the contract includes nothing of ours but itself', () => {
    for (const file of contract) {
      for (const [, included] of read(file).matchAll(/^\s*#\s*include\s+"([^"]+)"/gm)) {
        assert.ok(contract.includes(path.posix.join('kernels', included)), `${file} includes ${included}`)
      }
    }
  })

  it('napi.h is included in native/binding only', () => {
    for (const file of [...sources('native', /\.(h|cpp)$/), ...sources('kernels', /\.(h|cpp|cu|cuh)$/)]) {
      if (!file.startsWith('native/binding/'))
        assert.doesNotMatch(read(file), /#\s*include\s+[<"](napi|node_api)\.h/, file)
    }
  })

  it('compiler and graph fuzzer know every group of ops', () => {
    const groups = [...read('native/graph/op.h').matchAll(/OpDef>& (\w+Ops)\(\);/g)].map(([, name]) => name)
    assert.ok(groups.length >= 15)
    for (const file of ['native/graph/graph.cpp', 'test/fuzz/native/graph_builder.cpp']) {
      for (const name of groups) assert.ok(read(file).includes(`&${name}()`), `${file} has no ${name}`)
    }
  })

  it('lib imports nothing above it, and only native.ts loads the addon', () => {
    for (const file of sources('lib', /\.ts$/)) {
      const own = file.split('/').length > 2 ? file.split('/')[1] : ''
      for (const [, imported] of read(file).matchAll(/(?:from|import|require\()\s*'([^']+)'/g)) {
        if (imported === 'node-gyp-build') assert.equal(file, 'lib/native.ts')
        if (!imported.startsWith('.')) continue
        const target = path.posix.relative('lib', path.posix.join(path.posix.dirname(file), imported))
        assert.ok(!target.startsWith('..'), `${file} imports ${imported}`)
        const layer = target.includes('/') ? target.split('/')[0] : ''
        if (file === 'lib/index.ts') continue
        assert.ok(libLayers.indexOf(layer) <= libLayers.indexOf(own), `${file} imports ${imported}`)
        assert.notEqual(target, 'index', `${file} imports the public index`)
      }
    }
  })

  it('rooms of lib/diffusion import from those before them', () => {
    const room = (file: string) => diffusionRooms.indexOf(file.split('/')[2])
    for (const file of sources('lib/diffusion', /\.ts$/)) {
      assert.ok(room(file) >= 0, `${file} is in no room`)
      for (const imported of imports(file)) {
        if (!imported.startsWith('lib/diffusion/')) continue
        assert.ok(room(imported) <= room(file), `${file} imports ${imported}`)
      }
    }
  })

  it('no file of lib imports itself by way of others, not even for types', () => {
    const done = new Set<string>()
    const visit = (file: string, way: readonly string[]): void => {
      assert.ok(!way.includes(file), `a circle: ${[...way.slice(way.indexOf(file)), file].join(' -> ')}`)
      if (done.has(file)) return
      for (const next of imports(file)) visit(next, [...way, file])
      done.add(file)
    }
    const files = sources('lib', /\.ts$/)
    for (const file of files) visit(file, [])
    assert.equal(done.size, files.length)
  })
})
