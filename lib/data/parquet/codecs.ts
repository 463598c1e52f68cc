/** How pages are packed. */
import { promisify } from 'node:util'
import { gunzip } from 'node:zlib'
import { DiffusionError } from '../../errors'
import { readLength, unpackSnappy } from './snappy'

/** parquet.thrift's CompressionCodec. */
const names = ['none', 'snappy', 'gzip', 'LZO', 'Brotli', 'LZ4', 'zstd', 'LZ4_RAW'] as const
export type Codec = 'none' | 'snappy' | 'gzip' | 'zstd'
const known: readonly string[] = ['none', 'snappy', 'gzip', 'zstd'] satisfies Codec[]

export function codecOf(number: number, bad: (problem: string) => DiffusionError): Codec {
  const name = names[number] ?? number
  if (known.includes(String(name))) return name as Codec
  throw bad(`it is packed by ${name}: read are ${known.join(', ')}`)
}

/** Bytes that unpacking takes: zstd's WebAssembly has memory of its own. */
export function unpackingCost(codec: Codec, packed: number, size: number): number {
  if (codec === 'none') return packed
  return codec === 'zstd' ? 2 * (packed + size) : packed + size
}

const gunzipped = promisify(gunzip)

export interface Unpacked {
  readonly bytes: Uint8Array
  /** Of snappy: see unpackSnappy. */
  readonly blocks?: Uint32Array
}

/** Exactly `size` bytes; undefined where the data are damaged. Throws `unsupported` for zstd without its package. */
export async function unpack(codec: Codec, packed: Uint8Array, size: number): Promise<Unpacked | undefined> {
  const unpacked = await unpackers[codec](packed, size)
  return unpacked?.bytes.length === size ? unpacked : undefined
}

const unpackers: Readonly<Record<Codec, (packed: Uint8Array, size: number) => Promise<Unpacked | undefined>>> = {
  none: async (bytes) => ({ bytes }),
  async snappy(packed, size) {
    const start = readLength(packed)
    if (start?.length !== size) return undefined
    const bytes = new Uint8Array(size)
    const found = unpackSnappy(packed, start.at, bytes)
    return found && { bytes, ...found }
  },
  async gzip(packed, size) {
    const bytes = await gunzipped(packed, { maxOutputLength: Math.max(1, size) }).catch(() => undefined)
    return bytes && { bytes }
  },
  async zstd(packed, size) {
    const decoder = await zstdDecoder()
    return { bytes: size === 0 ? new Uint8Array(0) : decoder.decode(packed, size) }
  },
}

/** Of the package zstddec. What is damaged becomes something of another length. */
interface ZstdDecoder {
  decode(packed: Uint8Array, size: number): Uint8Array
}

let loading: Promise<ZstdDecoder> | undefined

function zstdDecoder(): Promise<ZstdDecoder> {
  loading ??= import('zstddec').then(
    async ({ ZSTDDecoder }) => {
      const loaded = new ZSTDDecoder()
      await loaded.init()
      return loaded
    },
    (cause) => {
      loading = undefined
      throw new DiffusionError('unsupported', 'Parquet files packed by zstd need a package: npm install zstddec', {
        cause,
      })
    },
  )
  return loading
}
