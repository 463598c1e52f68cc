#!/bin/sh
# A compiler launcher: runs nvcc and keeps what ptxas says (-Xptxas -v) in <object>.ptxas, for check-cuda.mjs. The rest
# of the compiler's messages go where they would have gone.
for argument; do
  [ "$previous" = -o ] && object=$argument
  previous=$argument
done
if [ -z "$object" ]; then exec "$@"; fi
"$@" 2>"$object.ptxas"
status=$?
grep -v -e '^ptxas info' -e 'bytes stack frame' "$object.ptxas" >&2
exit $status
