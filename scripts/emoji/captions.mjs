/** What emoji are called: of each, its Unicode name, and the names of emoji-datasource where they say something else. */
export function emojiCaptions(emoji, unicodeNames) {
  const bare = (characters) => characters.replaceAll('\uFE0F', '')
  const names = new Map(Object.entries(unicodeNames).map(([characters, { name }]) => [bare(characters), name]))
  return emoji.map(({ unified, name, short_names }) => {
    const characters = unified.split('-').map((hex) => String.fromCodePoint(Number.parseInt(hex, 16)))
    const unicode = names.get(bare(characters.join('')))
    const shorts = short_names.filter((short) => !/^flag-|^u[0-9a-f]{4}$|^..?$|\d$/.test(short))
    return [...new Set([unicode, name, ...shorts].filter(Boolean).map(words))]
  })
}

/** Lower case without marks: "flag Japan" and "Japan Flag" are "flag of japan", "HEART-SHAPED" is "heart shaped". */
function words(name) {
  const country = name.match(/^flag (?=\p{Lu})(.+)$/u) ?? name.match(/^(.*\p{Ll}.*) Flag$/u)
  const plain = country ? `flag of ${country[1]}` : name
  return plain
    .normalize('NFD')
    .replace(/[\p{M}’']/gu, '')
    .toLowerCase()
    .replace(/[^\p{L}\p{N}#*]+/gu, ' ')
    .trim()
}
