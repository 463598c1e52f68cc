/**
 * TensorBoard's event files: records of TensorFlow's TFRecord format, each an Event message
 * (https://www.tensorflow.org/tutorials/load_data/tfrecord; tensorboard/compat/proto/event.proto and summary.proto).
 */
import { closeSync, ftruncateSync, openSync, readdirSync, writeSync } from 'node:fs'
import path from 'node:path'
import { Message } from '../export/protobuf'
import { ioError } from '../file-errors'
import { crc32c } from './crc32c'

/** Fields of event.proto and summary.proto. */
const event = { wallTime: 1, step: 2, fileVersion: 3, summary: 5, sessionLog: 7 } as const
const summary = { value: 1 } as const
const value = { tag: 1, simpleValue: 2, image: 4 } as const
const image = { height: 1, width: 2, colorspace: 3, encoded: 4 } as const
const session = { status: 1, start: 1 } as const

const namePrefix = 'events.out.tfevents.'

export interface EventImage {
  readonly png: Uint8Array
  readonly width: number
  readonly height: number
  /** Of the PNG. */
  readonly channels: number
}

export class EventFile {
  readonly #file: string
  readonly #fd: number
  /** Of the whole records. */
  #bytes = 0

  private constructor(file: string, fd: number) {
    this.#file = file
    this.#fd = fd
  }

  /**
   * A new file in `folder`, beside those that are there: a reader goes through them in the order of their names. What they hold
   * beyond `step` counts no more, as with purge_step of PyTorch's SummaryWriter: a resumed training takes these steps again.
   * This method and those that write throw `io`; of a record that could not be written nothing is in the file.
   */
  static open(folder: string, step: number): EventFile {
    let events: EventFile | undefined
    try {
      const earlier = readdirSync(folder).filter((name) => name.startsWith(namePrefix))
      const number = earlier.reduce((most, name) => Math.max(most, numberOf(name)), -1) + 1
      const file = path.join(folder, `${namePrefix}${String(number).padStart(10, '0')}.ddpm-native`)
      events = new EventFile(file, openSync(file, 'ax'))
      events.#write(eventAt(0).string(event.fileVersion, 'brain.Event:2'))
      if (earlier.length > 0) {
        events.#write(eventAt(step + 1).message(event.sessionLog, new Message().int(session.status, session.start)))
      }
      return events
    } catch (error) {
      events?.close()
      throw ioError(`cannot make an event file in ${folder}`, error, { path: folder })
    }
  }

  scalars(step: number, values: Readonly<Record<string, number>>): void {
    const all = new Message()
    for (const [name, number] of Object.entries(values)) {
      all.message(summary.value, new Message().string(value.tag, name).float(value.simpleValue, number))
    }
    this.#write(eventAt(step).message(event.summary, all))
  }

  images(step: number, values: Readonly<Record<string, EventImage>>): void {
    const all = new Message()
    for (const [name, { png, width, height, channels }] of Object.entries(values)) {
      const encoded = new Message()
        .int(image.height, height)
        .int(image.width, width)
        .int(image.colorspace, channels) // 1 is grey, 3 RGB
        .bytes(image.encoded, png)
      all.message(summary.value, new Message().string(value.tag, name).message(value.image, encoded))
    }
    this.#write(eventAt(step).message(event.summary, all))
  }

  close(): void {
    closeSync(this.#fd)
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #write(message: Message): void {
    const record = framed(message.encode())
    try {
      for (let at = 0; at < record.length; ) at += writeSync(this.#fd, record, at)
      this.#bytes += record.length
    } catch (error) {
      this.#cutBack()
      throw ioError(`cannot write ${this.#file}`, error, { path: this.#file, kept: 'its events so far are kept' })
    }
  }

  #cutBack(): void {
    try {
      ftruncateSync(this.#fd, this.#bytes)
    } catch {
      // a reader ends at half a record
    }
  }
}

/** 0 where somebody else named it. */
function numberOf(name: string): number {
  const number = Number.parseInt(name.slice(namePrefix.length), 10)
  return number < 1e10 ? number : 0
}

function eventAt(step: number): Message {
  return new Message().double(event.wallTime, Date.now() / 1000).int(event.step, step)
}

/** Length, its checksum, the data, their checksum. */
function framed(data: Uint8Array): Buffer {
  const record = Buffer.alloc(8 + 4 + data.length + 4)
  record.writeBigUInt64LE(BigInt(data.length), 0)
  record.writeUInt32LE(masked(crc32c(record.subarray(0, 8))), 8)
  record.set(data, 12)
  record.writeUInt32LE(masked(crc32c(data)), 12 + data.length)
  return record
}

/** TFRecord's mask: a checksum of data that hold checksums would be a weak one. */
function masked(crc: number): number {
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0
}
