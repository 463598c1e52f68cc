// What a library asks of glibc and of GCC's libraries that is newer than what Node.js 20 and later need themselves.
import { execFileSync } from 'node:child_process'

/** Node.js's own prebuilt binaries for Linux need glibc 2.28, libstdc++ of GCC 8 and any libgcc_s. */
const newest = { GLIBC: '2.28', GLIBCXX: '3.4.25', CXXABI: '1.3.11', GCC: '7.0.0' }

/** ['dlopen@GLIBC_2.34', ...], sorted; [] where it loads wherever Node.js does. Needs objdump. */
export function tooNew(library) {
  const table = execFileSync('objdump', ['--dynamic-syms', library], { encoding: 'utf8', maxBuffer: 2 ** 26 })
  const wanted = [...table.matchAll(/\*UND\*.*\(?\b(GLIBC|GLIBCXX|CXXABI|GCC)_([\d.]+)\)?\s+(\S+)/g)]
  if (wanted.length === 0) throw new Error(`${library}: objdump shows no symbols with versions`)
  return wanted
    .filter(([, library, version]) => isNewer(version, newest[library]))
    .map(([, library, version, name]) => `${name}@${library}_${version}`)
    .sort()
}

function isNewer(a, b) {
  const [x, y] = [a, b].map((version) => version.split('.').map(Number))
  for (let i = 0; i < Math.max(x.length, y.length); i++) {
    if ((x[i] ?? 0) !== (y[i] ?? 0)) return (x[i] ?? 0) > (y[i] ?? 0)
  }
  return false
}
