/** Unpacked pages of which more may be asked for, in all of the process: the last ones, up to `most` bytes, or the last one alone. */
import type { Page } from './pages'

const most = 32 * 2 ** 20

const pages = new Map<Page, Promise<Uint8Array>>()

/** The page, which `unpack` makes where it is not kept. */
export function keptPage(page: Page, unpack: () => Promise<Uint8Array>): Promise<Uint8Array> {
  const bytes = pages.get(page) ?? unpack()
  pages.delete(page)
  pages.set(page, bytes) // the last
  bytes.catch(() => pages.delete(page))
  let held = 0
  for (const { unpacked } of pages.keys()) held += unpacked
  for (const oldest of pages.keys()) {
    if (held <= most || oldest === page) break
    held -= oldest.unpacked
    pages.delete(oldest)
  }
  return bytes
}
