#!/bin/bash
# Character devices, the monitor, and life in the background. Usage: tests/cli/chars.sh BUILD_DIR
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/cli/lib.sh
# The tests are about processes: how fast they are matters little.
gcc -std=gnu11 -D_GNU_SOURCE -O1 -o "$tmp/peer" tests/cli/peer.c -lutil || exit 1
for g in ECHO EXIT HALT SPAM COMS BURST POLITE OFF; do
    guest $g || exit 1
done
peer=$tmp/peer
sock=$tmp/sock

# Start pogo in the background with the arguments; its output in $tmp/out and $tmp/err, standard input from $input.
start() {
    "$pogo" run "$@" >"$tmp/out" 2>"$tmp/err" <"${input:-/dev/null}" &
    pid=$!
}

# Play the script on standard input at `peer ARGS`; sets $problem.
play() { # peer arguments...
    problem=''
    timeout $((30 + ${STOP_MS:-0} / 1000)) "$peer" "$@" >"$tmp/peer.out" 2>"$tmp/peer.err" || problem="peer: $(head -c 300 "$tmp/peer.err")"
}

# It must end with this status within 10 seconds; adds to $problem.
ends() { # status
    local i status
    for ((i = 0; i < 100; i++)); do
        kill -0 $pid 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL $pid 2>/dev/null && problem="$problem; it went on"
    wait $pid 2>/dev/null
    status=$?
    [ $status -eq "$1" ] || problem="$problem; exit status $status, expected $1"
}

# --- serial lines
start -kernel "$tmp/ECHO.elf" "${exit_dev[@]}" -serial "unix:$sock,server=on,wait=off"
play unix "$sock" <<<'send hello
expect hello'
play unix "$sock" <<<'send again.
expect again.'
ends 1
[ ! -e "$sock" ] || problem="$problem; the socket is still there"
verdict 'serial line on a Unix socket, twice' "$problem"

start -kernel "$tmp/ECHO.elf" "${exit_dev[@]}" -serial "unix:$sock,server,nowait"
play unix "$sock" <<<'send x.
expect x.'
ends 1
verdict 'old spelling of server options' "$problem"

start -kernel "$tmp/ECHO.elf" "${exit_dev[@]}" -serial "unix:$sock,server=on"
sleep 0.2
problem=''
grep -q 'waiting for a connection' "$tmp/err" || problem='it does not say that it waits'
! grep -q 'engine' "$tmp/err" || problem='it does not wait'
verdict 'server that waits' "$problem"
play unix "$sock" <<<'send x.
expect x.'
ends 1
verdict 'server that waited' "$problem"

port=$((20000 + RANDOM % 20000))
start -kernel "$tmp/ECHO.elf" "${exit_dev[@]}" -serial "tcp:127.0.0.1:$port,server=on,wait=off,nodelay=on"
play tcp $port <<<'send tcp.
expect tcp.'
ends 1
verdict 'serial line on a TCP socket' "$problem"

printf 'send client.\nexpect client.\n' | timeout 30 "$peer" listen "$sock" >"$tmp/peer.out" 2>&1 &
listener=$!
for ((i = 0; i < 50; i++)); do [ -S "$sock" ] && break || sleep 0.05; done
start -kernel "$tmp/ECHO.elf" "${exit_dev[@]}" -chardev "socket,id=c,path=$sock" -serial chardev:c
problem=''
wait $listener || problem='the peer saw something else'
ends 1
verdict 'serial line as a client' "$problem"

rm -f "$sock"
start -kernel "$tmp/ECHO.elf" "${exit_dev[@]}" -chardev "socket,id=c,path=$sock,reconnect=1" -serial chardev:c
sleep 0.3
play listen "$sock" <<<'send back.
expect back.'
ends 1
verdict 'client that tries again' "$problem"

: >"$sock.file"
timeout 10 "$pogo" run -kernel "$tmp/HALT.elf" -serial "unix:$sock.file,server=on,wait=off" >"$tmp/out" 2>"$tmp/err"
verdict 'file in the way of a socket' "$([ $? -eq 1 ] && [ -f "$sock.file" ] && grep -q 'no socket' "$tmp/err" || echo 'not refused')"
start -kernel "$tmp/HALT.elf" -serial "unix:$sock,server=on,wait=off"
sleep 0.3
timeout 10 "$pogo" run -kernel "$tmp/HALT.elf" -serial "unix:$sock,server=on,wait=off" >"$tmp/out" 2>"$tmp/err.2"
problem=$([ $? -eq 1 ] && grep -q 'another process listens' "$tmp/err.2" || echo 'not refused')
kill $pid
ends 143
verdict 'socket of another process' "$problem"

