# Disks: see tests/linux/disks.sh for what they are. The order of names follows the slots.
. /tests/lib.sh

same 'disks' "$(ls /sys/block | grep -c ^vd)" 7
serial=$(cat /sys/block/vd?/serial | tr -d '\n')
same 'the serial number' "$serial" number-b
# Who is who: the read-only one came first, the others are in the order of their slots.
a='' n=0
for d in /sys/block/vd?; do
    if [ "$(cat $d/ro)" = 1 ]; then a=/dev/${d##*/}; else
        n=$((n + 1))
        eval disk$n=/dev/${d##*/}
    fi
done
b=$disk1 c=$disk2 snap=$disk3 short=$disk4 full=$disk5 bad=$disk6
same 'the one with a number' "$(cat /sys/block/${b#/dev/}/serial)" number-b
sum() { echo "sum $1 $(md5sum <$2 | cut -d ' ' -f 1)"; }
drop() { echo 3 >/proc/sys/vm/drop_caches; }

sum a $a
check 'a write to the read-only disk fails' sh -c "! dd if=/dev/zero of=$a bs=4k count=1 2>/dev/null"
for d in $b $c; do
    check "write $d" dd if=$a of=$d bs=64k count=16 conv=fsync
    check "write $d in the middle" dd if=$a of=$d bs=512 skip=3000 seek=2100 count=333 conv=fsync,notrunc
    drop
    check "read $d back" sh -c "head -c 1048576 $d | cmp - $d -n 1048576 && head -c 1048576 $a | cmp -n 1048576 - $d"
done
sum b $b
sum c $c
check 'discard' blkdiscard -o 2097152 -l 65536 $b

check 'write the snapshot' dd if=$a of=$snap bs=256k conv=fsync count=4
drop
check 'read the snapshot back' cmp -n 1048576 $a $snap

# More than there is room for on the host.
check 'what fits' dd if=$a of=$full bs=64k count=16 conv=fsync,notrunc
check 'an error where there is no room' sh -c "! dd if=$a of=$full bs=64k seek=32 count=32 conv=fsync,notrunc 2>/dev/null"
drop
check 'what fitted is there' cmp -n 1048576 $a $full

check 'read before it is short' dd if=$short of=/dev/null bs=64k
drop
echo 'shrink now'
sleep 5
check 'the beginning still reads' dd if=$short of=/dev/null bs=64k count=16
check 'an error behind the end' sh -c "! dd if=$short of=/dev/null bs=64k skip=32 count=1 2>/dev/null"

dd_bad() { dd bs=64k conv=fsync,notrunc "$@" 2>/dev/null; }
fails() { ! "$@"; }
dd if=$a of=/tmp/behind bs=64k skip=17 count=16 2>/dev/null
check 'write before a bad place' dd_bad if=$a of=$bad count=16
check 'write behind it' dd_bad if=$a of=$bad seek=17 skip=17 count=16
check 'an error in it' fails dd_bad if=$a of=$bad seek=16 skip=16 count=1
check 'an error for a write that ends in it' fails dd_bad if=$a of=$bad seek=14 skip=14 count=4
drop
check 'an error when it is read' fails dd if=$bad of=/dev/null bs=64k skip=16 count=1
check 'what is before it' cmp -n 1048576 $a $bad
check 'what is behind it' sh -c "dd if=$bad bs=64k skip=17 count=16 2>/dev/null | cmp - /tmp/behind"
check 'flush' dd_bad if=$a of=$bad count=1
echo 'no flushes now'
sleep 5
check 'an error of a flush' fails dd_bad if=$a of=$bad count=1
echo 'flushes again'
sleep 5
check 'what a flush lost stays lost' fails dd_bad if=$a of=$bad count=1
[ $failed -eq 0 ]
