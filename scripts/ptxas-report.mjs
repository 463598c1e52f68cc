// What `ptxas -v` says of the registers of each kernel.

/** Lines of text with # comments, one kernel's name each. */
export function hotKernels(text) {
  return text
    .split('\n')
    .map((line) => line.replace(/#.*/, '').trim())
    .filter(Boolean)
}

/** [{ kernel (mangled), architecture, registers, stack, spillStores, spillLoads }], bytes but for the registers. */
export function parsePtxas(text) {
  const entries = []
  let entry
  for (const line of text.split('\n')) {
    const compiling = /Compiling entry function '([^']+)' for '([^']+)'/.exec(line)
    const bytes = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line)
    const used = /Used (\d+) registers/.exec(line)
    if (compiling) {
      entry = { kernel: compiling[1], architecture: compiling[2] }
      entries.push(entry)
    } else if (entry && bytes && entry.stack === undefined) {
      const [stack, spillStores, spillLoads] = bytes.slice(1).map(Number)
      Object.assign(entry, { stack, spillStores, spillLoads })
    } else if (entry && used) {
      entry.registers = Number(used[1])
      entry = undefined // what follows of other functions is not the kernel's
    }
  }
  return entries
}

/** A mangled name holds each identifier behind its length. */
const isOf = (name) => (entry) => entry.kernel.includes(`${name.length}${name}`)

/** Sentences about what is wrong; empty when nothing is. */
export function spillsOf(hot, entries) {
  return hot.flatMap((name) => {
    const own = entries.filter(isOf(name))
    if (own.length === 0) return [`no kernel is called ${name}; kernels/cuda/hot-kernels.txt lists it`]
    return own
      .filter((e) => e.spillStores === undefined || e.spillStores > 0 || e.spillLoads > 0)
      .map(
        (e) =>
          `${e.kernel} spills on ${e.architecture}: ${e.spillStores ?? '?'} bytes of stores, ${e.spillLoads ?? '?'} bytes of loads`,
      )
  })
}

/** For each hot kernel and architecture: instances, most registers, most stack, most spilled. */
export function registerTable(hot, entries) {
  const lines = [['kernel', 'architecture', 'instances', 'registers', 'stack', 'spilled']]
  for (const name of hot) {
    const own = entries.filter(isOf(name))
    for (const architecture of new Set(own.map((e) => e.architecture))) {
      const group = own.filter((e) => e.architecture === architecture)
      const most = (of) => String(Math.max(...group.map((e) => of(e) ?? Number.NaN)))
      const spilled = most((e) => Math.max(e.spillStores, e.spillLoads))
      lines.push([name, architecture, String(group.length), most((e) => e.registers), most((e) => e.stack), spilled])
    }
  }
  return lines
    .map((cells) => cells.map((text, i) => (i < 2 ? text.padEnd(i ? 14 : 28) : text.padStart(10))).join(''))
    .join('\n')
}