mkfifo "$tmp/p.in" "$tmp/p.out"
exec 5<>"$tmp/p.out" # held open, so that what is in it waits for the reader
timeout 10 head -c 5 <&5 >"$tmp/count" &
reader=$!
exec 5<&-
start -kernel "$tmp/ECHO.elf" "${exit_dev[@]}" -serial "pipe:$tmp/p"
echo -n 'pipe.' >"$tmp/p.in"
problem=''
ends 1
wait $reader
[ "$(cat "$tmp/count")" = pipe. ] || problem="$problem; no echo"
verdict 'serial line on pipes' "$problem"

start -kernel "$tmp/ECHO.elf" "${exit_dev[@]}" -serial pty
for ((i = 0; i < 50; i++)); do
    pty=$(sed -n 's/^char device redirected to \([^ ]*\) .*/\1/p' "$tmp/err")
    [ -n "$pty" ] && break || sleep 0.05
done
play open "$pty" <<<'sleep 400
send pty
expect pty'
sleep 0.3
play open "$pty" <<<'sleep 400
send again
expect again
send .'
ends 1
verdict 'serial line on a pseudo-terminal, twice' "$problem"

echo first >"$tmp/file"
start -kernel "$tmp/COMS.elf" "${exit_dev[@]}" -chardev "file,id=f,path=$tmp/file,append=on" -serial chardev:f -serial "file:$tmp/com2" \
    -serial none -serial "file:$tmp/com4"
