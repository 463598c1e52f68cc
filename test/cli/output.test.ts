// What the command prints where it can't, or should not as it is.
import assert from 'node:assert/strict'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { closeSync, mkdirSync, openSync, readdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { jsonLine, oneLine } from '../../lib/printable'
import { cli, ended, runCli, startCli, temporaryFolder, tinyFlags, writeImages } from '../train/support'

const shipped = path.join(__dirname, '..', '..', '..', 'models', 'emoji-32.safetensors')
const evil = '\x1b]0;title\x07\x1b[2J\x9b31m\u202e\x7f\r\n\u2028'
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const control = /[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]/

describe('output', function () {
  this.timeout(60_000)
  const folder = temporaryFolder()

  it('has no control characters of others', () => {
    assert.equal(
      oneLine(`${evil}é漢😀`),
      '\\u001b]0;title\\u0007\\u001b[2J\\u009b31m\\u202e\\u007f\\u000d\\u000a\\u2028é漢😀',
    )
    assert.doesNotMatch(jsonLine({ [evil]: evil }), control)
    assert.deepEqual(JSON.parse(jsonLine({ [evil]: evil })), { [evil]: evil })
  })

  it('shows names and reasons of files, arguments and metadata without them', async () => {
    const name = '\x1b[2Jevil\u009b\n'
    const data = path.join(folder, `data${name}`)
    await writeImages(path.join(data, `class${name}`), 3)
    writeFileSync(path.join(data, `class${name}`, `${name}.png`), 'no image')
    const run = path.join(folder, `run${name}`)
    const train = [
      'train',
      data,
      '--out',
      run,
      ...tinyFlags,
      '--steps',
      '2',
      '--sample-every',
      '2',
      '--sample-steps',
      '2',
    ]
    const runs = [
      [...train, '--classes', 'folders', '--checkpoint-every', '1'],
      ['train', data, '--out', run],
      ['info', run],
      ['info', run, '--json'],
      ['info', path.join(folder, name)],
      ['sample', '--checkpoint', run, '--class', name],
      ['sample', '--checkpoint', run, '--count', '1', '--steps', '1', '--output', path.join(folder, `${name}.png`)],
      ['evaluate', data, '--checkpoint', run, '--limit', '1', '--output', path.join(folder, `${name}.json`)],
      ['convert', run, path.join(folder, `${name}.safetensors`)],
      ['export', '--model', path.join(run, 'model.safetensors'), '--output', path.join(folder, `${name}.onnx`)],
      ['train', `--${name}`],
      [name],
    ]
    for (const args of runs) {
      const { stdout, stderr } = await runCli(args)
      assert.doesNotMatch(stdout, control, JSON.stringify([args[0], stdout]))
      assert.doesNotMatch(stderr, control, JSON.stringify([args[0], stderr]))
    }
  })

  it('that nobody reads is no failure, one that can not be written is', async () => {
    const full = openSync('/dev/full', 'w')
    try {
      for (const args of [
        ['info', shipped],
        ['info', shipped, '--json'],
        ['--help'],
        ['train', '--help'],
        ['--version'],
      ]) {
        const { status, stderr } = spawnSync(process.execPath, [cli, ...args], {
          stdio: ['ignore', full, 'pipe'],
          encoding: 'utf8',
        })
        assert.deepEqual([status, stderr], [1, 'ddpm: cannot write to stdout: the disk is full\n'])
        const { code } = await closed(startCli(args))
        assert.equal(code, 0)
      }
    } finally {
      closeSync(full)
    }
  })

  it('that is lost does not keep files from being written', async () => {
    const out = path.join(folder, 'separate')
    const child = startCli(['sample', '--count', '2', '--steps', '1', '--separate', out, '--device', 'cpu'])
    const { code } = await closed(child)
    assert.equal(code, 0)
    assert.deepEqual(readdirSync(out), ['00000.png', '00001.png'])
  })

  it('leaves no temporary file at a signal', async () => {
    const own = path.join(folder, 'interrupted')
    mkdirSync(own)
    // A pipe in place of a target would be waited for; here it is the writing itself that is interrupted.
    const script = `
      process.argv.splice(1, 1, 'ddpm', 'info', ${JSON.stringify(shipped)})
      const { atomicWrite } = require(${JSON.stringify(require.resolve('../../lib/checkpoint/atomic-write'))})
      require(${JSON.stringify(cli)})
      atomicWrite(${JSON.stringify(path.join(own, 'a'))}, async (file) => {
        await file.writeFile('half')
        process.stdout.write('writing')
        await new Promise((resolve) => setTimeout(resolve, 60_000))
      })`
    for (const [name, code] of [
      ['SIGTERM', 143],
      ['SIGHUP', 129],
    ] as const) {
      const child = spawn(process.execPath, ['-e', script, 'x'], { stdio: ['ignore', 'pipe', 'pipe'] })
      const result = await ended(child, (stdout) => stdout.includes('writing') && child.kill(name))
      assert.equal(result.code, code, result.stderr)
      assert.deepEqual(readdirSync(own), [])
    }
  })

  /** Of a process whose stdout is closed at once. */
  function closed(child: ChildProcess): Promise<{ code: number | null }> {
    child.stdout!.destroy()
    child.stderr!.resume()
    return new Promise((resolve) => child.once('exit', (code) => resolve({ code })))
  }
})
