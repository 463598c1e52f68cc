/**
 * cuDNN as an algorithm of convolutions, through a stand-in for the library (test/fake-cudnn): how it is found or why not,
 * what is asked of it, and the choice by times. Each case is a process of its own, as the library is opened once in one.
 */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fakeCudnn, incompleteCudnn, libraryAlgo } from '../support/fake-cudnn'

interface Scenario {
  forceAlgo?: number
  deterministic?: boolean
  inPlace?: boolean
  compile?: number
}

interface Outcome {
  status: number | null
  plans: string[]
  error: { code?: string; message: string }
  /** What DDPM_DEBUG=plan printed. */
  notes: string[]
  /** Lines that the stand-in wrote. */
  log: string[]
}

const debug = 'plan'
const forced: Scenario = { forceAlgo: libraryAlgo }

describe('cuDNN', () => {
  let folder: string
  before(() => {
    folder = mkdtempSync(path.join(tmpdir(), 'ddpm-cudnn-'))
  })
  after(() => rmSync(folder, { recursive: true }))

  let count = 0
  function run(scenario: Scenario, env: Record<string, string> = {}): Outcome {
    const logFile = path.join(folder, `log-${count++}`)
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      [path.join(__dirname, 'cudnn-child.js'), JSON.stringify(scenario)],
      {
        encoding: 'utf8',
        env: {
          ...process.env,
          DDPM_TEST_DEVICE: 'cuda-host', // no other is looked for, which might be told on stdout
          DDPM_HOST_CUDNN: fakeCudnn,
          DDPM_FAKE_CUDNN_LOG: logFile,
          DDPM_DEBUG: debug,
          ...env,
        },
      },
    )
    const notes = [...stderr.matchAll(/^ddpm-native: (.*)$/gm)].map(([, note]) => note)
    if (!(env.DDPM_DEBUG ?? debug)) assert.equal(stderr, '', 'nothing is printed')
    let log: string[] = []
    try {
      log = readFileSync(logFile, 'utf8').trim().split('\n')
    } catch {} // nothing was executed
    assert.deepEqual(
      log.filter((line) => line.startsWith('misuse')),
      [],
    )
    const result = JSON.parse(stdout)
    return { status, plans: result, error: result, notes, log }
  }

  const algorithms = (plan: string) => [...plan.matchAll(/^(Conv2d\w*) (\w+)/gm)].map(([, op, algo]) => `${op} ${algo}`)
  const ours = ['Conv2d direct', 'Conv2dWgrad direct', 'Conv2dDgrad direct']
  const library = ['Conv2d library', 'Conv2dWgrad library', 'Conv2dDgrad library']

  /** The right numbers by kernels of our own. */
  function assertOurs(outcome: Outcome, reason?: RegExp): void {
    assert.equal(outcome.status, 0, outcome.error.message)
    assert.deepEqual(algorithms(outcome.plans[0]), ours)
    assert.deepEqual(outcome.log, [])
    if (reason) assert.match(outcome.notes.join('\n'), reason)
    else assert.deepEqual(outcome.notes, [])
  }

  it('computes all three convolutions, what is added by the same graph', () => {
    const { status, plans, error, notes, log } = run(forced)
    assert.equal(status, 0, error.message)
    assert.deepEqual(algorithms(plans[0]), library)
    // Engines that compute in less precision or depend on chance come first in the stand-in's advice.
    assert.deepEqual(log, [
      'execute forward, engine 3, operations 4',
      'execute wgrad, engine 3, operations 1',
      'execute dgrad, engine 3, operations 1',
    ])
    assert.deepEqual(notes, [
      'Conv2d [2,5,6,4] to [2,5,6,8], 3x3: cuDNN engine 3 (fused), as asked for',
      'Conv2dWgrad [2,5,6,4] to [2,5,6,8], 3x3: cuDNN engine 3, as asked for',
      'Conv2dDgrad [2,5,6,8] to [2,5,6,4], 3x3: cuDNN engine 3, as asked for',
    ])
  })

  it('leaves the epilogue to us where no engine has it', () => {
    const { status, plans, error, notes, log } = run(forced, { DDPM_FAKE_CUDNN: 'no-fusion' })
    assert.equal(status, 0, error.message)
    assert.deepEqual(algorithms(plans[0]), library)
    assert.equal(log[0], 'execute forward, engine 3, operations 1')
    assert.match(notes[0], /cuDNN engine 3 \(our epilogue\), as asked for/)
  })

  it('leaves the epilogue to us where the result takes the place of what is added', () => {
    const { status, plans, error, log } = run({ ...forced, inPlace: true })
    assert.equal(status, 0, error.message)
    const [, residual, y] = /^Conv2d library.* residual\[[^@]*@(\S+).* y\[[^@]*@(\S+)/m.exec(plans[0]) ?? []
    assert.ok(residual)
    assert.equal(residual, y)
    assert.equal(log[0], 'execute forward, engine 3, operations 1')
  })

  describe('where it cannot be had, our kernels compute, and DDPM_DEBUG=plan says why', () => {
    const cases: [string, Record<string, string>, RegExp][] = [
      ['switched off', { DDPM_HOST_CUDNN: 'off' }, /^no cuDNN: switched off$/m],
      ['not there', { DDPM_HOST_CUDNN: '/nowhere' }, /^no cuDNN: \/nowhere\/libcudnn_graph.so.9: cannot open/m],
      ['lacking a function', { DDPM_HOST_CUDNN: incompleteCudnn }, /libcudnn_graph.so.9 has no cudnnBackendExecute$/m],
      ['too old', { DDPM_FAKE_CUDNN: 'version=8907' }, /fake-cudnn has cuDNN 8.9.7, and the declarations/],
      ['too new', { DDPM_FAKE_CUDNN: 'version=100102' }, /fake-cudnn has cuDNN 10.1.2, and the declarations/],
      [
        'without a handle',
        { DDPM_FAKE_CUDNN: 'create-fails' },
        /cudnnCreate: CUDNN_STATUS_INTERNAL_ERROR \(asked to\)/,
      ],
      ['without an engine', { DDPM_FAKE_CUDNN: 'no-engines' }, /no plan of cuDNN: its heuristics know no engine/],
      ['out of workspace', { DDPM_FAKE_CUDNN: 'big-workspace' }, /engine 6 wants a workspace of 1099511627776 bytes/],
    ]
    for (const [title, env, reason] of cases) it(title, () => assertOurs(run(forced, env), reason))

    it('and without DDPM_DEBUG nothing says why', () =>
      assertOurs(run(forced, { DDPM_HOST_CUDNN: '/nowhere', DDPM_DEBUG: '' })))

    it('not all in one folder', () => {
      const lone = path.join(folder, 'lone')
      rmSync(lone, { recursive: true, force: true })
      symlinkSync(fakeCudnn, lone) // the folder itself may be a link ...
      assert.equal(run(forced, { DDPM_HOST_CUDNN: lone }).log.length, 3)
      const only = mkdtempSync(path.join(folder, 'only-'))
      symlinkSync(path.join(fakeCudnn, 'libcudnn_graph.so.9'), path.join(only, 'libcudnn_graph.so.9'))
      const reason = new RegExp(`no cuDNN: ${only}/libcudnn_engines_precompiled.so.9: cannot open`)
      assertOurs(run(forced, { DDPM_HOST_CUDNN: only }), reason)
    })
  })

  describe('is found where people have it', () => {
    /** A Python environment with cuDNN and its companions among its packages, as pip installs them. */
    function environment(name: string, packages: string): string {
      const prefix = path.join(folder, name)
      mkdirSync(path.join(prefix, packages, 'nvidia', 'cudnn'), { recursive: true })
      symlinkSync(fakeCudnn, path.join(prefix, packages, 'nvidia', 'cudnn', 'lib'))
      mkdirSync(path.join(prefix, 'bin'))
      writeFileSync(path.join(prefix, 'bin', 'python3'), '')
      return prefix
    }
    const nowhere = { VIRTUAL_ENV: '', CONDA_PREFIX: '', PYTHON: '', HOME: '', PATH: '' }
    const search = (env: Record<string, string>) => run(forced, { ...nowhere, DDPM_HOST_CUDNN: '', ...env })

    it('beside the packages of the interpreter in PATH, which may be a link', () => {
      const prefix = environment('python', 'lib/python3.12/site-packages')
      const links = mkdtempSync(path.join(folder, 'links-'))
      symlinkSync(path.join(prefix, 'bin', 'python3'), path.join(links, 'python3'))
      assert.equal(search({ PATH: `/nowhere:${links}` }).log.length, 3)
      assert.equal(search({ PYTHON: path.join(prefix, 'bin', 'python3') }).log.length, 3)
    })

    it("in a virtual environment, in the user's own packages, in Debian's", () => {
      assert.equal(search({ VIRTUAL_ENV: environment('venv', 'lib/python3.9/site-packages') }).log.length, 3)
      assert.equal(search({ VIRTUAL_ENV: environment('debian', 'lib/python3/dist-packages') }).log.length, 3)
      environment('home/.local', 'lib/python3.11/site-packages')
      assert.equal(search({ HOME: path.join(folder, 'home') }).log.length, 3)
    })

    it('in a conda environment', () => {
      const prefix = path.join(folder, 'conda')
      mkdirSync(prefix)
      symlinkSync(fakeCudnn, path.join(prefix, 'lib'))
      assert.equal(search({ CONDA_PREFIX: prefix }).log.length, 3)
    })

    it('past a folder where it is not complete; and all of them are named where none is', () => {
      const broken = path.join(folder, 'broken')
      mkdirSync(broken)
      symlinkSync(incompleteCudnn, path.join(broken, 'lib'))
      const venv = environment('second', 'lib/python3.12/site-packages')
      assert.equal(search({ VIRTUAL_ENV: broken, CONDA_PREFIX: venv }).log.length, 3)
      assertOurs(
        search({ VIRTUAL_ENV: broken }),
        new RegExp(`no cuDNN: .*; ${broken}/lib/libcudnn_graph.so.9 has no cudnn`),
      )
    })
  })

  it('runs a plan while another is being built', () => {
    const [slow, logFile] = [path.join(folder, 'slow'), path.join(folder, 'log-busy')]
    const { status, signal, stdout, stderr } = spawnSync(
      process.execPath,
      [path.join(__dirname, 'cudnn-busy-child.js'), slow],
      {
        ...{ encoding: 'utf8', timeout: 60_000, killSignal: 'SIGKILL' }, // a run that waits for the build never ends
        env: {
          ...process.env,
          DDPM_TEST_DEVICE: 'cuda-host',
          DDPM_HOST_CUDNN: fakeCudnn,
          DDPM_FAKE_CUDNN: `slow=${slow}`,
          DDPM_FAKE_CUDNN_LOG: logFile,
        },
      },
    )
    assert.deepEqual([status, signal], [0, null], stderr)
    assert.deepEqual(JSON.parse(stdout), ['ran', 'builds', 'ran meanwhile', 'built', 'ran again'])
    assert.doesNotMatch(readFileSync(logFile, 'utf8'), /misuse/)
  })

  it('a failing execution fails the run with its reason', () => {
    const { status, error } = run(forced, { DDPM_FAKE_CUDNN: 'execute-fails' })
    assert.equal(status, 1)
    assert.equal(error.code, 'internal')
    assert.match(
      error.message,
      /Conv2d .*engine 3 \(fused\): cudnnBackendExecute: CUDNN_STATUS_EXECUTION_FAILED \(asked to\)/,
    )
  })

  describe('the choice by times', () => {
    const timed = (times: string, env = {}, scenario: Scenario = {}) =>
      run(scenario, { DDPM_HOST_TIMES: times, ...env })

    it('is not made where nothing can be timed', () => assertOurs(run({})))

    it('takes the fastest, once for each shape', () => {
      const { status, plans, error, notes, log } = timed(
        'direct=2,cuDNN engine 3=3,cuDNN engine 4=0.5',
        {},
        { compile: 1 },
      )
      assert.equal(status, 0, error.message)
      assert.deepEqual(algorithms(plans[0]), library)
      const [forward, wgrad, dgrad] = notes
      assert.match(
        forward,
        /: cuDNN engine 4 \(fused\); timed: direct 2.000 ms, cuDNN engine 3 \(fused\) 3.000 ms, cuDNN engine 4 /,
      )
      assert.match(forward, /cuDNN engine 3 \(our epilogue\) 3.000 ms, .* ms, in \d+\.\d\d s$/)
      assert.match(wgrad, /Conv2dWgrad .*: cuDNN engine 4; timed: direct 2.000 ms/)
      assert.match(dgrad, /Conv2dDgrad .*: cuDNN engine 4; timed: direct 2.000 ms/)
      // Each candidate in turn; a program that is compiled again, or run, has the same choice.
      assert.equal(plans[1], plans[0])
      const forwards = log.filter((line) => line.includes('forward'))
      const executed = forwards.map((line) => /engine (\d+), operations (\d)/.exec(line)!.slice(1).join('/'))
      assert.deepEqual(
        executed.filter((plan, i) => plan !== executed[i - 1]),
        ['3/4', '4/4', '3/1', '4/1', '4/4'],
      )
    })

    it('takes our kernels where they are the fastest', () => {
      const { status, plans, error, notes } = timed('direct=1,cuDNN=2')
      assert.equal(status, 0, error.message)
      assert.deepEqual(algorithms(plans[0]), ours)
      assert.match(notes[0], /^Conv2d .*: direct; timed: direct 1.000 ms, cuDNN engine 3 \(fused\) 2.000 ms/m)
    })

    it('leaves out what fails', () => {
      const { status, plans, error, notes } = timed('direct=1,cuDNN=0.1', { DDPM_FAKE_CUDNN: 'execute-fails' })
      assert.equal(status, 0, error.message)
      assert.deepEqual(algorithms(plans[0]), ours)
      assert.match(notes[0], /cuDNN engine 3 \(fused\) failed \(.*cudnnBackendExecute/)
    })

    it('works without the library', () => {
      const outcome = timed('direct=1', { DDPM_HOST_CUDNN: 'off' })
      assertOurs(outcome, /^no cuDNN: switched off$/m)
      assert.equal(outcome.notes.length, 1)
    })

    it('is not made with `deterministic`, not even when the library is asked for', () => {
      assertOurs(timed('direct=1,cuDNN=0.1', {}, { deterministic: true }))
      assertOurs(run({ ...forced, deterministic: true }))
    })
  })
})
