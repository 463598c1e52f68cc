/**
 * Imported before everything else: where address space is limited (ulimit -v), the addon keeps further threads from reserving
 * what there is, and says when there is too little for the rest. What else keeps it from being loaded is said by the command that
 * needs it; help doesn't.
 */
try {
  require('../native')
} catch (error) {
  const { code, message } = error as { code?: string; message: string }
  if (code === 'out-of-memory') {
    process.stderr.write(`ddpm ${process.argv[2] ?? ''}: ${message}\n`)
    process.exit(1)
  }
}
