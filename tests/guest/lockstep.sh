#!/bin/bash
# Run the bare-metal guests of guests.list on two engines in lockstep. Usage: tests/guest/lockstep.sh POGO ENGINE ENGINE [NAME...]
#
#   ENGINE   as for -accel: with properties behind commas
#   EVERY=N     (environment) compare every N instructions
#   SEED=N      choose at random, for each guest, how often to compare, and what tests/lib/tuning.sh does; `SEED=` takes a seed of its own. What was chosen is printed, and `SEED=N` repeats it
#
# One line per guest, the report under one on which the engines differ; ends with "N passed, N failed".
set -u
cd "$(dirname "$0")/../.." || exit 1
pogo=$1 a=$2 b=$3
shift 3
passed=0 failed=0
if [ -n "${SEED+set}" ]; then
    SEED=${SEED:-$(date +%N | sed 's/^0*//')}
    echo "SEED=$SEED"
fi

# Options of `pogo lockstep`, by the seed and the guest's name. Short strides take long: not all of the guest is run with them.
draw() { # engine name
    [ -n "${SEED+set}" ] || { echo "-b $1 ${EVERY:+--every $EVERY}" && return; }
    RANDOM=$(cksum <<<"$SEED $2" | cut -d' ' -f1)
    local every
    case $((RANDOM % 4)) in
        0) every="$((RANDOM % 4 + 1)) --limit 1M" ;;
        1) every="$((RANDOM % 60 + 5)) --limit 10M" ;;
        *) every=$((RANDOM % 4000 + 65)) ;;
    esac
    echo "-b $(tests/lib/tuning.sh "$pogo" "$1" $RANDOM) --every $every --memory-every $((RANDOM % 200 + 1))"
}

while read -r name engines _ mem seconds _ options; do
    case $name in '' | '#'*) continue ;; esac
    [ $# -gt 0 ] && [[ " $* " != *" $name "* ]] && continue
    [[ $engines == all || ",$engines," == *",${b%%,*},"* ]] || continue
    [[ $name == *+* ]] && continue         # the same image again
    [[ $options == *-smp* ]] && continue # virtual time follows one processor
    options=${options/icount/} # it does that anyway
    # Slow time makes delays short: a guest that waits for a millisecond executes a thousand instructions.
    how=$(draw "$b" "$name")
    # shellcheck disable=SC2086
    output=$(timeout $((seconds * 3)) "$pogo" lockstep -a "$a" $how --quiet -icount 10 \
        -kernel "build/guests/${name%%+*}.elf" -m "$mem" -device isa-debug-exit,iobase=0xf4,iosize=4 $options 2>&1 </dev/null)
    status=$?
    if [ $status -eq 0 ] && grep -q 'are the same for [1-9]' <<<"$output"; then
        passed=$((passed + 1))
        echo "ok   $name: ${SEED+$how: }${output#*are }"
    else
        failed=$((failed + 1))
        echo "FAIL $name: ${SEED+$how: }exit status $status"
        sed 's/^/     /' <<<"$output" | head -n 150
    fi
done <tests/guest/guests.list
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
