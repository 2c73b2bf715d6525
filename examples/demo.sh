#!/usr/bin/env bash
# The main job from drop to result, on the model that `stoker setup --demo-model` made: see `make demo`.
#
#   demo.sh STOKER CONFIG ROOT     STOKER: the binary   CONFIG: what setup wrote   ROOT: folder for inbox, outbox and state
set -euo pipefail
stoker=("$1" --config "$2" --root "$3")
root=$3
here=$(cd "$(dirname "$0")" && pwd)

say() { printf '\n== %s\n' "$*"; }
seconds() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.1f", b - a }'; }
now() { date +%s.%N; }

mkdir -p "$root"
say "starting the daemon on $root"
began=$(now)
STOKER_LOG__FORMAT=console "${stoker[@]}" run &
daemon=$!
trap 'kill -TERM $daemon 2>/dev/null || true; wait $daemon 2>/dev/null || true' EXIT
until "${stoker[@]}" status >/dev/null 2>&1; do
  kill -0 $daemon 2>/dev/null || { wait $daemon; exit 1; }
  sleep 0.2
done

say "dropping examples/questions.jsonl: 27 lines in both forms, two of them bad"
# Exit code 3 says: done, but some lines failed. The two bad lines must, and nothing else may.
run=$(date +%H%M%S)
submit() {
  local code=0
  "${stoker[@]}" submit --wait --name "$2" "$here/$1" || code=$?
  [ $code = "$3" ] || { echo "demo: submit exited with $code, not $3" >&2; exit 1; }
}
submit questions.jsonl "questions-$run.jsonl" 3
first=$(now)

say "a few answers"
head -n 3 "$root/outbox/questions-$run.output.jsonl"
say "and the lines that could not run"
cat "$root/outbox/questions-$run.errors.jsonl"

say "dropping a second file: the engine is warm"
dropped=$(now)
submit more-questions.jsonl "more-questions-$run.jsonl" 0
second=$(now)
head -n 2 "$root/outbox/more-questions-$run.output.jsonl"

say "proving that nothing was lost or doubled"
"${stoker[@]}" verify

say "stopping"
kill -TERM $daemon
wait $daemon
trap - EXIT
printf '\nfirst results after %s s, engine start included; those of the second file after %s s\n' \
  "$(seconds "$began" "$first")" "$(seconds "$dropped" "$second")"
