# A virtio disk of 16 MiB: its first half arrives as the host wrote it, and is copied to the second, which the host then compares.
. /tests/lib.sh

same 'size of the disk' "$(cat /sys/block/vda/size)" 32768
same 'what the host wrote' "$(dd if=/dev/vda bs=64k count=128 2>/dev/null | md5sum | cut -d ' ' -f 1)" "$(told md5)"
check 'copying on the disk' dd if=/dev/vda of=/dev/vda bs=256k count=32 seek=32 conv=fsync
echo 3 >/proc/sys/vm/drop_caches
same 'what the guest wrote' "$(dd if=/dev/vda bs=64k skip=128 2>/dev/null | md5sum | cut -d ' ' -f 1)" "$(told md5)"
check 'interrupts of the disk' awk '/virtio[0-9]/ { for (i = 2; i <= NF && $i ~ /^[0-9]+$/; i++) n += $i } END { exit !(n > 10) }' /proc/interrupts
[ $failed -eq 0 ]
