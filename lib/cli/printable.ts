/** Text for a terminal, of which a part may come from a file: names, metadata, messages of errors. */

/**
 * Control characters (C0, DEL, C1), by which a text could move the cursor, write elsewhere or set a title; separators of lines; and
 * those that turn the direction of writing, by which it could look like another one.
 */
const unprintable = /[\p{Cc}\p{Zl}\p{Zp}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu

/** As one line, with such characters written as in JSON. */
export function printable(text: string): string {
  return text.replace(unprintable, escaped)
}

/** JSON that is safe to look at: JSON.stringify leaves DEL, C1 and what comes after them as they are. */
export function jsonLine(value: unknown): string {
  return JSON.stringify(value).replace(unprintable, escaped)
}

function escaped(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
}
