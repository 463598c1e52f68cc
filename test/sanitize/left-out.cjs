// mocha --require: tests that say nothing under a sanitizer, each with its reason, which is printed.

/** By how the full title begins; `in`: asan, tsan. */
const leftOut = [
  {
    title: 'memory is where it was after the fifth of 50 samplings',
    in: ['asan', 'tsan'],
    reason: 'it measures memory, and a sanitizer keeps what was freed',
  },
  {
    title: 'little address space',
    in: ['asan', 'tsan'],
    reason: "a sanitizer's shadow memory takes terabytes of address space",
  },
  {
    title: 'what kernels ask of memory',
    in: ['asan', 'tsan'],
    reason: 'accesses are told apart by their places in optimised code',
  },
]

exports.mochaHooks = {
  beforeEach() {
    const title = this.currentTest.fullTitle()
    const found = leftOut.find((test) => title.startsWith(test.title) && test.in.includes(process.env.DDPM_SANITIZER))
    if (!found) return
    console.log(`left out: ${title}: ${found.reason}`)
    this.skip()
  },
}
