#!/bin/bash
# Command-line tests: bad input, exit statuses, help. Usage: tests/cli/run.sh BUILD_DIR
set -u
cd "$(dirname "$0")/../.." || exit 1
pogo=$1/pogo
tmp=$(mktemp -d "${TMPDIR:-/tmp}/pogo-cli.XXXXXX") || exit 1
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0
exit_dev=(-device isa-debug-exit,iobase=0xf4,iosize=4)

verdict() { # name problem
    if [ -z "$2" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $1: $2"
        sed 's/^/    /' "$tmp/out" "$tmp/err" | head -n 20
    fi
}

# Run pogo with the arguments: exit status, and a pattern that its output (both streams) must contain (empty: any).
expect() { # name status pattern arguments...
    local name=$1 status=$2 pattern=$3 problem='' got
    shift 3
    timeout 20 "$pogo" "$@" >"$tmp/out" 2>"$tmp/err" <"${input:-/dev/null}"
    got=$?
    [ $got -eq "$status" ] || problem="exit status $got, expected $status"
    [ -z "$pattern" ] || grep -qse "$pattern" "$tmp/out" "$tmp/err" || problem="$problem; no output matches '$pattern'"
    verdict "$name" "$problem"
}

# An error: status 1, nothing on standard output, one line on standard error that begins with "pogo: ".
refuse() { # name pattern arguments...
    local name=$1 pattern=$2 problem=''
    shift 2
    expect "$name" 1 "$pattern" "$@"
    [ ! -s "$tmp/out" ] || problem='something on standard output'
    [ "$(wc -l <"$tmp/err")" -eq 1 ] || problem="$problem; not one line"
    grep -q '^pogo: ' "$tmp/err" || problem="$problem; does not begin with 'pogo: '"
    verdict "$name (form)" "$problem"
}

guest() { # NAME: builds $tmp/NAME.elf
    gcc -m32 -nostdlib -static -no-pie -Wl,-Ttext=0x100000 -Wl,--build-id=none -DTEST_"$1" -o "$tmp/$1.elf" tests/cli/guests.S
}

for g in TRIPLE EXIT RESET ECHO SPAM LAST HALT DEBUGCON; do
    guest $g || exit 1
done
gcc -m32 -c -o "$tmp/rom.o" tests/cli/rom.S && ld -m elf_i386 -Ttext=0 -e start --oformat=binary -o "$tmp/rom" "$tmp/rom.o" || exit 1

# --- help and version
expect 'no arguments' 1 '^usage: pogo'
expect help 0 'disasm' help
expect --help 0 '^usage: pogo' --help
expect --version 0 '^pogo [0-9]' --version
expect 'help run' 0 '-kernel IMAGE' help run
expect 'run --help' 0 '-no-reboot' run --help
expect 'cpu help' 0 '^  max ' run -cpu help
expect 'cpu help names features' 0 ' avx2 ' run -cpu help
expect 'accel help' 0 '^  interp$' run -accel help
expect 'log help' 0 '^  guest_errors$' run -d help
# Every option of the table is in the help.
sed -n 's/^OPTION([a-z_]*, "\([^"]*\)".*/\1/p' src/cli/options.def >"$tmp/options"
"$pogo" run --help >"$tmp/out" 2>"$tmp/err"
problem=''
while read -r option; do
    grep -q -- "^  -$option\( \|$\)" "$tmp/out" || problem="$problem -$option is missing;"
done <"$tmp/options"
[ "$(wc -l <"$tmp/options")" -gt 10 ] || problem='options.def not understood'
verdict 'options in help' "$problem"

# --- usage errors
refuse 'unknown command' 'frob: unknown command' frob
refuse 'no guest' 'no guest: give -kernel IMAGE' run
refuse 'unknown option' '-frob: unknown option' run -frob
refuse 'missing argument' '-kernel: needs an argument' run -kernel
refuse 'bad cpu' "unknown processor model 'foo'" run -kernel "$tmp/EXIT.elf" -cpu foo
refuse 'bad cpu feature' 'nonsense' run -kernel "$tmp/EXIT.elf" -cpu max,+nonsense
refuse 'bad accel' '-accel foo: unknown engine' run -kernel "$tmp/EXIT.elf" -accel foo
refuse 'bad machine' '-machine foo' run -kernel "$tmp/EXIT.elf" -machine foo
refuse 'bad smp' '-smp 65' run -kernel "$tmp/EXIT.elf" -smp 65
refuse 'bad device' '-device foo' run -kernel "$tmp/EXIT.elf" -device foo
refuse 'bad iobase' 'iobase=0x10000' run -kernel "$tmp/EXIT.elf" -device isa-debug-exit,iobase=0x10000
refuse 'empty iobase' 'iobase=: must be a number' run -kernel "$tmp/EXIT.elf" -device isa-debug-exit,iobase=
refuse 'bad property' 'unknown property frob=1' run -kernel "$tmp/EXIT.elf" -device isa-debug-exit,frob=1
refuse 'taken port' 'ports 0x20 to 0x23 are taken' run -kernel "$tmp/EXIT.elf" -device isa-debug-exit,iobase=0x20,iosize=4
refuse 'bad serial' '-serial tcp:1' run -kernel "$tmp/EXIT.elf" -serial tcp:1
refuse 'serial file' 'cannot create' run -kernel "$tmp/EXIT.elf" -serial "file:$tmp/no/such"
refuse 'log file' '-D .*cannot create' run -kernel "$tmp/EXIT.elf" -D "$tmp/no/such"
refuse 'log category' '-d foo' run -kernel "$tmp/EXIT.elf" -d int,foo
for m in '' x 1Q -1 99999999999999999999 16E 0x 1.5G; do
    refuse "memory '$m'" '-m .*: not a size' run -kernel "$tmp/EXIT.elf" -m "$m"
done
for m in 0 512K 2T 1025K; do
    refuse "memory '$m'" '-m: .* must be a multiple' run -kernel "$tmp/EXIT.elf" -m "$m"
done

# --- files
refuse 'absent kernel' 'No such file' run -kernel "$tmp/absent"
refuse 'directory' 'Is a directory' run -kernel "$tmp"
: >"$tmp/empty"
refuse 'endless kernel' '-kernel /dev/zero: cannot read' run -kernel /dev/zero
refuse 'endless initrd' '-initrd /dev/zero: cannot read' run -kernel "$tmp/EXIT.elf" -initrd /dev/zero -m 1T
refuse 'empty kernel' 'empty' run -kernel "$tmp/empty"
echo text >"$tmp/text"
refuse 'text kernel' 'neither a Linux bzImage nor' run -kernel "$tmp/text"
refuse 'no header' 'without a multiboot header' run -kernel "$pogo"
head -c 300 "$tmp/EXIT.elf" >"$tmp/cut"
refuse 'truncated kernel' 'truncated\|without a multiboot' run -kernel "$tmp/cut"
refuse 'kernel larger than RAM' 'not RAM of this guest' run -kernel "$tmp/EXIT.elf" -m 1
refuse 'absent initrd' '-initrd .*No such file' run -kernel "$tmp/EXIT.elf" -initrd "$tmp/absent x"
refuse 'initrd alone' 'modules need a kernel' run -bios "$tmp/rom" -initrd "$tmp/rom"
truncate -s 100M "$tmp/large"
refuse 'large initrd' '-initrd .*larger than' run -kernel "$tmp/EXIT.elf" -m 64 -initrd "$tmp/large"
refuse 'initrd that does not fit' '-initrd .*do not fit' run -kernel "$tmp/EXIT.elf" -m 100 -initrd "$tmp/large"
refuse 'two initrds that do not fit' '-initrd .*larger than the 52428800 bytes left' run -kernel "$tmp/EXIT.elf" -m 150 -initrd "$tmp/large,$tmp/large"
refuse 'small bios' "-bios $tmp/text: 5 bytes; .* at least 64 KiB" run -bios "$tmp/text"
truncate -s 17M "$tmp/large"
refuse 'large bios' '-bios .*larger than' run -bios "$tmp/large"
if [ "$(id -u)" -ne 0 ]; then
    cp "$tmp/EXIT.elf" "$tmp/secret" && chmod 0 "$tmp/secret"
    refuse 'unreadable kernel' 'Permission denied' run -kernel "$tmp/secret"
fi

# --- running
expect 'exit status' 43 '' run -kernel "$tmp/EXIT.elf" "${exit_dev[@]}"
expect 'kernel from a pipe' 43 '' run -kernel <(cat "$tmp/EXIT.elf") "${exit_dev[@]}"
expect 'triple fault' 4 'triple fault' run -kernel "$tmp/TRIPLE.elf"
expect 'triple fault registers' 4 'rcx=0000000000001234' run -kernel "$tmp/TRIPLE.elf"
expect 'triple fault code' 4 '=> .*: ud2' run -kernel "$tmp/TRIPLE.elf"
expect 'triple fault log' 4 'v=08' run -kernel "$tmp/TRIPLE.elf" -d int
expect 'reset without reboot' 0 '' run -kernel "$tmp/RESET.elf" -no-reboot
expect 'rom' 11 '' run -bios "$tmp/rom" "${exit_dev[@]}"
printf 'hello.' >"$tmp/input"
input=$tmp/input expect 'serial echo' 1 '^hello\.$' run -kernel "$tmp/ECHO.elf" "${exit_dev[@]}" -nographic
{ head -c 20000 /dev/zero | tr '\0' x; echo .; } >"$tmp/input"
input=$tmp/input expect 'more input than buffers hold' 1 'xxxxx\.$' run -kernel "$tmp/ECHO.elf" "${exit_dev[@]}"
verdict 'nothing lost' "$([ "$(tr -cd x <"$tmp/out" | wc -c)" -eq 20000 ] || echo 'characters are missing')"
expect 'debug console' 1 '^OK$' run -kernel "$tmp/DEBUGCON.elf" "${exit_dev[@]}" -debugcon stdio
expect 'no debug console' 1 '' run -kernel "$tmp/DEBUGCON.elf" "${exit_dev[@]}"
verdict 'no debug console is silent' "$([ -s "$tmp/out" ] && echo 'it spoke')"
expect 'debug console in a file' 1 '' run -kernel "$tmp/DEBUGCON.elf" "${exit_dev[@]}" -debugcon "file:$tmp/con" -serial none
verdict 'file of the debug console' "$([ "$(cat "$tmp/con")" = OK ] || echo 'wrong contents')"
expect 'log file' 4 'triple' run -kernel "$tmp/TRIPLE.elf" -d int -D "$tmp/log"
verdict 'contents of the log' "$(grep -q 'v=06' "$tmp/log" || echo 'no exception in it')"

# --- signals: whatever the guest or its output wait for, pogo ends, with the status that a shell expects
# `input` and `output` are files for its standard streams. `ignore`: a signal that pogo is started with ignored, and sent before the other.
ended_by() { # name signal status arguments...
    local name=$1 signal=$2 want=$3 pid i problem=''
    shift 3
    (
        [ -z "${ignore:-}" ] || trap '' "$ignore"
        exec "$pogo" run "$@" <"${input:-/dev/null}" >"${output:-/dev/null}" 2>"$tmp/err"
    ) &
    pid=$!
    sleep 0.4
    if [ -n "${ignore:-}" ]; then
        kill -s "$ignore" $pid
        sleep 0.2
    fi
    kill -s "$signal" $pid 2>/dev/null
    for ((i = 0; i < 100; i++)); do
        kill -0 $pid 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL $pid 2>/dev/null && problem='it went on; '
    wait $pid 2>/dev/null
    i=$?
    [ $i -eq "$want" ] || problem="${problem}exit status $i, expected $want"
    : >"$tmp/out"
    verdict "$name" "$problem"
}
ended_by 'ended by SIGTERM' TERM 143 -kernel "$tmp/ECHO.elf" -d int -D "$tmp/log"
ended_by 'ended by SIGHUP' HUP 129 -kernel "$tmp/ECHO.elf"
ignore=HUP ended_by 'SIGHUP under nohup' TERM 143 -kernel "$tmp/ECHO.elf"
ended_by 'ended in HLT' TERM 143 -kernel "$tmp/HALT.elf"
ended_by 'ended between resets' TERM 143 -kernel "$tmp/RESET.elf"
input=/dev/zero ended_by 'ended with input that nobody reads' TERM 143 -kernel "$tmp/HALT.elf"
mkfifo "$tmp/fifo"
sleep 30 <"$tmp/fifo" &
reader=$!
output=$tmp/fifo ended_by 'ended with output that nobody reads' TERM 143 -kernel "$tmp/SPAM.elf"
kill $reader
exec 7<>"$tmp/fifo"
timeout 1 cat /dev/zero >&7 # until it is full
output=$tmp/fifo ended_by 'ended with last words that nobody reads' TERM 4 -kernel "$tmp/LAST.elf"
exec 7<&-

# --- standard streams that are closed or full
"$pogo" run -kernel "$tmp/EXIT.elf" "${exit_dev[@]}" <&- >&- 2>&-
verdict 'all streams closed' "$([ $? -eq 43 ] || echo 'wrong exit status')"
timeout 20 "$pogo" run -kernel "$tmp/HALT.elf" -D "$tmp/log" -d io -serial "file:$tmp/con" >"$tmp/out" 2>"$tmp/err" <&- &
sleep 0.4
kill $!
wait $!
verdict 'standard input closed' "$([ $? -eq 143 ] || echo 'wrong exit status')"
for args in 'help' 'disasm 90' '--version' 'run -cpu help'; do
    # shellcheck disable=SC2086
    "$pogo" $args >/dev/full 2>"$tmp/err"
    verdict "$args without room" "$([ $? -eq 1 ] && grep -q 'pogo: standard output: cannot write: No space' "$tmp/err" || echo 'no error')"
done

# --- a terminal: Ctrl-A x ends a guest that waits for input, and the terminal is put back
if command -v stty >/dev/null && script -qefc true /dev/null >/dev/null 2>&1; then
    { sleep 0.5; printf 'a\001h\001x'; sleep 0.5; } |
        timeout 20 script -qefc "stty -a | md5sum; $pogo run -kernel $tmp/ECHO.elf; echo status \$?; stty -a | md5sum" "$tmp/typescript" >"$tmp/out" 2>"$tmp/err"
    problem=''
    grep -q 'status 0' "$tmp/out" || problem='no status 0'
    grep -q 'Ctrl-A x *quit' "$tmp/out" || problem="$problem; no help"
    [ "$(grep -c '  -' "$tmp/out")" -eq 2 ] && [ "$(grep '  -' "$tmp/out" | sort -u | wc -l)" -eq 1 ] || problem="$problem; terminal not put back"
    verdict 'terminal' "$problem"
    # So is it when pogo is killed in any way that can be noticed. (Sanitizers have their own handlers for some.)
    signals='TERM HUP QUIT'
    [[ ${MODE:-rel} == *san ]] || signals="$signals SEGV BUS"
    for sig in $signals; do
        timeout 20 script -qefc "stty -a | md5sum; (sleep 0.4; kill -$sig \$(cat $tmp/pid)) & sh -c 'echo \$\$ >$tmp/pid; ulimit -c 0; exec $pogo run -kernel $tmp/ECHO.elf'; stty -a | md5sum" "$tmp/typescript" </dev/null >"$tmp/out" 2>"$tmp/err"
        verdict "terminal after SIG$sig" "$(grep -ao '[0-9a-f]\{32\}' "$tmp/out" | uniq -c | grep -q '^ *2 ' || echo 'not put back')"
    done
else
    echo 'SKIP terminal: stty, script(1) or a pseudo-terminal is not there'
fi

# --- disassembler
expect 'disasm 64' 0 'mov rbx, rax' disasm 4889c3
expect 'disasm 32' 0 'dec eax' disasm --32 48 89c3
expect 'disasm 16' 0 'mov ax, 0x1234' disasm --16 b8 34 12
expect 'disasm base' 0 '^00001000 .*jmp 0x1000\|jmp 0x0*1000' disasm --base 0x1000 ebfe
expect 'disasm file' 0 'jmp' disasm --16 --file "$tmp/rom"
expect 'disasm help' 0 '^usage: pogo disasm' disasm --help
refuse 'disasm nothing' 'no bytes' disasm
refuse 'disasm no hex' 'xyz' disasm xyz
refuse 'disasm odd' '909' disasm 909
refuse 'disasm option' '--48' disasm --48 90
refuse 'disasm base without' '--base: needs an argument' disasm --base
for base in -1 99999999999999999999 0x '' 1z; do
    refuse "disasm base '$base'" 'not a number' disasm --base "$base" 90
done
refuse 'disasm absent' 'No such file' disasm --file "$tmp/absent"

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
