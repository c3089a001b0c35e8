#!/bin/bash
# Debian's SeaBIOS as the machine's firmware. Usage: tests/firmware/seabios.sh POGO ENGINE
#
# Ends with "N passed, N failed".
set -u
cd "$(dirname "$0")/../.." || exit 1
pogo=$1 engine=$2
passed=0 failed=0
work=$(mktemp -d "${TMPDIR:-/tmp}/pogo-firmware.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

dir=$(tools/guest/fetch.sh seabios 'usr/share/seabios/bios*' 2>"$work/fetch") || {
    tail -n 1 "$work/fetch"
    exit 77
}
roms=$dir/usr/share/seabios

says() { # name pattern
    if grep -aqE "$2" "$work/debug"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $1: the firmware's messages have no '$2'"
        tail -n 15 "$work/debug" | sed 's/^/    /'
    fi
}

ended() { # name want
    if [ "$status" -eq "$2" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $1: exit status $status, expected $2"
        tail -n 5 "$work/out" "$work/debug" | sed 's/^/    /'
    fi
}

boot() { # rom options
    local rom=$1
    shift
    timeout --foreground 60 "$pogo" run -accel "$engine" -bios "$roms/$rom" -m 64 -display none -no-reboot \
        -chardev file,id=debug,path="$work/debug" -device isa-debugcon,iobase=0x402,chardev=debug \
        -device isa-debug-exit,iobase=0xf4,iosize=4 "$@" </dev/null >"$work/out" 2>&1
    status=$?
}

# A boot sector that leaves with status 2 * 0x10 + 1: mov $0x10, %al; out %al, $0xf4; 1: hlt; jmp 1b
{
    printf '\xb0\x10\xe6\xf4\xf4\xeb\xfd'
    head -c 503 /dev/zero
    printf '\x55\xaa'
    head -c 1M /dev/zero
} >"$work/disk"
drive=file=$work/disk,format=raw,if=virtio

for rom in bios.bin bios-256k.bin; do
    boot $rom -drive "$drive" -smp 2
    says "$rom: identified the board" 'Running on QEMU \(i440fx\)'
    says "$rom: found both processors" 'Found 2 cpu\(s\)'
    says "$rom: found the disk" 'found virtio-blk'
    says "$rom: boots from it" 'Booting from Hard Disk'
    ended "$rom: the boot sector ran" 33
done

# A kernel goes before the disk, and again after a reset. Two modules are one initrd.
gcc -m32 -c -o "$work/kernel.o" tests/firmware/kernel.S && objcopy -O binary -j .text "$work/kernel.o" "$work/kernel" || exit 1
printf 'init' >"$work/initrd1"
printf 'rd\0is!' >"$work/initrd2"
for rom in bios.bin bios-256k.bin; do
    boot $rom -drive "$drive" -kernel "$work/kernel" -initrd "$work/initrd1,$work/initrd2" -append word
    says "$rom: boots from the option ROM" 'Booting from ROM'
    ended "$rom: the kernel's setup found everything" 65
done
boot bios.bin -kernel "$work/kernel" -append word
ended 'a kernel without its initrd notices' 15
boot bios.bin -kernel "$work/kernel" -append word -m 1
ended 'no room' 1
boot bios.bin -kernel "$roms/bios.bin"
ended 'no kernel' 1

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
