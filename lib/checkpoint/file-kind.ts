/** What a file is, by how it begins: for those that are called what they are not. */

/** Bytes that are enough to tell. */
export const headLength = 512

export type FileKind = 'safetensors' | 'torch' | 'other'

interface Signature {
  /** What is at `at`, the begin by default, in latin-1. */
  readonly bytes?: string
  readonly at?: number
  /** What a text begins with, in small letters and without spaces before it. */
  readonly text?: RegExp
  readonly test?: (head: Uint8Array) => boolean
  readonly what: string
}

const signatures: readonly Signature[] = [
  { text: /^version https:\/\/git-lfs/, what: "a pointer of Git LFS, not the file itself: 'git lfs pull' gets it" },
  {
    text: /^(\.\.\/)*\.git\/annex\/|^\/annex\//,
    what: "a pointer of git-annex, not the file itself: 'git annex get' gets it",
  },
  { text: /^<(!doctype html|html|head|body)/, what: 'an HTML page, such as a server sends in place of a file' },
  { text: /^<\?xml|^<svg|^<error/, what: 'XML' },
  { text: /^[{[]/, what: 'JSON text' },
  { bytes: '\x89PNG', what: 'a PNG image' },
  { bytes: '\xff\xd8\xff', what: 'a JPEG image' },
  { bytes: 'GIF8', what: 'a GIF image' },
  { bytes: 'WEBP', at: 8, what: 'a WebP image' },
  { bytes: '%PDF', what: 'a PDF' },
  { bytes: 'GGUF', what: 'a GGUF file' },
  { bytes: 'ggml', what: 'a GGML file' },
  { bytes: '\x89HDF', what: 'an HDF5 file, such as Keras writes' },
  { bytes: '\x93NUMPY', what: 'an array of NumPy (.npy)' },
  { bytes: '\x1f\x8b', what: 'a file that is compressed by gzip' },
  { bytes: 'BZh', what: 'a file that is compressed by bzip2' },
  { bytes: '\xfd7zXZ', what: 'a file that is compressed by xz' },
  { bytes: '\x28\xb5\x2f\xfd', what: 'a file that is compressed by zstd' },
  { bytes: "7z\xbc\xaf'\x1c", what: 'a 7-Zip archive' },
  { bytes: 'Rar!', what: 'a RAR archive' },
  { bytes: 'ustar', at: 257, what: 'a tar archive' },
  { bytes: 'TFL3', at: 4, what: 'a TensorFlow Lite model' },
  { bytes: '\x7fELF', what: 'a program' },
  // ModelProto: ir_version (1 to 15), then the producer's name, or what else comes second.
  { test: ([a, b, c]) => a === 8 && b > 0 && b < 16 && c % 8 === 2 && c > 8 && c < 64, what: 'an ONNX model' },
  { bytes: 'PK', what: 'a PyTorch checkpoint, or another zip archive' },
  { test: ([a, b]) => a === 0x80 && b >= 2 && b <= 5, what: 'a PyTorch checkpoint, or another pickle' },
  { test: (head) => head.length >= 8 && head.every((c) => (c >= 32 && c < 127) || (c >= 9 && c <= 13)), what: 'text' },
]

/** 'torch': a zip archive or a pickle, unless they are the length of a safetensors header (below 4 GiB) and its brace. */
export function kindOf(head: Uint8Array): FileKind {
  if (head.length >= 9 && head.subarray(4, 8).every((byte) => byte === 0) && head[8] === 0x7b) return 'safetensors'
  const zip = head[0] === 0x50 && head[1] === 0x4b
  return zip || head[0] === 0x80 ? 'torch' : 'other'
}

/** "an HTML page"; undefined for bytes that begin like nothing that is known. */
export function describeKind(head: Uint8Array): string | undefined {
  if (head.length === 0) return 'empty'
  if (kindOf(head) === 'safetensors') return 'a safetensors file'
  const bytes = Buffer.from(head).toString('latin1')
  const text = bytes
    .replace(/^\xef\xbb\xbf/, '')
    .trimStart()
    .toLowerCase()
  return signatures.find(({ bytes: own, at = 0, ...by }) => {
    if (own !== undefined) return bytes.startsWith(own, at)
    return by.text ? by.text.test(text) : by.test?.(head)
  })?.what
}
