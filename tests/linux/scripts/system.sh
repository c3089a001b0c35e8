# Processors, memory, processes, pipes, files, interrupts, and what the kernel had to say.
. /tests/lib.sh

same 'processors' "$(grep -c ^processor /proc/cpuinfo)" "$(told smp)"
same 'processors online' "$(nproc)" "$(told smp)"
total=$(($(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo) / 1024))
check "memory: $total of $(told mem) MiB" test $total -le "$(told mem)" -a $total -ge $(($(told mem) * 15 / 16 - 72))
check 'the command line' grep -q console=ttyS0 /proc/cmdline
check 'a shell as init' grep -q . /proc/1/comm

same 'a pipe' "$(seq 1 20000 | sort -rn | head -n 1)" 20000
same 'a long pipe' "$(dd if=/dev/zero bs=64k count=32 2>/dev/null | cat | tr '\0' x | wc -c)" 2097152
n=0
for i in $(seq 60); do
    (exit $((i % 7))) || n=$((n + $?))
done
same 'sixty processes' $n 178
sleep 100 &
kill $!
wait $!
same 'a signal' $? 143
awk 'BEGIN { for (i = 1; i <= 10000; i++) s += 1 / i; printf "%.6f\n", s }' >/tmp/sum
same 'floating point' "$(cat /tmp/sum)" 9.787606

dd if=/dev/urandom of=/tmp/a bs=64k count=24 2>/dev/null
cp /tmp/a /tmp/b
check 'a copied file' cmp /tmp/a /tmp/b
gzip -c /tmp/a | gunzip -c >/tmp/c
check 'a file through gzip' cmp /tmp/a /tmp/c
same 'checksums' "$(printf abc | sha256sum)" 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  -'
mkdir -p /tmp/d && for i in $(seq 100); do echo $i >/tmp/d/$i; done
same 'a hundred files' "$(cat /tmp/d/* | sort -n | tail -n 1) $(ls /tmp/d | wc -l)" '100 100'
rm -r /tmp/d

# Every processor works at once, and nothing gets lost.
want=$(seq 1 4000 | md5sum)
for i in $(seq $(($(nproc) * 2))); do (seq 1 4000 | md5sum >/tmp/work.$i) & done
wait
same 'parallel work' "$(cat /tmp/work.* | sort -u)" "$want"

# Interrupts of the timer that is in use (local or the board's) come; none is in error or lost.
count() { awk '/timer|LOC:/ { for (i = 2; i <= NF && $i ~ /^[0-9]+$/; i++) n += $i } END { print n + 0 }' /proc/interrupts; }
before=$(count)
sleep 1
check "timer interrupts" test "$(count)" -gt $((before + 3))
same 'interrupt errors' "$(awk '/^ *(ERR|MIS):/ { n += $2 } END { print n + 0 }' /proc/interrupts)" 0
check 'serial interrupts' awk '/ttyS0/ { for (i = 2; i <= NF; i++) n += $i } END { exit !(n > 0) }' /proc/interrupts

bad=$(dmesg | grep -iE 'WARNING:|BUG:|oops|unchecked MSR|firmware bug|BIOS bug|call trace|nobody cared|lost interrupt|stall|hung task' | head -n 3)
same 'complaints of the kernel' "$bad" ''
[ $failed -eq 0 ]
