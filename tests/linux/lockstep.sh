#!/bin/bash
# Debian's kernel from its start through a shell with some work to power-off, on two engines in lockstep. Usage:
# tests/linux/lockstep.sh POGO ENGINE ENGINE [OPTION...]
set -u
cd "$(dirname "$0")/../.." || exit 1
pogo=$1 a=$2 b=$3
shift 3
work=$(mktemp -d "${TMPDIR:-/tmp}/pogo-lockstep.XXXXXX") || exit 1
trap '[ -z "${child:-}" ] || kill "$child" 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
files=$(tools/guest/kernel.sh "${KERNEL:-linux-image-cloud-amd64}" 2>"$work/fetch") || {
    tail -n 1 "$work/fetch"
    exit 77
}
{ read -r kernel && read -r modules; } <<<"$files"
tools/guest/initramfs.sh "$work/initrd" || exit 1
head -c 1M /dev/urandom >"$work/disk"
cat >"$work/input" <<'END'
wait pogo:/root# 
send uname -a; md5sum /bin/busybox; for i in 1 2 3; do ls -lR /bin >/tmp/l; sort /tmp/l | gzip -c | zcat | md5sum; done\n
wait pogo:/root# 
send dd if=/dev/vda of=/dev/vda bs=64k seek=8 count=8; sync; md5sum </dev/vda; time sleep 1; cat /proc/interrupts\n
wait pogo:/root# 
send awk 'BEGIN { for (i = 1; i < 20000; i++) s += 1 / i; print s }'; poweroff\n
END
nice "$pogo" lockstep -a "$a" -b "$b" -kernel "$kernel" -initrd "$work/initrd,$modules" -m 256 -append console=ttyS0 \
    --input "$work/input" -drive "file=$work/disk,format=raw" -device virtio-rng-pci --limit 20G "$@" >"$work/out" 2>&1 </dev/null &
child=$!
wait $child
status=$?
child=
summary=$(grep -a 'are the same for' "$work/out")
if [ $status -eq 0 ] && [[ $summary == *"it switched itself off"* ]] && grep -aq '10.4807' "$work/out"; then
    echo "ok   $summary"
    echo "1 passed, 0 failed"
    exit 0
fi
echo "FAIL exit status $status: $a, $b $*"
tail -n 150 "$work/out" | sed 's/^/     /'
echo "0 passed, 1 failed"
exit 1
