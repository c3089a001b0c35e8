#!/bin/bash
# Get one of Debian's kernels. Usage: tools/guest/kernel.sh PACKAGE; prints the kernel's file and an archive with the modules that
# a virtual machine's devices need (for -initrd), one a line.
set -eu
cd "$(dirname "$0")/../.."
drivers='lib/modules/*/kernel/drivers'
dir=$(tools/guest/fetch.sh "$1" 'boot/vmlinuz-*' 'lib/modules/*/modules.*' "$drivers/virtio" "$drivers/block/virtio_blk.ko" \
    "$drivers/char/virtio_console.ko" "$drivers/firmware/qemu_fw_cfg.ko" "$drivers/char/nvram.ko" "$drivers/char/hw_random" "$drivers/misc/pvpanic" \
    "$drivers/net/virtio_net.ko" "$drivers/net/net_failover.ko" 'lib/modules/*/kernel/net/core/failover.ko')
kernel=$(echo "$dir"/boot/vmlinuz-*)
modules=$dir/modules.cpio
if [ ! -e "$modules" ]; then
    busybox=$(tools/guest/fetch.sh busybox-static 'bin/*')/bin/busybox
    "$busybox" depmod -b "$dir" "${kernel##*/vmlinuz-}"
    (cd "$dir" && find lib | LC_ALL=C sort | cpio -o -H newc --owner=0:0 --quiet --reproducible) >"$modules.tmp"
    mv "$modules.tmp" "$modules"
fi
echo "$kernel"
echo "$modules"
