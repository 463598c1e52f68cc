/** The choice of algorithms by times, which are given on cuda-host: what is tried, how, and in which order. */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { testedBackends } from '../support/devices'
import { fakeCudnn } from '../support/fake-cudnn'

interface Tuned {
  readonly plan: string
  /** What DDPM_DEBUG=plan said of each problem. */
  readonly notes: string[]
  /** Devices opened and closed, and kernels launched, before the program was run: 'opened', 'closed', names of kernels. */
  readonly events: string[]
}

function tune(times: string, scenario = {}, env: Record<string, string> = {}): Tuned {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [path.join(__dirname, 'tuning-child.js'), JSON.stringify(scenario)],
    {
      ...{ encoding: 'utf8', timeout: 120_000, maxBuffer: 1 << 28 },
      env: {
        ...process.env,
        DDPM_DEBUG: 'plan',
        DDPM_HOST_LAUNCHES: '1',
        DDPM_HOST_TIMES: times,
        DDPM_HOST_CUDNN: 'off',
        ...env,
      },
    },
  )
  assert.equal(status, 0, stderr)
  const compiled = stderr.slice(0, stderr.indexOf('compiled\n'))
  return {
    plan: JSON.parse(stdout),
    notes: [...stderr.matchAll(/^ddpm-native: (Conv2d.*)$/gm)].map(([, note]) => note),
    events: [...compiled.matchAll(/^(?:device (\w+)|launch (\w+).*, grid .*)$/gm)].map(([, a, b]) => a ?? b),
  }
}

const chosen = ({ notes }: Tuned) => notes.map((note) => /: (.*); timed: /.exec(note)?.[1])
const algorithms = ({ plan }: Tuned) => [...plan.matchAll(/^Conv2d (\w+)/gm)].map(([, algorithm]) => algorithm)

