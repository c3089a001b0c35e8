#!/bin/bash
# What happens to a machine at work, as Linux sees it: no standard input, a serial line whose other end comes and goes, the whole
# process stopped for a while. Usage: tests/linux/faults.sh POGO ENGINE
#
#   STOP_SECONDS=30  (environment) how long it is stopped
#
# Ends with "N passed, N failed".
set -u
cd "$(dirname "$0")/../.." || exit 1
pogo=$1 engine=$2 stop=${STOP_SECONDS:-30}
passed=0 failed=0
work=$(mktemp -d "${TMPDIR:-/tmp}/pogo-faults.XXXXXX") || exit 1
trap '[ -z "${child:-}" ] || kill -KILL "$child" 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

verdict() { # name problem
    if [ -z "$2" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $1: $2"
    fi
}

paths=$(tools/guest/kernel.sh linux-image-cloud-amd64 2>"$work/fetch") || {
    tail -n 1 "$work/fetch"
    exit 77
}
{ read -r kernel && read -r modules; } <<<"$paths"
gcc -std=gnu11 -D_GNU_SOURCE -O1 -o "$work/peer" tests/cli/peer.c -lutil || exit 1
mkdir -p "$work/tree/tests"
cp tests/linux/scripts/{lib,faults}.sh "$work/tree/tests/"
tools/guest/initramfs.sh "$work/initrd" || exit 1
(cd "$work/tree" && find tests | cpio -o -H newc --owner=0:0 --quiet) >"$work/tests"
truncate -s 16M "$work/disk"

"$pogo" run -accel "$engine" -no-reboot -m 256 -smp 2 -kernel "$kernel" -initrd "$work/initrd,$modules,$work/tests" \
    -append 'console=ttyS0 panic=-1 cryptomgr.notests pogo.run=/tests/faults.sh' -display none -serial stdio \
    -serial "unix:$work/sock,server=on,wait=off" -drive "file=$work/disk,format=raw,if=virtio" <&- >"$work/log" 2>&1 &
child=$!

# Wait for a line of the guest.
await() { # seconds pattern
    local i
    for ((i = 0; i < $1 * 5; i++)); do
        ! grep -aq "$2" "$work/log" || return 0
        kill -0 $child 2>/dev/null || break
        sleep 0.2
    done
    verdict 'the guest' "no '$2' in $1 s"
    tail -n 40 "$work/log" | cut -c 1-160 | sed 's/^/     /'
    echo "$passed passed, $failed failed"
    exit 1
}
peer() { timeout 60 "$work/peer" unix "$work/sock" >"$work/peer.out" 2>"$work/peer.err" || cat "$work/peer.err"; }

await 240 '^listening for first'
verdict 'the first peer' "$(peer <<<'send first\n
expect heard first')"
await 100 '^listening for second'
verdict 'the second peer' "$(peer <<<'send second\n
expect heard second')"
await 120 '^stop me'
kill -STOP $child
sleep "$stop"
kill -CONT $child
for ((i = 0; i < 600; i++)); do
    kill -0 $child 2>/dev/null || break
    sleep 0.2
done
kill -KILL $child 2>/dev/null && verdict 'the end' 'it did not come'
wait $child
status=$?
child=
verdict 'exit status' "$([ $status -eq 0 ] || echo $status)"
passed=$((passed + $(grep -ac '^ok ' "$work/log")))
verdict 'checks in the guest' "$(grep -a '^not ok ' "$work/log")"
verdict 'exit of the script' "$(grep -aq '^== exit status 0' "$work/log" || echo 'not 0')"
# Time does not stand still with the process: the guest's clock is the host's again.
verdict 'time of day' "$(awk -v end="$(date +%s)" '$1 == "clock" { t = $3 } END { d = end - t; if (d < -2 || d > 20) print d " s off" }' "$work/log")"
[ $failed -eq 0 ] || tail -n 40 "$work/log" | cut -c 1-160 | sed 's/^/     /'
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
