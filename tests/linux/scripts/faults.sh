# What the host does to a machine at work; see tests/linux/faults.sh. ttyS1 is a socket, vda a disk.
. /tests/lib.sh

# Whoever is at the other end of ttyS1 says a word, and hears it back.
stty -F /dev/ttyS1 raw -echo
answer() { # word
    exec 3<>/dev/ttyS1
    word=
    echo "listening for $1"
    read -r -t 60 word <&3
    echo "heard $word" >&3
    exec 3>&-
    same "a word of $1" "$word" "$1"
}
answer first

# It is gone. Nobody may hang for that.
check 'writing to nobody' timeout 60 dd if=/dev/zero of=/dev/ttyS1 bs=1k count=64
answer second

# A disk at work while everything stands still.
i=0
while [ $i -lt 1000 ] && [ ! -e /tmp/enough ]; do
    dd if=/dev/urandom of=/tmp/noise bs=64k count=4 2>/dev/null
    dd if=/tmp/noise of=/dev/vda bs=64k seek=$((i % 16 * 4)) conv=fsync,notrunc 2>/dev/null || break
    echo 3 >/proc/sys/vm/drop_caches
    dd if=/dev/vda bs=64k skip=$((i % 16 * 4)) count=4 2>/dev/null | cmp - /tmp/noise || break
    i=$((i + 1))
done &
worker=$!
sleep 1
before=$(date +%s)
echo 'stop me'
while [ $(($(date +%s) - before)) -lt 10 ]; do sleep 0.1; done
echo "clock $(cut -d ' ' -f 1 /proc/uptime) $(date +%s)"
sleep 3
echo "clock $(cut -d ' ' -f 1 /proc/uptime) $(date +%s)"
touch /tmp/enough
wait $worker
check 'the disk went on' test $? -eq 0

source=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
case $source in
tsc | kvm-clock) ok "clock source $source" ;;
*) not_ok 'clock source' "$source" ;;
esac
bad=$(dmesg | grep -iE 'WARNING:|BUG:|oops|call trace|nobody cared|lost interrupt|stall|hung task|unstable|I/O error' | head -n 3)
same 'complaints of the kernel' "$bad" ''
[ $failed -eq 0 ]
