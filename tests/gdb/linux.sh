#!/bin/bash
# Debian's gdb against Debian's kernel, which tells where its functions are. Usage: tests/gdb/linux.sh BUILD_DIR [OPTION...]
# The options are more ones for `pogo run`.
set -u
cd "$(dirname "$0")/../.." || exit 1
pogo=$1/pogo
shift
command -v gdb >/dev/null || { echo "skipped: gdb is not installed (apt-get install gdb)"; exit 77; }
tmp=$(mktemp -d "${TMPDIR:-/tmp}/pogo-gdb.XXXXXX") || exit 1
vm=''
trap '[ -z "$vm" ] || kill $vm 2>/dev/null; rm -rf "$tmp"' EXIT
passed=0 failed=0

check() { # name pattern file: the file has a match
    if grep -qa -e "$2" "$3"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $1: no '$2'"
    fi
}

kernel=$(tools/guest/fetch.sh linux-image-cloud-amd64 'boot/vmlinuz-*' 2>"$tmp/fetch") &&
    tools/guest/initramfs.sh "$tmp/initrd" 2>"$tmp/fetch" || { echo "skipped: $(tail -n 1 "$tmp/fetch")"; exit 77; }
kernel=$(echo "$kernel"/boot/vmlinuz-*)
mkdir -p "$tmp/tree/tests"
cat >"$tmp/tree/tests/gdb.sh" <<'END'
grep -E ' (start_kernel|do_sys_openat2|linux_banner|jiffies_64)$' /proc/kallsyms | sed 's/^/symbol /'
echo ready
i=0
while [ $i -lt 40 ]; do
    cat /proc/uptime >/dev/null
    sleep 0.1
    i=$((i + 1))
done
echo survived
END
(cd "$tmp/tree" && find tests | cpio -o -H newc --owner=0:0 --quiet) >"$tmp/tests"

start() { # arguments...
    "$pogo" run -kernel "$kernel" -initrd "$tmp/initrd,$tmp/tests" -m 512 -no-reboot -gdb "unix:$tmp/sock" "$@" \
        -append "console=ttyS0 panic=-1 nokaslr cryptomgr.notests pogo.run=/tests/gdb.sh" >"$tmp/vm" 2>&1 </dev/null &
    vm=$!
}

debug() {
    cat >"$tmp/script"
    timeout 300 gdb -batch -nx -ex 'set pagination off' -ex 'set confirm off' -ex "target remote $tmp/sock" -x "$tmp/script" >"$tmp/gdb" 2>&1 </dev/null
}

# --- a kernel at work
start -smp 2 "$@"
for ((i = 0; i < 600; i++)); do
    grep -qa '^ready' "$tmp/vm" && break
    kill -0 $vm 2>/dev/null || break
    sleep 0.5
done
address() { sed -n "s/^symbol \([0-9a-f]*\) . $1\r*$/0x\1/p" "$tmp/vm"; }
at_open=$(address do_sys_openat2) start_kernel=$(address start_kernel) banner=$(address linux_banner) jiffies=$(address jiffies_64)
check 'symbols' '^symbol ffffffff8.* start_kernel' "$tmp/vm"
debug <<END
info threads
x/s ${banner:-0}
break *${at_open:-0}
continue
printf "at open: %d %d\n", \$rip == ${at_open:-0}, \$cs
stepi 50
delete
watch *(unsigned long *)${jiffies:-0}
continue
printf "ticks: %d\n", *(unsigned long *)${jiffies:-0} > 1000
delete
hbreak *${at_open:-0}
continue
continue
info registers cr0 cr4 efer gs_base
printf "kernel gs: %d\n", \$gs_base < 0
detach
END
check 'threads' 'CPU#1 \[' "$tmp/gdb"
check 'banner' '"Linux version 6' "$tmp/gdb"
check 'breakpoint' 'hit Breakpoint 1' "$tmp/gdb"
check 'registers' '^at open: 1 16$' "$tmp/gdb"
check 'watchpoint' 'New value = ' "$tmp/gdb"
check 'ticks' '^ticks: 1' "$tmp/gdb"
check 'hardware breakpoint' 'hit Breakpoint 3' "$tmp/gdb"
check 'efer' 'efer.*LMA' "$tmp/gdb"
check 'kernel gs' '^kernel gs: 1' "$tmp/gdb"
wait $vm
status=$?
check 'the kernel goes on' '^survived' "$tmp/vm"
check 'nothing is amiss' '^0$' <(grep -ac 'BUG:\|WARNING:\|rcu.*stall\|segfault' "$tmp/vm")
check 'status' '^0$' <(echo $status)
[ $failed -eq 0 ] || tail -n 30 "$tmp/gdb" "$tmp/vm"

# --- the first line of C
start -S "$@"
for ((i = 0; i < 100; i++)); do
    [ -S "$tmp/sock" ] && break
    sleep 0.1
done
debug <<END
hbreak *${start_kernel:-0}
continue
printf "at start_kernel: %d %d\n", \$rip == ${start_kernel:-0}, (\$eflags & 0x200) != 0
x/s ${banner:-0}
stepi 10
kill
END
check 'start_kernel' '^at start_kernel: 1 0' "$tmp/gdb"
check 'banner at start' '"Linux version 6' "$tmp/gdb"
[ $failed -eq 0 ] || tail -n 30 "$tmp/gdb"
wait $vm
vm=''
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
