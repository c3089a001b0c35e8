#!/bin/bash
# Debian's kernel, started by SeaBIOS. Usage: tests/firmware/linux.sh POGO ENGINE
#
# Ends with "N passed, N failed".
set -u
cd "$(dirname "$0")/../.." || exit 1
pogo=$1 engine=$2
work=$(mktemp -d "${TMPDIR:-/tmp}/pogo-firmware.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

roms=$(tools/guest/fetch.sh seabios 'usr/share/seabios/bios*' 2>"$work/fetch")/usr/share/seabios &&
    paths=$(tools/guest/kernel.sh linux-image-cloud-amd64 2>"$work/fetch") || {
    tail -n 1 "$work/fetch"
    exit 77
}
{ read -r kernel && read -r modules; } <<<"$paths"
tools/guest/initramfs.sh "$work/initrd" || exit 1
mkdir -p "$work/tree/tests"
cp tests/linux/scripts/*.sh "$work/tree/tests/"
(cd "$work/tree" && find tests | cpio -o -H newc --owner=0:0 --quiet) >"$work/tests"

timeout --foreground 500 "$pogo" run -accel "$engine" -bios "$roms/bios-256k.bin" -no-reboot -m 512 -smp 2 -display none -serial stdio \
    -kernel "$kernel" -initrd "$work/initrd,$modules,$work/tests" \
    -append 'console=ttyS0 panic=-1 cryptomgr.notests pogo.smp=2 pogo.mem=512 pogo.run=/tests/system.sh' </dev/null >"$work/log" 2>&1
status=$?
passed=$(grep -ac '^ok ' "$work/log")
failed=$(grep -ac '^not ok ' "$work/log")
grep -a '^not ok ' "$work/log"
for want in 'BIOS-e820: .* reserved' 'ACPI: RSDP 0x00000000000F.* POGO' 'SMBIOS 2.8 present' '^== exit status 0'; do
    if grep -aq "$want" "$work/log"; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAIL: no '$want'"
    fi
done
if [ $status -ne 0 ]; then
    failed=$((failed + 1))
    echo "FAIL: exit status $status, expected 0"
    tail -n 20 "$work/log"
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
