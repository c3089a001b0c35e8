#!/bin/bash
# Run the bare-metal guests of guests.list. Usage: tests/guest/run.sh MONITOR ENGINE [NAME...]
#
#   MONITOR  path of pogo, or `qemu`: qemu-system-x86_64 as a second opinion on the guests themselves
#   ENGINE   engine (pogo -accel) or accelerator (qemu: tcg)
#
# One line per guest, the guest's own output under a failed one; ends with "N passed, N failed".
set -u
cd "$(dirname "$0")/../.." || exit 1
monitor=$1 engine=$2
shift 2
passed=0 failed=0

# `icount` among the options: virtual time from instructions, so that no load of the host makes a test of timers fail. QEMU's own
# way of counting is too coarse for that. `tb-...` or `opt-...` first among them: properties of the engine.
run_guest() { # name mem seconds options
    local image=build/guests/${1%%+*}.elf engine=$engine
    if [[ $4 == tb-* || $4 == opt-* ]]; then
        [ "$monitor" != qemu ] && engine=$engine,${4%% *}
        set -- "$1" "$2" "$3" "${4#"${4%% *}"}"
    fi
    if [ "$monitor" = qemu ]; then
        set -- "$1" "$2" "$3" "${4/icount/}"
    else
        set -- "$1" "$2" "$3" "${4/icount/-icount shift=3,sleep=off}"
    fi
    if [ "$monitor" = qemu ]; then
        # shellcheck disable=SC2086
        timeout "$3" qemu-system-x86_64 -accel "$engine" -cpu max -kernel "$image" -m "$2" -display none -serial stdio \
            -no-reboot -device isa-debug-exit,iobase=0xf4,iosize=4 $4
    else
        # shellcheck disable=SC2086
        timeout "$3" "$monitor" run -accel "$engine" -kernel "$image" -m "$2" -display none -serial stdio \
            -no-reboot -device isa-debug-exit,iobase=0xf4,iosize=4 $4
    fi
}

while read -r name engines peers mem seconds want options; do
    case $name in '' | '#'*) continue ;; esac
    [ $# -gt 0 ] && [[ " $* " != *" $name "* ]] && continue
    differ=
    if [ "$monitor" = qemu ]; then
        [[ $peers == qemu* ]] || continue
        differ=${peers#qemu}
        differ=${differ#-}
        [ -n "$differ" ] && want=3
    else
        [[ $engines == all || ",$engines," == *",${engine%%,*},"* ]] || continue
        # Processors and disks race on guest memory, on purpose, and the thread sanitizer cannot tell that from a race of ours.
        if [ "${MODE:-}" = tsan ] && [[ $options == *-smp* || $options == *-drive* ]]; then
            echo "skipped: $name: several processors, or a disk, under the thread sanitizer"
            continue
        fi
        # One processor and minutes of work: nothing for it to see.
        if [ "${MODE:-}" = tsan ] && [[ $name == esc* || $name == smcdebug64 || $name == atomics || $name == lock64 ]]; then
            echo "skipped: $name: long, on one processor, under the thread sanitizer"
            continue
        fi
    fi
    output=$(run_guest "$name" "$mem" "$seconds" "$options" 2>&1 </dev/null)
    status=$?
    expect="passed, ${differ:-0} failed"
    # A guest that died early has printed no summary: that is a failure whatever its status.
    if [ $status -eq "$want" ] && { [ "$want" -ne 1 ] && [ -z "$differ" ] || grep -q "^${name%%+*}: [1-9][0-9]* $expect\$" <<<"$output"; }; then
        passed=$((passed + 1))
        echo "ok   $(grep "^${name%%+*}:" <<<"$output" | sed "s/[^:]*/$name/" | grep . || echo "$name: exit status $status as expected")"
    else
        failed=$((failed + 1))
        echo "FAIL $name: exit status $status, expected $want"
        tail -n 40 <<<"$output" | sed 's/^/     /'
    fi
done <tests/guest/guests.list
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
