# What Linux finds through fw_cfg, whose ACPI device has its driver loaded.
. /tests/lib.sh

if [ -n "$(find /lib/modules -name 'qemu_fw_cfg.ko*')" ]; then
    top=/sys/firmware/qemu_fw_cfg
    check 'the driver is loaded' test -d $top/by_name
    same 'interfaces: ports and DMA' "$(cat $top/rev)" 3
    first=$(od -An -t u8 -j 8 -N 8 $top/by_name/etc/e820/raw | tr -d ' ')
    want=$(told mem)
    [ "$want" -le 3072 ] || want=3072
    same 'memory from 0 on' "$first" $((want << 20))
    same 'whole ranges' $(($(cat $top/by_name/etc/e820/size) % 20)) 0
fi
[ $failed -eq 0 ]
