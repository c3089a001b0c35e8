#!/bin/bash
# What `make run` starts, used as a person would: the shell, its job control, poweroff. Usage: tests/linux/shell.sh POGO [OPTION...]
set -u
cd "$(dirname "$0")/../.." || exit 1
pogo=$1
shift
passed=0 failed=0
work=$(mktemp -d "${TMPDIR:-/tmp}/pogo-shell.XXXXXX") || exit 1
trap '[ -z "${child:-}" ] || kill "$child" 2>/dev/null; rm -rf "$work"' EXIT
tools/guest/kernel.sh "${KERNEL:-linux-image-amd64}" >/dev/null 2>"$work/fetch" || {
    tail -n 1 "$work/fetch"
    exit 77
}

mkfifo "$work/in"
tools/guest/run.sh "$pogo" "$@" <"$work/in" >"$work/out" 2>&1 &
child=$!
exec 3>"$work/in"

# Wait until what came since the match of the last call has one.
seen=0
await() { # name seconds pattern
    local i at
    for ((i = 0; i < $2 * 5; i++)); do
        at=$(tail -c +$((seen + 1)) "$work/out" | grep -abo -m 1 -e "$3" | head -n 1 | cut -d : -f 1)
        if [ -n "$at" ]; then
            seen=$((seen + at + 1))
            passed=$((passed + 1))
            echo "ok   $1"
            return
        fi
        kill -0 $child 2>/dev/null || break
        sleep 0.2
    done
    failed=$((failed + 1))
    echo "FAIL $1: no '$3' in $2 s"
    tail -c +$((seen + 1)) "$work/out" | tail -n 20 | sed 's/^/     /'
    echo "$passed passed, $failed failed"
    exit 1
}
type_line() { printf '%s\n' "$1" >&3; }

await 'the greeting' "${BOOT_SECONDS:-400}" 'nothing is kept'
await 'a prompt' 30 '# '
type_line 'echo $((6 * 7))-$(id -u)'
await 'a command' 30 '^42-0'
type_line 'cat'
sleep 2
printf '\003' >&3
await 'Ctrl-C' 30 '# '
type_line 'sleep 1000 & jobs'
await 'a job' 30 'Running.*sleep 1000'
type_line 'kill %1; wait; jobs; echo done-$((1 + 1))'
await 'no job' 30 '^done-2'
type_line 'poweroff'
await 'poweroff' 60 'Power down'
for ((i = 0; i < 50; i++)); do
    kill -0 $child 2>/dev/null || break
    sleep 0.2
done
wait $child
status=$?
child=
if [ $status -eq 0 ]; then
    passed=$((passed + 1))
    echo 'ok   exit status 0'
else
    failed=$((failed + 1))
    echo "FAIL exit status $status"
fi
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
