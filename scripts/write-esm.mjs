// The ES module side of the package: dist/lib/index.mjs gives the exports of the CommonJS build names, so that there is one
// copy of every class whichever way it is loaded. The names are read from the compiled text: loading it would need the addon.
import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'

const lib = path.join(import.meta.dirname, '..', 'dist', 'lib')
const compiled = readFileSync(path.join(lib, 'index.js'), 'utf8')
const names = [...compiled.matchAll(/Object\.defineProperty\(exports, "(\w+)"/g)].map(([, name]) => name)
const exported = names.filter((name) => name !== '__esModule')
if (!exported.includes('DDPM'))
  throw new Error('dist/lib/index.js does not export DDPM in the form that is expected here')

writeFileSync(
  path.join(lib, 'index.mjs'),
  `import library from './index.js'\n\nexport const { ${exported.join(', ')} } = library\n`,
)
writeFileSync(path.join(lib, 'index.d.mts'), "export * from './index.js'\n")