describe('the choice of algorithms by times', () => {
  before(function () {
    if (testedBackends.includes('cuda-host')) return
    console.log('Not tested: tuning, without cuda-host')
    this.skip()
  })

  it('begins with the most arithmetic, on one device that is given back', () => {
    const { notes, events } = tune('direct in 2 parts=50,direct=60', { times: 2 })
    assert.deepEqual(
      notes.map((note) => /^Conv2d .*? to \[\d+,\d+,\d+,(\d+)\], (\d)x/.exec(note)!.slice(1).join(' ')),
      ['96 3', '32 3'], // there is one way only to compute the smallest: its sum is of 32
    )
    const devices = events.filter((event) => event === 'opened' || event === 'closed')
    assert.deepEqual(devices, ['opened', 'opened', 'closed'])
    assert.equal(events.at(-1), 'closed', 'what is compiled again is not timed again')
  })

  it('tries the sum in parts', () => {
    const tuned = tune('direct in 2 parts=50,direct=60')
    assert.deepEqual(chosen(tuned), ['direct in 2 parts', 'direct in 2 parts'])
    assert.deepEqual(algorithms(tuned), ['direct', 'direct', 'direct'])
  })

  for (const best of ['tile64x64 in 2 parts', 'tile128x64', 'tile32x64 in 2 parts']) {
    it(`tries tiles and parts together: ${best}`, () => {
      const tuned = tune(`${best}=50,tile=60`.replace('tile128x64=', 'tile128x64 in=60,tile128x64='), {
        precision: 'bf16',
      })
      assert.equal(chosen(tuned)[0], best)
      assert.ok(tuned.plan.includes(`Conv2d ${best.split(' ')[0]} `), tuned.plan)
      const names = tuned.notes[0].slice(tuned.notes[0].indexOf('; timed: '))
      for (const name of ['tile64x64 60.0', 'tile32x64 60.0', 'tile128x64 in 2 parts 60.0'])
        assert.ok(names.includes(name), names)
    })
  }

  const products = ({ events }: Tuned) => events.filter((event) => event === 'productKernel').length

  it('is of several launches at once', () => {
    // Two candidates of two problems, each once to load it, once to see how long it takes; then ten launches are recorded and
    // replayed four times.
    assert.equal(products(tune('direct=0.5')), 2 * 2 * (2 + 4 * 10))
    assert.equal(products(tune('direct=2')), 2 * 2 * (2 + 4 * 2), 'as many as take 5 ms')
  })

  it('ends early for what is much slower', () => {
    assert.equal(products(tune('direct in 2 parts=0.5,direct=50')), 2 * (2 + 4 * 10 + 2))
  })

  it('is of normal numbers', () => {
    const log = path.join(mkdtempSync(path.join(tmpdir(), 'ddpm-tuning-')), 'log')
    try {
      const env = { DDPM_HOST_CUDNN: fakeCudnn, DDPM_FAKE_CUDNN: 'moments', DDPM_FAKE_CUDNN_LOG: log }
      tune('direct=60,cuDNN=50', {}, env)
      const lines = readFileSync(log, 'utf8').matchAll(/^moments of (\w+): (\S+) (\S+)$/gm)
      const moments = [...lines].map(([, name, mean, variance]) => ({ name, mean: +mean, variance: +variance }))
      const tried = moments.slice(0, 2) // the first that was executed: 1920 and 27648 of them
      assert.deepEqual(
        tried.map(({ name }) => name),
        ['image', 'filter'],
      )
      for (const { name, mean, variance } of tried) {
        assert.ok(Math.abs(mean) < 0.1 && Math.abs(variance - 1) < 0.2, `${name}: ${mean}, ${variance}`)
      }
    } finally {
      rmSync(path.dirname(log), { recursive: true })
    }
  })

  it('leaves out what can not be recorded', () => {
    const { notes } = tune('direct in 2 parts=50,direct=60', {}, { DDPM_HOST_REFUSES_RECORDING: 'pointwise' })
    assert.match(notes[0], /: direct; timed: .*direct in 2 parts failed \(.*cannot be recorded\)/)
  })

  it('is not made with `deterministic`', () => {
    const { notes, events } = tune('direct=1', { deterministic: true })
    assert.deepEqual([notes, events], [[], ['opened']])
  })

  describe('is made beside JavaScript and the device', () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'ddpm-beside-'))
    after(() => rmSync(folder, { recursive: true }))
    const happens = (meanwhile: string) => {
      const slow = path.join(folder, `slow-${meanwhile}`)
      const { status, signal, stdout, stderr } = spawnSync(
        process.execPath,
        [path.join(__dirname, 'tuning-beside-child.js'), meanwhile, slow],
        {
          ...{ encoding: 'utf8', timeout: 100_000, killSignal: 'SIGKILL' }, // what waits for the build never ends
          env: {
            ...process.env,
            DDPM_HOST_TIMES: 'direct=60,cuDNN=50',
            DDPM_HOST_CUDNN: fakeCudnn,
            DDPM_FAKE_CUDNN: `slow=${slow}`,
            DDPM_FAKE_CUDNN_LOG: path.join(folder, `log-${meanwhile}`),
          },
        },
      )
      assert.deepEqual([status, signal], [0, null], stderr)
      return JSON.parse(stdout)
    }

    it('so that others run', () => assert.deepEqual(happens('run'), ['builds', 'ran', 'sampled']))
    it('so that a model can be disposed of', () => assert.deepEqual(happens('dispose'), ['builds', 'disposed']))
    it('and ends with its device', () => assert.deepEqual(happens('close'), ['builds', 'closed it', 'disposed']))
    it('and with all devices', () => assert.deepEqual(happens('closeDevices'), ['builds', 'closed it', 'disposed']))
    it('and with the process', () => assert.deepEqual(happens('exit'), ['builds']))
  })

  describe('is kept for later processes', () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'ddpm-tuning-'))
    after(() => rmSync(folder, { recursive: true }))
    let count = 0
    const fresh = () => path.join(folder, String(count++))
    const inParts = 'direct in 2 parts=50,direct=60'
    const whole = 'direct in 2 parts=60,direct=50'
    const cached = (cache: string, times: string, env = {}) => tune(times, {}, { DDPM_TUNE_CACHE: cache, ...env })
    const timed = ({ notes }: Tuned) => notes.filter((note) => note.includes('; timed: ')).length
    const earlier = ({ notes }: Tuned) =>
      notes.filter((note) => note.endsWith(': direct in 2 parts, as timed earlier')).length
    const onlyFile = (cache: string) => {
      const files = readdirSync(cache)
      assert.equal(files.length, 1, files.join(', '))
      return path.join(cache, files[0])
    }

    it('in a file, by which nothing is timed again', () => {
      const cache = path.join(fresh(), 'made', 'when', 'needed')
      assert.equal(timed(cached(cache, inParts)), 2)
      const second = cached(cache, whole)
      assert.deepEqual([timed(second), earlier(second)], [0, 2])
      assert.deepEqual(new Set(second.events), new Set(['opened']), 'no device to try on, nothing launched')
      onlyFile(cache)
    })

    it('of the same driver and libraries', () => {
      const cache = fresh()
      cached(cache, inParts)
      assert.equal(timed(cached(cache, whole, { DDPM_HOST_DRIVER: '2' })), 2)
      const library = { DDPM_HOST_CUDNN: fakeCudnn }
      const other = { ...library, DDPM_FAKE_CUDNN: 'version=90600' }
      for (const env of [library, other]) assert.equal(timed(cached(cache, `${whole},cuDNN=70`, env)), 3)
      assert.equal(readdirSync(cache).length, 4)
      assert.equal(earlier(cached(cache, whole)), 2)
    })

    it('of a plan of cuDNN, which is built again', () => {
      const [cache, env] = [fresh(), { DDPM_HOST_CUDNN: fakeCudnn }]
      cached(cache, 'direct=60,cuDNN engine 3=50,cuDNN=70', env)
      const { notes, plan } = cached(cache, 'direct=60,cuDNN=70', env)
      assert.deepEqual(new Set(notes.map((note) => note.split(': ')[1])), new Set(['cuDNN engine 3, as timed earlier']))
      assert.match(plan, /^Conv2d library/m)
    })

    const damages: [string, (file: string, text: string) => void][] = [
      ['cut off', (file, text) => writeFileSync(file, text.slice(0, text.indexOf('\t') + 3))],
      ['noise', (file) => writeFileSync(file, Buffer.from(Array.from({ length: 5000 }, (_, i) => (i * 7919) % 256)))],
      ['of another format', (file, text) => writeFileSync(file, text.replace('tuning 1', 'tuning 2'))],
      ['naming no candidate', (file, text) => writeFileSync(file, text.replaceAll(/\t.*/g, '\ttile7x7'))],
      [
        'a gigabyte',
        (file) => {
          writeFileSync(file, '')
          truncateSync(file, 2 ** 30)
        },
      ],
      [
        'a folder',
        (file) => {
          rmSync(file)
          mkdirSync(file)
        },
      ],
      [
        'a pipe',
        (file) => {
          rmSync(file)
          execFileSync('mkfifo', [file])
        },
      ],
      ['empty', (file) => writeFileSync(file, '')],
    ]
    for (const [name, damage] of damages) {
      it(`and is timed again where the file is ${name}`, () => {
        const cache = fresh()
        cached(cache, inParts)
        const file = onlyFile(cache)
        damage(file, readFileSync(file, 'utf8'))
        assert.equal(timed(cached(cache, whole)), 2)
        const third = cached(cache, inParts)
        assert.equal(timed(third), name === 'a folder' ? 2 : 0, third.notes.join('\n')) // which can't be replaced
      })
    }

    it('keeps lines that others added, and drops what is no line', () => {
      const cache = fresh()
      cached(cache, inParts)
      const file = onlyFile(cache)
      const [head, first, second] = readFileSync(file, 'utf8').split('\n')
      const others = '1,2,3\tdirect'
      writeFileSync(file, `${head}\n${first}\nno line\n4,5\t\x1b[2J\n${others}\n`)
      assert.equal(timed(cached(cache, inParts)), 1)
      assert.deepEqual(readFileSync(file, 'utf8').trim().split('\n').sort(), [head, first, second, others].sort())
    })

    it('but not where the folder can not be had, nor when it is switched off', () => {
      const cache = fresh()
      writeFileSync(cache, 'in the way')
      assert.equal(timed(cached(cache, inParts)), 2)
      assert.equal(readFileSync(cache, 'utf8'), 'in the way')
      const home = fresh()
      for (const off of [{ DDPM_TUNE_CACHE: 'off' }, { DDPM_TUNE_CACHE: '' }])
        assert.equal(timed(tune(inParts, {}, { HOME: home, XDG_CACHE_HOME: home, ...off })), 2)
      assert.equal(existsSync(home), false)
    })
  })
})
