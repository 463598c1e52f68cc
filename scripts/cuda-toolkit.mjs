// What of CUDA this machine has, found without loading a driver: nvcc, and the architecture of its GPU.
import { execFileSync } from 'node:child_process'
import { accessSync, constants, existsSync, readdirSync } from 'node:fs'
import path from 'node:path'

/** Real code for every generation since 2020, and PTX of the newest for what comes after it. */
export const allArchitectures = ['80', '86', '89', '90a', '100', '120']
/** The one of these that is a GPU on the stand-in (test/fake-cudart). */
export const quickArchitectures = ['90a']

/** { nvcc } or { why }: what was looked for. */
export function findNvcc(env = process.env) {
  const tried = [
    env.CUDACXX,
    env.CUDA_HOME && path.join(env.CUDA_HOME, 'bin', 'nvcc'),
    ...(env.PATH ?? '').split(path.delimiter).map((folder) => path.join(folder || '.', 'nvcc')),
    '/usr/local/cuda/bin/nvcc',
  ].filter(Boolean)
  for (const file of tried) {
    try {
      accessSync(file, constants.X_OK)
      return { nvcc: file }
    } catch {}
  }
  return { why: 'there is no nvcc in CUDACXX, CUDA_HOME, PATH or /usr/local/cuda' }
}

/** { architectures } of the GPUs here, or { why } there is none to build for. */
export function findGpu(run = nvidiaSmi, devices = deviceFiles()) {
  if (devices.length === 0) return { why: 'there is no GPU (no /dev/nvidia0, no /dev/dxg)' }
  let listed
  try {
    listed = run()
  } catch (error) {
    return {
      why: `${devices[0]} is there, but nvidia-smi does not tell the architecture: ${error.message.split('\n')[0]}`,
    }
  }
  const capabilities = listed.split('\n').map((line) => line.trim())
  const architectures = [...new Set(capabilities.filter((line) => /^\d+\.\d$/.test(line)).map(architectureOf))]
  return architectures.length > 0
    ? { architectures }
    : { why: `nvidia-smi names no compute capability: ${listed.trim()}` }
}

/** '9.0' is 90a: its tensor cores' instructions are part of no other architecture. */
function architectureOf(capability) {
  const number = capability.replace('.', '')
  return number === '90' ? '90a' : number
}

function nvidiaSmi() {
  return execFileSync('nvidia-smi', ['--query-gpu=compute_cap', '--format=csv,noheader'], {
    encoding: 'utf8',
    timeout: 20_000,
    stdio: ['ignore', 'pipe', 'ignore'],
  })
}

function deviceFiles() {
  const devices = existsSync('/dev') ? readdirSync('/dev').filter((name) => /^(nvidia\d+|dxg)$/.test(name)) : []
  return devices.map((name) => `/dev/${name}`)
}

/** DDPM_CUDA_ARCHS as a list: '90a', '80,89', 'native' (the GPU that is here) or nothing (all). Throws on anything else. */
export function requestedArchitectures(text, gpu = findGpu) {
  if (!text || text === 'all') return allArchitectures
  if (text === 'native') {
    const { architectures, why } = gpu()
    if (!architectures) throw new Error(`DDPM_CUDA_ARCHS=native: ${why}`)
    return architectures
  }
  const list = text
    .split(/[\s,;]+/)
    .filter(Boolean)
    .map((name) => name.replace(/^sm_/, ''))
  const odd = list.find((name) => !/^\d{2,3}[af]?$/.test(name))
  if (odd !== undefined || list.length === 0) {
    throw new Error(`DDPM_CUDA_ARCHS: expected 'all', 'native' or architectures such as '80,90a', got '${text}'`)
  }
  return list
}

/** As CMAKE_CUDA_ARCHITECTURES: real code for each, and the newest also as PTX (what ends in a letter runs nowhere else). */
export function cmakeArchitectures(list) {
  const sorted = [...list].sort((a, b) => Number.parseInt(a, 10) - Number.parseInt(b, 10))
  return sorted.map((name, i) => (i === sorted.length - 1 && /\d$/.test(name) ? name : `${name}-real`)).join(';')
}
