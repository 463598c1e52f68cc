/** Writes checkpoints that torch.load opens: a zip archive of a pickle and the raw storages (PyTorch 1.6 and later). */
import { crc32 } from 'node:zlib'
import { DiffusionError, invalidArgument } from '../../errors'
import { atomicWrite } from '../atomic-write'
import type { StoredTensor } from '../safetensors'

export interface TorchCheckpoint {
  readonly stateDict: Readonly<Record<string, StoredTensor>>
  /** Integers beside the state_dict: global_step, epoch. */
  readonly counters: Readonly<Record<string, number>>
}

/** Storages by dtype, for those that can be written. */
const storageTypes: Readonly<Record<string, string>> = {
  F32: 'FloatStorage',
  I64: 'LongStorage',
  I32: 'IntStorage',
  I16: 'ShortStorage',
  I8: 'CharStorage',
  U8: 'ByteStorage',
}

/** Without zip64, sizes and positions have 32 bits. */
const maxBytes = 2 ** 32 - 1
const folder = 'archive'

/** Writes `{ 'state_dict': ..., <counters> }` atomically. Throws `invalid-argument`, `io`, and `unsupported` from 4 GiB on. */
export async function writeTorchCheckpoint(path: string, checkpoint: TorchCheckpoint): Promise<void> {
  const tensors = Object.entries(checkpoint.stateDict)
  const pickle = pickleOf(checkpoint)
  const bytesOf = ({ data }: StoredTensor) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  const entries: Entry[] = [
    { name: `${folder}/data.pkl`, bytes: pickle },
    { name: `${folder}/byteorder`, bytes: Buffer.from('little') },
    ...tensors.map(([, tensor], i) => ({ name: `${folder}/data/${i}`, bytes: bytesOf(tensor) })),
    { name: `${folder}/version`, bytes: Buffer.from('3\n') },
  ]
  const size = entries.reduce((sum, { name, bytes }) => sum + bytes.length + 2 * name.length + 200, 0)
  if (size > maxBytes || entries.length >= 0xffff) {
    throw new DiffusionError('unsupported', `a .ckpt file of ${size} bytes can't be written, only below 4 GiB`, {
      argument: 'path',
      expected: `at most ${maxBytes} bytes`,
      received: String(size),
    })
  }
  await atomicWrite(path, async (file) => {
    for (const chunk of zip(entries)) await file.writeFile(chunk)
  })
}

// ---- pickle ----------------------------------------------------------------------------------------------------------

/** Protocol 2, without a memo: what is there twice is written twice. */
function pickleOf({ stateDict, counters }: TorchCheckpoint): Buffer {
  const parts: Buffer[] = [Buffer.from('\x80\x02}(', 'latin1'), text('state_dict'), Buffer.from('}(')]
  for (const [i, [name, tensor]] of Object.entries(stateDict).entries()) {
    parts.push(text(name), tensorOf(name, tensor, String(i)))
  }
  parts.push(Buffer.from('u'))
  for (const [name, value] of Object.entries(counters)) parts.push(text(name), integer(name, value))
  return Buffer.concat([...parts, Buffer.from('u.')])
}

/** torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks). */
function tensorOf(name: string, { dtype, shape, data }: StoredTensor, key: string): Buffer {
  const type = storageTypes[dtype]
  if (!type) throw invalidArgument(name, `a tensor of ${Object.keys(storageTypes).join(', ')}`, dtype)
  const strides = shape.map((_, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1))
  const tuple = (values: readonly number[]) =>
    Buffer.concat([Buffer.from('('), ...values.map((value) => integer(name, value)), Buffer.from('t')])
  return Buffer.concat([
    Buffer.from('ctorch._utils\n_rebuild_tensor_v2\n(('),
    text('storage'),
    Buffer.from(`ctorch\n${type}\n`),
    text(key),
    text('cpu'),
    integer(name, data.length),
    Buffer.from('tQ'),
    integer(name, 0),
    tuple(shape),
    tuple(strides),
    Buffer.from('\x89ccollections\nOrderedDict\n)RtR', 'latin1'),
  ])
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value, 'utf8')
  const head = Buffer.alloc(5, 'X')
  head.writeUInt32LE(bytes.length, 1)
  return Buffer.concat([head, bytes])
}

/** BININT, or LONG1 beyond 32 bits. */
function integer(name: string, value: number): Buffer {
  if (!Number.isSafeInteger(value)) throw invalidArgument(name, 'an integer', value)
  if (value === (value | 0)) {
    const bytes = Buffer.alloc(5, 'J')
    bytes.writeInt32LE(value, 1)
    return bytes
  }
  const bytes = Buffer.alloc(10)
  bytes[0] = 0x8a
  bytes[1] = 8
  bytes.writeBigInt64LE(BigInt(value), 2)
  return bytes
}

// ---- zip -------------------------------------------------------------------------------------------------------------

interface Entry {
  readonly name: string
  readonly bytes: Uint8Array
}

/** PyTorch puts storages at multiples of this, so that they can be mapped into memory. */
const alignment = 64

/** Entries stored as they are, then their directory: PKWARE APPNOTE 6.3. */
function* zip(entries: readonly Entry[]): Generator<Uint8Array> {
  const directory: Buffer[] = []
  let position = 0
  for (const { name, bytes } of entries) {
    const common = fields(name, bytes)
    const begin = position + 30 + name.length
    // An extra field of an id that nobody uses, 'FB', as PyTorch pads with.
    const padding = (2 * alignment - 4 - (begin % alignment)) % alignment
    const extra = Buffer.alloc(4 + padding)
    extra.write('FB', 'latin1')
    extra.writeUInt16LE(padding, 2)
    const local = Buffer.concat([Buffer.from('PK\x03\x04', 'latin1'), common(extra.length), Buffer.from(name), extra])
    const entry = Buffer.concat([
      Buffer.from('PK\x01\x02\x14\x00', 'latin1'),
      common(0),
      Buffer.alloc(14), // no comment, disk 0, no attributes, then where the entry begins
      Buffer.from(name),
    ])
    entry.writeUInt32LE(position, 42)
    directory.push(entry)
    yield local
    yield bytes
    position += local.length + bytes.length
  }
  const size = directory.reduce((sum, { length }) => sum + length, 0)
  yield* directory
  const end = Buffer.alloc(22)
  end.write('PK\x05\x06', 'latin1')
  end.writeUInt16LE(entries.length, 8)
  end.writeUInt16LE(entries.length, 10)
  end.writeUInt32LE(size, 12)
  end.writeUInt32LE(position, 16)
  yield end
}

/** What the local header and the directory have in common: version 2.0, stored, 1 January 1980, checksum, sizes. */
function fields(name: string, bytes: Uint8Array): (extraLength: number) => Buffer {
  const crc = crc32(bytes)
  return (extraLength) => {
    const common = Buffer.alloc(26)
    common.writeUInt16LE(20, 0)
    common.writeUInt16LE(0x21, 8)
    common.writeUInt32LE(crc, 10)
    common.writeUInt32LE(bytes.length, 14)
    common.writeUInt32LE(bytes.length, 18)
    common.writeUInt16LE(name.length, 22)
    common.writeUInt16LE(extraLength, 24)
    return common
  }
}
