/**
 * A model of a training step by ranks: how long it takes where pieces of the gradients go out while the backward pass still runs.
 * Ranks are equally fast and begin together; what they send takes nothing of their arithmetic. Not in it: links that are shared,
 * copies between a GPU and its host, the sums themselves, which wait for memory far less than for a network.
 */
import type { Network } from './networks'

/** When a rank's gradients are there, from the beginning of a step. */
export interface Timeline {
  /** Numbers of the bank. */
  readonly count: number
  /** Each time that numbers of the bank were written, in the order of the program. */
  readonly written: readonly { readonly begin: number; readonly end: number; readonly seconds: number }[]
  /** Until the last gradient is there. */
  readonly gradients: number
  /** From there on: norm, optimizer, average. */
  readonly update: number
}

interface Range {
  readonly begin: number
  readonly end: number
}

/** The pieces in which a bank goes out: native/graph/bank_parts.h. */
export function piecesOf(count: number, ranks: number): Range[] {
  const length = Math.max(16384, 16 * Math.ceil(Math.ceil(count / 4096) / 16))
  const parts = Math.ceil(count / length)
  const most = Math.max(1, Math.floor(2 ** 20 / (length * ranks)))
  const perRank = Math.ceil(parts / (Math.ceil(parts / (most * ranks)) * ranks))
  const piece = perRank * ranks * length
  return Array.from({ length: Math.ceil(count / piece) }, (_, i) => ({
    begin: i * piece,
    end: Math.min((i + 1) * piece, count),
  }))
}

/**
 * What a rank sends of `bytes`. `nodes`: of the tree, that its batches are made of: 1 where they are a power of two
 * (native/runtime/bank_sum.h).
 */
export const bytesSent = (bytes: number, ranks: number, nodes = 1): number =>
  ((nodes + 1) * (ranks - 1) * bytes) / ranks

/** Of a piece: each rank gets its own part of it from all, once for each node, and sends the sum of that to all. */
export function exchangeSeconds(bytes: number, ranks: number, network: Network, nodes = 1): number {
  if (ranks === 1) return 0
  const rounds = (nodes + 1) * (network.latency + (ranks - 1) * network.message)
  return rounds + bytesSent(bytes, ranks, nodes) / network.bandwidth
}

export interface Step {
  /** Of all pieces, one after the other. */
  readonly exchanging: number
  /** The whole step. */
  readonly seconds: number
  /** Of the ranks' arithmetic: what one alone takes, by what it takes together. */
  readonly efficiency: number
}

/** Pieces go out as they are there, one after the other; the update waits for the last. */
export function stepOf(timeline: Timeline, ranks: number, network: Network, nodes = 1): Step {
  const { count, written, gradients, update } = timeline
  const alone = gradients + update
  if (ranks === 1) return { exchanging: 0, seconds: alone, efficiency: 1 }
  const ready = piecesOf(count, ranks).map(({ begin, end }) => {
    const own = written.filter((range) => begin < range.end && range.begin < end)
    return { begin: own.reduce((latest, { seconds }) => Math.max(latest, seconds), 0), bytes: 4 * (end - begin) }
  })
  let [at, exchanging] = [0, 0]
  for (const { begin, bytes } of ready.sort((a, b) => a.begin - b.begin)) {
    const seconds = exchangeSeconds(bytes, ranks, network, nodes)
    at = Math.max(at, begin) + seconds
    exchanging += seconds
  }
  const seconds = Math.max(at, gradients) + update
  return { exchanging, seconds, efficiency: alone / seconds }
}

/** The same step on a device that takes `factor` times as long for everything. */
export const slower = (timeline: Timeline, factor: number): Timeline => ({
  ...timeline,
  written: timeline.written.map((range) => ({ ...range, seconds: factor * range.seconds })),
  gradients: factor * timeline.gradients,
  update: factor * timeline.update,
})

/** Bytes that a rank keeps with AdamW and an average: weights, gradients, and m, v and the average, whole or 1 / `shards` of each. */
export const bytesKept = (count: number, shards = 1): number => 4 * (2 * count + 3 * Math.ceil(count / shards))
