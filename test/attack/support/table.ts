/** Figures in columns. */
import type { Figures } from './attack'

export function printTable(title: string, rows: readonly Figures[]): void {
  if (rows.length === 0) return
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))]
  const cells = [columns, ...rows.map((row) => columns.map((column) => String(row[column] ?? '')))]
  const widths = columns.map((_, i) => Math.max(...cells.map((row) => row[i].length)))
  // Names to the left, numbers to the right.
  const line = (row: readonly string[]) =>
    row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join('  ')
  console.log(`\n${title}`)
  for (const row of cells) console.log(`  ${line(row)}`)
  console.log()
}
