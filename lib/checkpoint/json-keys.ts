/** Duplicate keys, which JSON.parse resolves silently. */

/** A key that an object in `json` has twice, or undefined. `json` must be valid: JSON.parse has accepted it. */
export function findDuplicateKey(json: string): string | undefined {
  const open: (Set<string> | undefined)[] = [] // keys of the objects around the position; undefined for an array
  let text = '' // the last string, with its quotes
  for (let i = 0; i < json.length; i++) {
    const c = json[i]
    if (c === '"') {
      const start = i++
      for (; json[i] !== '"'; i++) if (json[i] === '\\') i++
      text = json.slice(start, i + 1)
    } else if (c === '{') open.push(new Set())
    else if (c === '[') open.push(undefined)
    else if (c === '}' || c === ']') open.pop()
    else if (c === ':') {
      const key: string = JSON.parse(text)
      const keys = open.at(-1)
      if (keys?.has(key)) return key
      keys?.add(key)
    }
  }
  return undefined
}
