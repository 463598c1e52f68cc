/** Text of which a part may come from a file: names, metadata, messages of errors. */

/**
 * Control characters (C0, DEL, C1), by which a text could move a terminal's cursor, write elsewhere or set a title; separators of
 * lines; and those that turn the direction of writing, by which it could look like another one.
 */
const unprintable = /[\p{Cc}\p{Zl}\p{Zp}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu

/** As one line, with such characters written as in JSON. */
export function oneLine(text: string): string {
  return text.replace(unprintable, escaped)
}

/** As `oneLine`, but with its newlines and tabs, and cut where it has more than `limit` characters. */
export function printable(text: string, limit: number): string {
  const cut = text.length > limit ? `${text.slice(0, limit - 3)}...` : text
  return cut.replace(unprintable, (character) =>
    character === '\n' || character === '\t' ? character : escaped(character),
  )
}

/** JSON that is safe to look at: JSON.stringify leaves DEL, C1 and what comes after them as they are. */
export function jsonLine(value: unknown): string {
  return oneLine(JSON.stringify(value, bigintsAsText))
}

/** For JSON.stringify, which knows no bigints: seeds of 64 bits. */
export function bigintsAsText(_: string, value: unknown): unknown {
  return typeof value === 'bigint' ? String(value) : value
}

function escaped(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
}
