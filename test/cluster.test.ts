// The jobs of docs/cluster.md do what it says, run as processes with what Slurm and Kubernetes would tell them.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { chmodSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parse } from 'yaml'
import { cli, type Ended, ended, runCli, runScript, temporaryFolder, tinyFlags, writeImages } from './train/support'

const root = path.join(__dirname, '..', '..')
/** Of 16, which are many processes for a test. */
const shards = 3
const text = readFileSync(path.join(root, 'docs', 'cluster.md'), 'utf8').replace(/\b16\b(?! MiB)/g, String(shards))
const fenced = (language: string) =>
  [...text.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\``, 'gm'))].map(([, body]) => body)

describe('docs/cluster.md', function () {
  this.timeout(60_000)
  const folder = temporaryFolder()
  const at = (...names: string[]) => path.join(folder, ...names)
  const [slurm, merge] = fenced('sh')
  const short = '--count 7 --batch 1 --steps 2 --device cpu'

  before(async () => {
    await writeImages(at('photos'), 2)
    const { code } = await runCli(['train', at('photos'), '--out', at('runs', 'photos'), ...tinyFlags, '--steps', '1'])
    assert.equal(code, 0)
    // As the one of a project that has the package, but for few small images.
    mkdirSync(at('bin'))
    const npx = `#!/bin/sh\nshift\ncase $1 in sample) set -- "$@" ${short};; esac\nexec '${process.execPath}' '${cli}' "$@"\n`
    writeFileSync(at('bin', 'npx'), npx)
    chmodSync(at('bin', 'npx'), 0o755)
    await run(['npx', 'ddpm', 'sample', 'runs/photos', '--npz', 'whole.npz'])
  })

  async function run([command, ...args]: string[], env: Record<string, string> = {}): Promise<Ended> {
    const PATH = `${at('bin')}:${process.env.PATH}`
    const options = { cwd: folder, env: { ...process.env, DDPM_NUM_THREADS: '1', ...env, PATH } }
    const result = await ended(spawn(command, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] }))
    assert.equal(result.code, 0, result.stderr)
    return result
  }

  async function merged(): Promise<void> {
    assert.equal(readdirSync(folder).filter((name) => /^samples-\d-of-3\.npz$/.test(name)).length, shards)
    await run(['sh', '-c', merge], {})
    const [file] = readdirSync(folder)
      .filter((name) => /^samples(-\d)?\.npz$/.test(name))
      .sort()
      .slice(-1)
    assert.ok(readFileSync(at(file)).equals(readFileSync(at('whole.npz'))))
    await run(['sh', '-c', 'rm samples*'])
  }

  it('Slurm: tasks of an array, merged', async () => {
    assert.match(slurm, /^#SBATCH --array=1-3$/m)
    const task = (id: number) => run(['sh', '-c', slurm], { SLURM_ARRAY_TASK_ID: String(id), SLURM_CPUS_PER_TASK: '1' })
    await Promise.all([1, 2].map(task))
    await task(3)
    assert.match((await task(2)).stdout, /\(2 of them before\)/) // again, with nothing to do
    await merged()
  })

  it('Kubernetes: pods of an indexed Job, merged', async () => {
    const { spec } = parse(fenced('yaml')[0])
    const [{ command }] = spec.template.spec.containers
    assert.deepEqual([spec.completionMode, spec.completions, spec.parallelism], ['Indexed', shards, shards])
    assert.ok(command.every((word: unknown) => typeof word === 'string'))
    for (let index = 0; index < spec.completions; index++) await run(command, { JOB_COMPLETION_INDEX: String(index) })
    await merged()
  })

  it('a script of your own', async () => {
    const library = path.join(root, 'dist', 'lib', 'index.mjs')
    const code = fenced('ts')[0]
      .replace("'ddpm-native'", JSON.stringify(library))
      .replace('50_000', '7')
      .replace('batchSize = 64', 'batchSize = 1')
      .replace(/auto\/3/, '2/3')
      .replace(/^}$/m, '  console.log(first + i, images.shape.join())\n}')
    writeFileSync(at('script.mjs'), code)
    const { code: status, stdout, stderr } = await runScript(at('script.mjs'), [], folder)
    assert.equal(status, 0, stderr)
    assert.equal(stdout, '2 1,3,8,8\n3 1,3,8,8\n')
  })
})