problem=''
ends 1
[ "$(cat "$tmp/file")" = "first
1" ] || problem="$problem; append"
[ "$(cat "$tmp/com2" "$tmp/com4")" = 24 ] || problem="$problem; others"
verdict 'four serial ports' "$problem"

# --- readers that are slow, or go
(
    ulimit -f 4096
    exec "$pogo" run -kernel "$tmp/BURST.elf" "${exit_dev[@]}" -m 2 -serial null -d io -D "$tmp/limited.log"
) >"$tmp/out" 2>"$tmp/err" </dev/null
problem=$([ $? -eq 1 ] || echo 'exit status')
grep -q "limited.log: the log is not complete" "$tmp/err" || problem="$problem; the loss is not told"
verdict 'a log that may not grow' "$problem"

mkfifo "$tmp/slow"
(exec <"$tmp/slow"; sleep 1; wc -c >"$tmp/count") &
reader=$!
start -kernel "$tmp/BURST.elf" "${exit_dev[@]}" -serial "file:$tmp/slow"
problem=''
ends 1
wait $reader
[ "$(cat "$tmp/count")" -eq 300000 ] || problem="$problem; $(cat "$tmp/count") bytes came"
verdict 'slow reader of a guest that does not wait' "$problem"
(exec <"$tmp/slow"; sleep 1; wc -c >"$tmp/count") &
reader=$!
"$pogo" run -kernel "$tmp/POLITE.elf" "${exit_dev[@]}" >"$tmp/slow" 2>"$tmp/err" </dev/null
problem=$([ $? -eq 1 ] || echo 'exit status')
wait $reader
[ "$(cat "$tmp/count")" -eq 300000 ] || problem="$problem; $(cat "$tmp/count") bytes came"
verdict 'slow reader of a guest that waits' "$problem"

start -kernel "$tmp/SPAM.elf" -serial "unix:$sock,server=on,wait=off" -monitor "unix:$sock.m,server=on,wait=off"
play unix "$sock" <<<'expect xxxx'
play unix "$sock.m" <<<'expect (pogo)
send info status\n
expect running
send quit\n'
ends 0
verdict 'reader that goes away' "$problem"
start -kernel "$tmp/SPAM.elf" -serial "unix:$sock,server=on,wait=off" -monitor "unix:$sock.m,server=on,wait=off"
timeout 20 "$peer" unix "$sock" <<<'sleep 2000' >/dev/null & # takes nothing
reader=$!
play unix "$sock.m" <<<'expect (pogo)
sleep 300
send stop\n
expect (pogo)
send cont\n
expect (pogo)
send info chardev\n
expect connected
send quit\n'
ends 0
wait $reader
verdict 'reader that takes nothing' "$problem"
# Standard output whose reader goes: what becomes of any program in a pipeline; with SIGPIPE ignored the machine goes on.
for g in SPAM ECHO HALT; do
    { timeout 20 env --default-signal=PIPE "$pogo" run -kernel "$tmp/$g.elf" </dev/null 2>"$tmp/err"; echo $? >"$tmp/status"; } |
        sleep 0.5
    problem=
    [ "$(cat "$tmp/status")" -eq 141 ] || problem="status $(cat "$tmp/status")"
    grep -q '^pogo: standard output: its reader has gone' "$tmp/err" || problem="$problem; it does not say why"
    verdict "standard output without a reader ($g)" "$problem"
done
{ env --ignore-signal=PIPE "$pogo" run -kernel "$tmp/SPAM.elf" -monitor "unix:$sock.m,server=on,wait=off" 2>"$tmp/err"; echo $? >"$tmp/status"; } | head -c 10 >"$tmp/out" &
play unix "$sock.m" <<<'expect (pogo)
sleep 300
send info chardev\n
expect nobody there
send quit\n'
wait $!
[ "$(cat "$tmp/status")" -eq 0 ] || problem="$problem; status $(cat "$tmp/status")"
verdict 'standard output that is closed, and SIGPIPE ignored' "$problem"

# --- the monitor
truncate -s 64K "$tmp/image"
start -kernel "$tmp/ECHO.elf" -smp 2 -name tester "${exit_dev[@]}" -S -serial null -chardev "socket,id=m,path=$sock,server=on,wait=off" -mon chardev=m,mode=readline \
    -drive "file=$tmp/image,format=raw,if=none,id=d0,snapshot=on" -device virtio-blk-pci,drive=d0
play unix "$sock" <<<'expect (pogo)
send info status\n
expect paused
send info name\n
expect tester
send x/2i $pc\n
expect mov edx, 0x3FD
send x/4xb 0x100000\n
expect 0x02 0xb0 0xad 0x1b
send xp /1dw 1048576\n
expect 464367618
send p/d $eip-0x100000\n
expect 12
send print 0x10+16\n
expect 0x20
send info cpus\n
expect CPU #1: waiting for its start
send cpu 1\n
expect (pogo)
send info registers\n
expect cpu 1 in real mode
send info registers -a\n
expect cpu 0 in protected mode
send info pic\n
expect pic1: irr
send info irq\n
expect IRQ statistics for ioapic
expect CPU #1 local APIC: 0 interrupts taken
send info mtree\n
expect 03f8-03ff uart16550
send info pci\n
expect 00.0 8086:1237
send info devices\n
expect i8254 at port 0x40
send info tlb\n
expect paging is off
send info stats\n
expect CPU #0: 0 instructions
expect since the start: 
send engine\n
expect bt
send help cont\n
expect let them go on
send frob\n
expect frob: unknown command
send info frob\n
expect info frob: unknown topic
send x/3q 0\n
expect /q
send p $frob\n
expect no such register
send p 1 << 2\n
expect << 2: not understood
send p (1+2)*-3 & 0xff | 0x100 ^ ~0 % 7\n
expect 0x1f7
send p 7/(3-3)\n
expect division by zero
send p ((2)\n
expect a ) is missing
send i/b 0x3fd\n
expect portb[0x03fd] = 0x60
send i/h 0x10000\n
expect ports are 0 to 0xffff
send o/b 0x3ff 0x5a\n
send i 0x3ff\n
expect = 0x5a
send pmemsave 0x100000 0x1001 '"$tmp"'/saved\n
send memsave 0xf0000000 4 '"$tmp"'/saved2\n
expect cannot be read
send info lapic\n
expect CPU #1 local APIC: id 1
send info qtree\n
expect dev: uart16550, ports 03f8-03ff
expect engine bt
send info block\n
expect d0: '"$tmp"'/image (raw, snapshot)
expect 65536 bytes
send info blockstats\n
expect d0: rd_bytes=0
send p\n
expect not a number
send cpu 2\n
expect the processors are 0 to 1
send log int,foo\n
expect foo: unknown category
send log int\n
expect (pogo)
send system_powerdown\n
expect does not listen
send cont\n
expect (pogo)
send info status\n
expect running
send system_reset\n
expect (pogo)
send stpo\x7f\x7fop\n
send info status\n
expect paused
send infx\x7f\x09sta\x09\x09
expect stats status
send u\x09\n
expect paused
send \e[A\n
expect info status
expect paused
send quit\n'
ends 0
[ "$(stat -c %s "$tmp/saved")" = 4097 ] && cmp -n 16 "$tmp/saved" <(tail -c +4097 "$tmp/ECHO.elf") || problem="$problem; pmemsave"
verdict 'monitor' "$problem"

# Resets start the guest from the same files again, whatever became of their names; what cannot be read twice is kept.
reset_again() { # name kernel command
    start -kernel "$2" "${exit_dev[@]}" -serial "unix:$sock.s,server=on,wait=off" -monitor "unix:$sock,server=on,wait=off"
    for ((i = 0; i < 100; i++)); do [ -S "$sock" ] && break || sleep 0.05; done
    eval "$3"
    play unix "$sock" <<<'expect (pogo)
send system_reset\n
expect (pogo)'
}
echo_again() { # name kernel command
    reset_again "$@"
    [ -n "$problem" ] || play unix "$sock.s" <<<'send x.
expect x.'
    ends 1
    verdict "$1" "$problem"
}
cp "$tmp/ECHO.elf" "$tmp/kernel"
echo_again 'reset after the kernel was removed' "$tmp/kernel" 'rm "$tmp/kernel"'
echo_again 'reset with a kernel from a pipe' <(cat "$tmp/ECHO.elf") :
cp "$tmp/HALT.elf" "$tmp/kernel"
echo_again 'reset after the kernel was changed' "$tmp/kernel" 'cat "$tmp/ECHO.elf" >"$tmp/kernel"'
verdict 'the change is told' "$(grep -q "^pogo: -kernel $tmp/kernel: has changed since" "$tmp/err" || echo 'it is not')"
cp "$tmp/ECHO.elf" "$tmp/kernel"
reset_again 'reset after the kernel was spoiled' "$tmp/kernel" 'echo spoiled >"$tmp/kernel"'
problem=
ends 1
grep -q "^pogo: -kernel $tmp/kernel: neither" "$tmp/err" || problem="$problem; no message"
verdict 'reset after the kernel was spoiled' "$problem"

# Bytes that nobody should send to it.
start -kernel "$tmp/HALT.elf" -serial null -monitor "unix:$sock,server=on,wait=off"
head -c 200000 /dev/urandom | tr -d '\n\r' | head -c 100000 >"$tmp/noise"
problem=''
{ cat "$tmp/noise"; printf '\n%%s%%n%%s\n%s\n' "$(head -c 5000 /dev/zero | tr '\0' /)"; } >"$tmp/script"
timeout 20 bash -c 'exec 3<>/dev/null; '"$peer"' unix '"$sock"' <<<"expect (pogo)"' >/dev/null || problem='no prompt'
printf 'expect (pogo)\nsend %s\\n\nexpect unknown command\nsend x/99999999999xg 0xffffffffffffffff\\n\nexpect cannot be read\nsend quit\\n\n' \
    "$(printf '%4000s' '' | tr ' ' A)" >"$tmp/script"
[ -n "$problem" ] || play unix "$sock" <"$tmp/script"
ends 0
verdict 'monitor with odd input' "$problem"

start -kernel "$tmp/OFF.elf" -no-shutdown -serial null -monitor "unix:$sock,server=on,wait=off"
play unix "$sock" <<<'expect (pogo)
sleep 300
send info status\n
expect paused (shutdown)
send cont\n
expect system_reset
send quit\n'
ends 0
verdict '-no-shutdown' "$problem"
start -kernel "$tmp/OFF.elf"
problem=''
ends 0
verdict 'switched off' "$problem"

# One device for the guest and the monitor.
start -kernel "$tmp/ECHO.elf" "${exit_dev[@]}" -chardev "socket,id=m,path=$sock,server=on,wait=off,mux=on" -serial chardev:m -mon chardev=m
play unix "$sock" <<<'send guest
expect guest
send \x01c
expect (pogo)
send info version\n
expect 0.
send \x01cback\x01\x01.
expect back\x01.'
ends 1
verdict 'multiplexed socket' "$problem"
printf 'abc\001cinfo status\n\001c.' >"$tmp/input"
input=$tmp/input start -kernel "$tmp/ECHO.elf" "${exit_dev[@]}" -nographic
problem=''
ends 1
grep -q 'VM status: running' "$tmp/out" || problem="$problem; no status"
verdict 'multiplexed standard streams' "$problem"
printf 'a\001x' >"$tmp/input"
input=$tmp/input start -kernel "$tmp/ECHO.elf" -serial mon:stdio
problem=''
ends 0
verdict 'quit key in a pipe' "$problem"
printf '\001x.' >"$tmp/input"
input=$tmp/input start -kernel "$tmp/ECHO.elf" "${exit_dev[@]}"
problem=''
ends 1
[ "$(od -An -tx1 <"$tmp/out")" = ' 01 78 2e' ] || problem="$problem; bytes changed"
verdict 'a pipe without keys' "$problem"

# --- a terminal
tty() { # name script pogo arguments...
    local name=$1 script=$2
    shift 2
    play tty "$pogo" run "$@" <<<"$script"
    cp "$tmp/peer.out" "$tmp/out"
    grep -q "^status ${status:-0}" "$tmp/out" || problem="$problem; $(tail -n 1 "$tmp/out")"
    verdict "$name" "$problem"
}
tty 'terminal' 'raw
send abc
expect abc
send \x01h
expect this help
send \x01c
expect (pogo)
send info status\r
expect running
send \x01cdef
expect def
send \x03\x1a
expect \x03\x1a
send \x01x' -kernel "$tmp/ECHO.elf"
status=1 tty 'terminal at the end' 'raw
send .
expect .
cooked' -kernel "$tmp/ECHO.elf" "${exit_dev[@]}"
for sig in 15 1 2 3 11 7 6 10 24; do
    # Sanitizers have their own handlers for some.
    [[ ${MODE:-rel} == *san && $sig -gt 2 && $sig -ne 15 ]] && continue
    want=$((128 + sig))
    status=$want tty "terminal after signal $sig" "raw
sleep 200
signal $sig
cooked" -kernel "$tmp/ECHO.elf"
done
tty 'stopped and continued' "raw
send a
expect a
signal 19
sleep ${STOP_MS:-1500}
signal 18
send b
expect b
raw
send \\x01x" -kernel "$tmp/ECHO.elf"
tty 'put into the background and continued' 'raw
signal 20
sleep 300
cooked
signal 18
sleep 300
raw
send b
expect b
send \x01x' -kernel "$tmp/ECHO.elf"

# A job of a shell: in the background it runs, and leaves the terminal alone.
play tty bash --norc --noprofile -i <<END
send '$pogo' run -kernel '$tmp/ECHO.elf' &\n
expect engine
sleep 300
send echo one''two\n
expect onetwo
send jobs -r\n
expect Running
send fg\n
expect run -kernel
sleep 500
raw
send abc
expect abc
send \x01x
sleep 500
send echo three''four\n
expect threefour
send exit 9\n
END
cp "$tmp/peer.out" "$tmp/out"
grep -q '^status 9' "$tmp/out" || problem="$problem; $(tail -n 1 "$tmp/out")"
verdict 'a job of a shell' "$problem"

# --- the background
rm -f "$tmp/pid"
timeout 20 "$pogo" run -kernel "$tmp/HALT.elf" -daemonize -pidfile "$tmp/pid" -monitor "unix:$sock,server=on,wait=off" >"$tmp/out" 2>"$tmp/err" </dev/null
problem=$([ $? -eq 0 ] || echo 'exit status')
pid=$(cat "$tmp/pid")
kill -0 "$pid" || problem="$problem; not running"
timeout 20 "$pogo" run -kernel "$tmp/HALT.elf" -pidfile "$tmp/pid" </dev/null >"$tmp/out" 2>"$tmp/err.2"
[ $? -eq 1 ] && grep -q 'another process has it' "$tmp/err.2" || problem="$problem; pidfile not guarded"
p=$problem
play unix "$sock" <<<'expect (pogo)
send info status\n
expect running
send quit\n'
for ((i = 0; i < 100; i++)); do kill -0 "$pid" 2>/dev/null || break; sleep 0.05; done
kill -KILL "$pid" 2>/dev/null && problem="$problem; it went on"
[ ! -e "$tmp/pid" ] || problem="$problem; pidfile is still there"
verdict 'daemon' "$p$problem"
timeout 20 "$pogo" run -kernel "$tmp/absent" -daemonize >"$tmp/out" 2>"$tmp/err" </dev/null
verdict 'daemon that cannot start' "$([ $? -eq 1 ] && grep -q 'No such file' "$tmp/err" || echo 'no error')"
timeout 20 "$pogo" run -kernel "$tmp/HALT.elf" -daemonize -serial stdio >"$tmp/out" 2>"$tmp/err" </dev/null
verdict 'daemon with a terminal' "$([ $? -eq 1 ] && grep -q 'no standard streams' "$tmp/err" || echo 'no error')"

finish
