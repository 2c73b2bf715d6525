#!/usr/bin/env bash
# Fuzzes every target for its share of a total time, or for a time of its own, and prints a line for each.
#
#   test/fuzz/run.sh TOTAL_SECONDS [TIME_OF_EACH]
#
# A target that fails leaves its crasher in testdata/fuzz beside it, where `go test` finds it again, and makes this fail
# once all others had their turn.
set -uo pipefail

total=${1:?usage: run.sh TOTAL_SECONDS [TIME_OF_EACH]}
total=${total%s}

targets=() # PACKAGE TARGET
while IFS=: read -r file line; do
  name=${line#func }
  targets+=("./$(dirname "$file") ${name%%(*}")
done < <(git grep --untracked -E '^func Fuzz[A-Z]' -- '*_test.go' | sort)
if [ ${#targets[@]} -eq 0 ]; then echo "fuzz: no targets"; exit 1; fi
each=${2:-$((total * 1000 / ${#targets[@]}))ms}

# Up to Go 1.26 a target can fail as its time ends, with nothing but this to say: go.dev/issue/75804, mended in 1.27.
# Such an end says nothing about the target, so it gets its time once more; a crasher or a hang says something else.
ended_by_the_clock() {
  [ "$(sed '1,/^--- FAIL: /d; /^FAIL$/,$d' "$log")" = '    context deadline exceeded' ]
}

fuzz() { # PACKAGE TARGET
  local try
  for try in 1 2 3; do
    go test -run '^$' -fuzz "^$2\$" -fuzztime "$each" -fuzzminimizetime 1s "$1" >"$log" 2>&1 && return
    ended_by_the_clock || return
    echo "again  ${1#./}.$2: Go's fuzzer tripped over the end of its time (attempt $try)"
  done
  return 1
}

executions=0 failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for target in "${targets[@]}"; do
  read -r pkg name <<<"$target"
  if fuzz "$pkg" "$name"; then result=ok; else result=FAILED; fi
  last=$(grep -E '^fuzz: elapsed: .* execs: ' "$log" | tail -1)
  execs=$(sed -nE 's/.* execs: ([0-9]+) .*/\1/p' <<<"$last")
  new=$(sed -nE 's/.*new interesting: ([0-9]+).*/\1/p' <<<"$last")
  printf '%-6s %-44s %10s executions %5s new interesting\n' "$result" "${pkg#./}.$name" "${execs:-0}" "${new:-0}"
  executions=$((executions + ${execs:-0}))
  if [ "$result" != ok ]; then
    failed=$((failed + 1))
    cat "$log"
  fi
done
echo "fuzz: ${#targets[@]} targets, $executions executions, $failed failures"
[ "$failed" -eq 0 ] && [ "$executions" -gt 0 ]
