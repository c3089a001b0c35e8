#!/bin/bash
# Run the bare-metal guests of guests.list on two engines in lockstep. Usage: tests/guest/lockstep.sh POGO ENGINE ENGINE [NAME...]
#
#   ENGINE   as for -accel: with properties behind commas
#   EVERY=N  (environment) compare every N instructions
#
# One line per guest, the report under one on which the engines differ; ends with "N passed, N failed".
set -u
cd "$(dirname "$0")/../.." || exit 1
pogo=$1 a=$2 b=$3
shift 3
passed=0 failed=0

while read -r name engines _ mem seconds _ options; do
    case $name in '' | '#'*) continue ;; esac
    [ $# -gt 0 ] && [[ " $* " != *" $name "* ]] && continue
    [[ $engines == all || ",$engines," == *",${b%%,*},"* ]] || continue
    [[ $name == *+* ]] && continue         # the same image again
    [[ $options == *-smp* ]] && continue # virtual time follows one processor
    options=${options/icount/} # it does that anyway
    # Slow time makes delays short: a guest that waits for a millisecond executes a thousand instructions.
    # shellcheck disable=SC2086
    output=$(timeout $((seconds * 3)) "$pogo" lockstep -a "$a" -b "$b" ${EVERY:+--every "$EVERY"} --quiet -icount 10 \
        -kernel "build/guests/${name%%+*}.elf" -m "$mem" -device isa-debug-exit,iobase=0xf4,iosize=4 $options 2>&1 </dev/null)
    status=$?
    if [ $status -eq 0 ] && grep -q 'are the same for [1-9]' <<<"$output"; then
        passed=$((passed + 1))
        echo "ok   $name: ${output#*are }"
    else
        failed=$((failed + 1))
        echo "FAIL $name: exit status $status"
        sed 's/^/     /' <<<"$output" | head -n 150
    fi
done <tests/guest/guests.list
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
