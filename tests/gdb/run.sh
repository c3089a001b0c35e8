#!/bin/bash
# Debian's gdb against our guests, in batch mode. Usage: tests/gdb/run.sh BUILD_DIR [ENGINE]
#
# Each session is a gdb script; what it must print is given as patterns, in order.
set -u
cd "$(dirname "$0")/../.." || exit 1
pogo=$1/pogo accel=${2:+-accel $2}
if ! command -v gdb >/dev/null; then
    echo "skipped: gdb is not installed (apt-get install gdb)"
    exit 77
fi
tmp=$(mktemp -d "${TMPDIR:-/tmp}/pogo-gdb.XXXXXX") || exit 1
vm='' debugger=''
trap 'kill $vm $debugger 2>/dev/null; rm -rf "$tmp"' EXIT
passed=0 failed=0
exit_dev=(-device isa-debug-exit,iobase=0xf4,iosize=4)

verdict() { # name problem
    if [ -z "$2" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $1: $2"
        for f in "$tmp/gdb" "$tmp/vm"; do sed "s/^/    /" "$f" | tail -n 40; done
    fi
}

# Start a guest that listens for a debugger.
start() { # image arguments...
    local image=$1
    shift
    # shellcheck disable=SC2086
    timeout 60 "$pogo" run $accel -kernel "$image" -gdb "${listen:-unix:$tmp/sock}" "${exit_dev[@]}" "$@" >"$tmp/vm" 2>&1 <"${input:-/dev/null}" &
    vm=$!
    wait_for 'grep -qs "^pogo: engine" "$tmp/vm"'
}

wait_for() { # condition, for five seconds
    local i
    for i in {1..100}; do
        eval "$1" && return 0
        sleep 0.05
    done
    return 1
}

# Run gdb on the symbols of an ELF file; the script is standard input, with `attach` for the connection.
debug() { # elf
    sed "s#^attach\$#target remote ${target:-$tmp/sock}#" >"$tmp/script"
    gdb -batch -nx -iex 'set auto-load no' -ex 'set pagination off' -ex 'set confirm off' -ex 'set width 0' \
        -x "$tmp/script" "$1" >"$tmp/gdb" 2>&1 </dev/null &
    debugger=$!
}

# Patterns in the debugger's output, in this order.
printed() { # pattern...
    local p line=0 n
    for p; do
        n=$(tail -n +$((line + 1)) "$tmp/gdb" | grep -nm1 -e "$p" | cut -d: -f1)
        [ -n "$n" ] || { echo "no '$p' in gdb's output, or not where expected"; return; }
        line=$((line + n))
    done
}

# The guest ended with this status.
ended() { # status
    wait $vm
    local got=$?
    vm=''
    [ $got -eq "$1" ] || echo "exit status of the guest $got, expected $1"
}

finish() { # name status pattern...
    local name=$1 status=$2 problem
    shift 2
    wait $debugger
    debugger=''
    problem=$(printed "$@")
    [ -z "$problem" ] || kill $vm 2>/dev/null
    ended "$status" >"$tmp/ended" # not in a subshell: wait
    verdict "$name" "$problem$(cat "$tmp/ended")"
}

guest=build/guests/smoke64.elf

# --- a 64-bit guest from its first instruction to its end
start $guest -S
debug $guest.64 <<'END'
attach
info registers rip
break guest_main
continue
info registers cr0 efer cs
stepi
next
watch trap.vector
continue
continue
delete
tbreak trap_entry
continue
print f->vector
backtrace 2
print $xmm0.uint128
print $st0
set var failed = 77
print (int)failed
set var failed = 0
set $r9 = $r9 + 5
set $r9 = $r9 - 5
set $mxcsr = 0x1f00
print $mxcsr
maintenance packet Qqemu.PhyMemMode:1
x/s 0x100000
maintenance packet Qqemu.PhyMemMode:0
continue
END
finish 'a 64-bit guest' 1 '_start' 'Breakpoint 1, guest_main' 'cr0 .*\[ PE MP ET NE WP PG \]' 'efer .*\[ SCE LME LMA NXE \]' \
    'CHECK_EQ(1 + 1, 2);' 'Hardware watchpoint 2: trap.vector' 'Old value = -1' 'New value = 6' 'Old value = 6' \
    'trap_entry (f=0x' '= 13' '#1 .* trap_common' '= 0' '= 0' '= 77' '\[ UM\|\[ DM' 'received: "OK"' 'exited with code 01'

# --- the monitor, and a processor that shuts down
start build/guests/triple64.elf -S
debug build/guests/triple64.elf.64 <<'END'
attach
monitor info registers
monitor nonsense
break guest_main
continue
delete
continue
print $cs
continue
END
finish 'a triple fault' 4 '^rip=0000000000100010 rflags' '^nonsense: unknown command' 'hit Breakpoint 1\|^Breakpoint 1, ' \
    'received signal SIGSEGV' '= 8' 'exited with code 04'

# --- 32-bit guests: with gdb told of the 64-bit processor, and on a processor without long mode
for cpu in max max,-lm; do
    reg=rip architecture=i386:x86-64
    [ $cpu = max ] || reg=eip architecture=i386
    start build/guests/smoke32.elf -S -cpu $cpu
    debug build/guests/smoke32.elf <<END
set architecture $architecture
attach
break guest_main
continue
info registers $reg
stepi
x/i \$pc
delete
continue
END
    finish "a 32-bit guest on $cpu" 1 'Breakpoint 1, .*guest_main' "^$reg .*guest_main" '=> 0x' 'exited with code 01'
done

# --- two processors
gcc -m32 -nostdlib -static -no-pie -Wl,-Ttext=0x100000 -Wl,--build-id=none -Wl,-z,noexecstack -o "$tmp/smp.elf" tests/gdb/smp.S || exit 1
start "$tmp/smp.elf" -smp 2 -cpu max,-lm -S
debug "$tmp/smp.elf" <<'END'
attach
info threads
break second
continue
info threads
delete
watch *(int *)&count1
continue
thread
delete
watch *(int *)&count0
continue
thread
delete
break work
set scheduler-locking on
thread 2
continue
set $before = *(int *)&count0
set $mine = *(int *)&count1
stepi
stepi
stepi
continue
printf "alone: %d %d\n", *(int *)&count0 - $before, *(int *)&count1 - $mine
set scheduler-locking off
continue
continue
delete
stepi
stepi
set var *(int *)&stop = 1
continue
END
finish 'two processors' 1 '1 .*CPU#0 \[running\]' '2 .*CPU#1 \[waiting for SIPI\]' 'Thread 2 hit Breakpoint 1, .*second' \
    'CPU#1 \[running\]' 'New value = 1' 'Current thread is 2' 'Hardware watchpoint 3' 'Current thread is 1' \
    'Thread 2 hit Breakpoint 4, .*work' '^alone: 0 1$' 'hit Breakpoint 4' 'hit Breakpoint 4' 'exited with code 01'

# --- Ctrl-C, a debugger that goes away, and another one
gcc -m32 -nostdlib -static -no-pie -Wl,-Ttext=0x100000 -Wl,--build-id=none -DTEST_ECHO -o "$tmp/echo.elf" tests/cli/guests.S || exit 1
mkfifo "$tmp/keys"
exec 3<>"$tmp/keys"
input=$tmp/keys start "$tmp/echo.elf" -cpu max,-lm -serial stdio
echo -n a >&3
wait_for 'grep -qs a "$tmp/vm"' || verdict 'guest runs' 'no echo'
debug "$tmp/echo.elf" <<'END'
attach
printf "came\n"
continue
info registers eip
detach
END
wait_for 'grep -qs ^came "$tmp/gdb"'
sleep 0.2
echo -n b >&3
wait_for 'grep -qs b "$tmp/vm"' || verdict 'guest runs under the debugger' 'no echo'
kill -INT $debugger
wait $debugger
verdict 'Ctrl-C' "$(printed 'Program received signal SIGINT' 'ip .*0x10')"
debug "$tmp/echo.elf" <<'END'
attach
break _start
printf "came\n"
continue
END
wait_for 'grep -qs ^came "$tmp/gdb"'
sleep 0.2
kill -KILL $debugger
wait $debugger 2>/dev/null
echo -n c >&3
wait_for 'grep -qs c "$tmp/vm"'
verdict 'a debugger that dies' "$(grep -qs c "$tmp/vm" || echo 'the guest does not go on')"
debug "$tmp/echo.elf" <<'END'
attach
x/2xb 0x100000
kill
END
finish 'kill' 0 '0x100000.*0x02	0xb0'

# --- TCP, and standard input and output
port=$((20000 + $$ % 20000))
listen=tcp::$port start $guest -S
target=:$port debug $guest.64 <<'END'
attach
break guest_main
continue
kill
END
finish 'tcp' 0 'Breakpoint 1, guest_main'
target="|exec $pogo run $accel -kernel $guest -gdb stdio -S -serial none -display none" debug $guest.64 <<'END'
attach
break guest_main
continue
kill
END
wait $debugger
debugger=''
verdict 'standard streams' "$(printed 'Breakpoint 1, guest_main')"

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
