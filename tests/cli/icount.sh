#!/bin/bash
# Runs with -icount repeat: the same output, as many instructions, the same state at the end. Usage: tests/cli/icount.sh POGO ENGINE [linux]
#
# linux: the Debian kernel up to its panic without a root file system, instead of small guests; skipped without the kernel's package.
set -u
cd "$(dirname "$0")/../.." || exit 1
pogo=$1 engine=$2 what=${3:-small}
work=$(mktemp -d "${TMPDIR:-/tmp}/pogo-icount.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
failed=0
head -c 1M /dev/urandom >"$work/disk"

run() { # options...: output and status to stdout; a load on the host makes time differ
    timeout 200 "$pogo" run -accel "$engine" -display none -serial stdio -no-reboot "$@" 2>&1 </dev/null
    echo "status $?"
}

twice() { # name expected options...
    local name=$1 want=$2 first second
    shift 2
    first=$(run "$@") second=$(run "$@")
    if [ "$first" = "$second" ] && grep -q "$want" <<<"$first" && grep -q "seconds of virtual time" <<<"$first"; then
        echo "ok   $name: $(grep "virtual time" <<<"$first")"
    else
        echo "FAIL $name"
        diff <(echo "$first") <(echo "$second") | head -n 20
        tail -n 5 <<<"$first"
        failed=1
    fi
}

if [ "$what" = linux ]; then
    files=$(tools/guest/kernel.sh linux-image-cloud-amd64) || {
        echo "skipped: no kernel"
        exit 0
    }
    { read -r kernel && read -r modules; } <<<"$files"
    twice linux "Kernel panic.*unable to mount root" -icount 1,sleep=off -kernel "$kernel" -m 128 -append "console=ttyS0 panic=-1" \
        -device virtio-rng-pci -drive "file=$work/disk,format=raw,snapshot=on"
    exit $failed
fi
# How long idle time really takes does not show in the guest.
state() { run -icount "4,sleep=$1" -kernel build/guests/timers64.elf -m 32 -device isa-debug-exit,iobase=0xf4,iosize=4 | grep 'virtual time'; }
slow=$(state on) fast=$(state off)
if [ -n "$slow" ] && [ "$slow" = "$fast" ]; then
    echo "ok   sleep=on: $slow"
else
    echo "FAIL sleep=on: $slow; sleep=off: $fast"
    failed=1
fi
for guest in timers64 intr64 real16 fpu64 sys64; do
    for n in 4 10; do
        twice "$guest, shift=$n" "status 1" -icount $n,sleep=off -kernel build/guests/$guest.elf -m 32 \
            -device isa-debug-exit,iobase=0xf4,iosize=4
    done
done
exit $failed
