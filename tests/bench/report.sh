#!/bin/bash
# bench/report.awk on measurements whose medians, ratios and verdicts are known. Usage: tests/bench/report.sh
set -u
cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

expect() { # what pattern file
    if grep -q -e "$2" "$3"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL: $1: no '$2' in:"
        sed 's/^/    /' "$3"
    fi
}

cat >"$work/goals" <<'END'
# a comment
nano op cycles 30
nano call native 2
load integer native 2.5
load integer tcg 4
END

cat >"$work/raw" <<'END'
machine a "machine"
nano call native 1.0 2.0 3.0
nano call bt 4.0 5.0 6.0
nano op bt 10.0 20.0 30.0
nano op tcg -
load integer a native 1.0
load integer a native 9.0
load integer a native 2.0
load integer a tcg 16
load integer a bt 4
load integer b native 1.0
load integer b native 3.0
load integer b tcg 8
load integer b bt 4
load boot boot bt 1.5
sum a native 11111111
sum a bt 11111111
END

awk -v json="$work/json" -f bench/report.awk "$work/goals" "$work/raw" >"$work/text" || failed=$((failed + 1))
expect "median of three, ratios" '^| a  *| *2.000 | *16.00 | *8.00 | *4.00 | *2.00 | *4.00 |$' "$work/text"
expect "median of two" '^| b  *| *2.000 |' "$work/text"
expect "geometric means" '^| geometric mean *| *| *| *5.66 | *| *2.00 | *2.83 |$' "$work/text"
expect "a goal that is met, one that is not" 'at most 2.5 x native (met), at least 4 x faster than tcg (missed)' "$work/text"
expect "a goal in cycles" '^| op *| *- | *- | *20.0 (30.0) | *<= 30 | *met |' "$work/text"
expect "a goal in native ones" '^| call *| *2.0 (3.0) | *- | *5.0 (6.0) | *<= 2 x native | *missed |' "$work/text"
expect "a load that one environment has" '^| boot *| *- | *- | *- | *1.50 | *- | *- |$' "$work/text"
expect "quotes in JSON" '"machine": "a \\"machine\\""' "$work/json"
expect "runs in JSON" '"native": {"median": 2, "runs": \[1.0, 9.0, 2.0\]}' "$work/json"
expect "cycles in JSON" '"op": {"bt": {"minimum": 10, "median": 20, "p95": 30}}' "$work/json"

{
    cat "$work/raw"
    echo "sum a tcg 22222222"
} >"$work/different"
awk -f bench/report.awk "$work/goals" "$work/different" >"$work/text" && failed=$((failed + 1))
expect "different output" '^FAILED: tcg a: prints other things than in native' "$work/text"

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
