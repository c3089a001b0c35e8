#!/bin/bash
# Command-line tests: bad input, exit statuses, help. Usage: tests/cli/run.sh BUILD_DIR
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/cli/lib.sh

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
expect 'accel help' 0 '^  interp  *works here$' run -accel help
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

expect 'machine help' 0 '^  pc ' run -machine help
expect 'device help' 0 '^  virtio-blk-pci ' run -device help
expect 'device properties' 0 '^  iobase=' run -device isa-debug-exit,help
refuse 'help of no device' '-device foo: unknown device' run -device foo,help
expect 'chardev help' 0 '^  socket ' run -chardev help
expect 'manual' 0 '^\.TH POGO 1' help --man
expect 'doctor' 0 '^  interp *works' doctor
expect 'doctor help' 0 '^usage: pogo doctor' doctor --help
refuse 'doctor with arguments' 'takes no arguments' doctor now
verdict 'completion' "$("$pogo" help --completion >"$tmp/completion" && bash -c '. "$0"; COMP_WORDS=(pogo run -no); COMP_CWORD=2; _pogo; echo "${COMPREPLY[*]}"' "$tmp/completion" | grep -q -- '-nographic.*-no-reboot' || echo 'does not complete -no')"
if command -v man >/dev/null; then
    "$pogo" help --man >"$tmp/pogo.1"
    man -l --warnings=w "$tmp/pogo.1" >"$tmp/out" 2>"$tmp/err"
    verdict 'manual page without warnings' "$(head -n 3 "$tmp/err")"
fi

# --- installing
problem=
for what in install uninstall; do
    env -u MAKEFLAGS -u MFLAGS -u B make -s "MODE=${MODE:-rel}" "DESTDIR=$tmp/dest" PREFIX=/usr $what >"$tmp/out" 2>"$tmp/err" ||
        problem="$problem; make $what"
    find "$tmp/dest" -type f -printf '%m /%P\n' | sort >"$tmp/$what"
done
diff - "$tmp/install" >"$tmp/out" <<'END' || problem="$problem; other files"
644 /usr/share/bash-completion/completions/pogo
644 /usr/share/man/man1/pogo.1
755 /usr/bin/pogo
END
[ ! -s "$tmp/uninstall" ] || problem="$problem; something is left"
verdict 'installing and removing' "$problem"

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

# --- disks and other virtio devices
head -c 64k /dev/zero >"$tmp/disk"
head -c 1000 /dev/zero >"$tmp/odd"
e=(run -kernel "$tmp/EXIT.elf" "${exit_dev[@]}")
disk=file=$tmp/disk,format=raw
expect 'a disk' 43 '' "${e[@]}" -drive "$disk,if=virtio"
expect 'a disk by -device' 43 '' "${e[@]}" -drive "$disk,if=none,id=d" -device virtio-blk-pci,drive=d,serial=abc,addr=1f.7,vectors=0
expect 'a disk only to be read, twice' 43 '' "${e[@]}" -drive "$disk,if=virtio,readonly=on" -drive "$disk,if=virtio,snapshot=on"
refuse 'a disk twice' 'in use by another' "${e[@]}" -drive "$disk,if=virtio" -drive "$disk,if=virtio"
refuse 'no such disk' 'cannot open it' "${e[@]}" -drive file=/nowhere,if=virtio,format=raw
refuse 'a disk of half sectors' 'truncate -s %512' "${e[@]}" -drive "file=$tmp/odd,format=raw,if=virtio"
refuse 'a directory' 'neither a file nor a block device' "${e[@]}" -drive "file=$tmp,format=raw,if=virtio,readonly=on"
refuse 'the file that is named' "-drive file=$tmp/a,b: cannot open" "${e[@]}" -drive "file=$tmp/a,,b"
refuse 'a property twice' "-drive file=x: file=y: it was x before" "${e[@]}" -drive file=x,file=y
refuse 'no such drive' 'no -drive or -blockdev has this id' "${e[@]}" -device virtio-blk-pci,drive=d
refuse 'a taken slot' 'slot 0x1f of the PCI bus is taken' "${e[@]}" -device virtio-rng-pci,addr=1f -device virtio-rng-pci,addr=1f
refuse 'no slot' 'must be SLOT' "${e[@]}" -device virtio-rng-pci,addr=20
expect 'ports' 43 '' "${e[@]}" -chardev "file,id=c,path=$tmp/port" -device virtio-serial-pci,id=s -device virtconsole,chardev=c \
    -device virtserialport,name=org.test,bus=s.0,nr=5 -device virtio-balloon-pci -device virtio-rng-pci
refuse 'a port without a controller' 'put -device virtio-serial-pci' "${e[@]}" -device virtconsole
refuse 'a port of another bus' 'no virtio-serial-pci has this id' "${e[@]}" -device virtio-serial-pci -device virtconsole,bus=x.0
refuse 'a port twice' 'nr=3 is taken' "${e[@]}" -device virtio-serial-pci -device virtconsole,nr=3 -device virtconsole,nr=3
refuse 'a port too far' 'past its max_ports=2' "${e[@]}" -device virtio-serial-pci,max_ports=2 -device virtconsole,nr=2
refuse 'two balloons' 'one already' "${e[@]}" -device virtio-balloon-pci -device virtio-balloon-pci
refuse 'bad serial' '-serial tcp:1' run -kernel "$tmp/EXIT.elf" -serial tcp:1
refuse 'too large a port' ':99999: not a port' run -kernel "$tmp/EXIT.elf" -gdb tcp::99999
refuse 'port 0' 'tcp:127.0.0.1:0: not a port' run -kernel "$tmp/EXIT.elf" -serial tcp:127.0.0.1:0,server=on
refuse 'no engine in machine' 'accel= names no engine' run -kernel "$tmp/EXIT.elf" -machine pc,accel=
refuse 'empty initrd' 'module 2 has no file name' run -kernel "$tmp/EXIT.elf" -initrd "$tmp/EXIT.elf,"
refuse 'serial tcp without host' '-serial tcp:' run -kernel "$tmp/EXIT.elf" -serial tcp:1
refuse 'serial telnet' 'no telnet' run -kernel "$tmp/EXIT.elf" -serial tcp::1,server=on,telnet=on
refuse 'serial property' 'unknown property frob=on' run -kernel "$tmp/EXIT.elf" -serial unix:/tmp/x,frob
refuse 'five serial ports' 'more than 4 serial ports' run -serial none -serial none -serial none -serial none -serial none
refuse 'long socket path' 'longer than' run -kernel "$tmp/EXIT.elf" -serial "unix:/tmp/$(printf '%200s' '' | tr ' ' x),server=on,wait=off"
refuse 'nobody listens' 'cannot connect' run -kernel "$tmp/EXIT.elf" -serial "unix:$tmp/nobody"
refuse 'absent chardev' 'no -chardev has this id' run -kernel "$tmp/EXIT.elf" -serial chardev:x
refuse 'chardev without id' 'needs id=ID' run -chardev null
refuse 'chardev twice' 'another character device has this id' run -chardev null,id=a -chardev null,id=a
refuse 'chardev kind' 'unknown kind' run -chardev spice,id=a
refuse 'chardev used twice' 'give it mux=on' run -kernel "$tmp/EXIT.elf" -chardev null,id=a -serial chardev:a -serial chardev:a
refuse 'stdio of a chardev' 'name that: chardev:a' run -kernel "$tmp/EXIT.elf" -chardev stdio,id=a -serial stdio
refuse 'monitor protocol' 'must be readline' run -mon chardev=a,mode=control
refuse 'isa-serial without chardev' 'needs chardev=ID' run -kernel "$tmp/EXIT.elf" -device isa-serial
refuse 'isa-serial on COM1' 'serial port 0 is taken' run -kernel "$tmp/EXIT.elf" -chardev null,id=a -device isa-serial,chardev=a,index=0
expect 'isa-serial' 43 '' run -kernel "$tmp/EXIT.elf" "${exit_dev[@]}" -chardev null,id=a -device isa-serial,chardev=a
refuse 'two debug consoles' 'debug console already' run -kernel "$tmp/EXIT.elf" -debugcon null -chardev null,id=a -device isa-debugcon,chardev=a
refuse 'smp topology' 'no multiple' run -smp 5,cores=2
refuse 'smp property' 'unknown property' run -smp 2,frob=3
refuse 'machine property' 'usb=on: there is none' run -machine pc,usb=on
refuse 'no engine left' 'none is left' run -kernel "$tmp/EXIT.elf" -accel foo:bar
refuse 'network' 'there is no network; must be none' run -nic user
refuse 'KVM' "-accel kvm: not in this build; '-accel help'" run -kernel "$tmp/EXIT.elf" -enable-kvm
refuse 'display' 'must be none' run -display gtk
refuse 'rtc' 'must be utc, localtime or a date' run -rtc base=yesterday
refuse 'boot' 'letters from a to p' run -boot z
refuse 'object' 'unknown object' run -object frob,id=x
refuse 'drive without file' 'needs file=PATH' run -drive if=virtio
refuse 'drive format' 'only raw images' run -drive file=x,format=qcow2
refuse 'drive interface' 'must be virtio or none' run -drive file=x,if=ide
refuse 'drive twice' 'another drive has the id' run -drive file=x,if=none,id=a -drive file=y,if=none,id=a
refuse 'drive absent' 'No such file' run -kernel "$tmp/EXIT.elf" -drive "file=$tmp/absent"
refuse 'disk without drive' 'no drive; add drive=ID' run -kernel "$tmp/EXIT.elf" -device virtio-blk-pci
refuse 'disk of no drive' 'has this id' run -kernel "$tmp/EXIT.elf" -device virtio-blk-pci,drive=x
refuse 'blockdev of no node' 'no -blockdev has this node-name' run -kernel "$tmp/EXIT.elf" -blockdev raw,file=x,node-name=a -device virtio-blk-pci,drive=a
refuse 'rng of no object' 'no -object has this id' run -kernel "$tmp/EXIT.elf" -device virtio-rng-pci,rng=x
refuse 'bad addr' 'addr=zz' run -kernel "$tmp/EXIT.elf" -device virtio-rng-pci,addr=zz
refuse 'pidfile' '-pidfile .*cannot create' run -kernel "$tmp/EXIT.elf" -pidfile "$tmp/no/such"
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
# Sanitizers need more address space than such a limit leaves.
if (ulimit -v 600000 && "$pogo" --version) >"$tmp/out" 2>&1; then
    (ulimit -v 600000 && refuse 'a limit that leaves no memory' 'raise the limit' run -kernel "$tmp/EXIT.elf" -m 2G && [ $failed -eq 0 ]) || failed=$((failed + 1))
fi
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
expect 'translations' 43 'bt: 10[0-9a-f]*  .*/.*  +0' run -kernel "$tmp/EXIT.elf" "${exit_dev[@]}" -accel bt -d bt

printf 'info bt\ninfo jit\nquit\n' >"$tmp/commands"
input=$tmp/commands expect 'info bt' 0 'translated [0-9]* blocks of' run -kernel "$tmp/HALT.elf" -accel bt -display none -serial null -monitor stdio
input=$tmp/commands expect 'info bt, without' 0 'the engine is interp' run -kernel "$tmp/HALT.elf" -accel interp -display none -serial null -monitor stdio

# The map for perf: "ADDRESS SIZE NAME", numbers in hexadecimal. A file of that name is replaced, a link is not followed.
perf_map() { # accel
    timeout 20 bash -c 'echo $$ >"$1"; ln -s "$2" /tmp/perf-$$.map; shift 2; exec "$@"' - "$tmp/pid" "$tmp/victim" "$pogo" run -perfmap -accel "$1" \
        -kernel "$tmp/EXIT.elf" "${exit_dev[@]}" >"$tmp/out" 2>"$tmp/err" </dev/null
    [ $? -eq 43 ] || echo 'wrong exit status'
    [ -e "$tmp/victim" ] && echo 'followed a link'
    mv "/tmp/perf-$(cat "$tmp/pid").map" "$tmp/map" || echo 'no map'
}
problem=$(perf_map bt)
grep -Evq '^[0-9a-f]+ [1-9a-f][0-9a-f]* bt(-apart)?:[0-9a-z]+$' "$tmp/map" && problem="$problem; a bad line"
grep -q ' bt:glue$' "$tmp/map" && grep -q ' bt:1000[0-9a-f]*$' "$tmp/map" || problem="$problem; a name is missing"
verdict 'map for perf' "$problem"
verdict 'map for perf, no code' "$(perf_map interp; [ -s "$tmp/map" ] && echo 'names nothing')"
expect 'lockstep, map for perf' 2 'leave\|use pogo run' lockstep -b bt -perfmap -kernel "$tmp/EXIT.elf"
expect 'optimisations' 43 'engine bt' run -kernel "$tmp/EXIT.elf" "${exit_dev[@]}" -accel kvm:bt,opt-all=off,opt-ret=on,tb-insns=2,tb-size=1
expect 'optimisations, listed' 0 '^  *opt-chain  *direct' run -accel help
refuse 'unknown optimisation' 'opt-x: no such optimisation' run -kernel "$tmp/EXIT.elf" -accel bt,opt-x=off
refuse 'optimisation of another engine' 'opt-ret: no such' run -kernel "$tmp/EXIT.elf" -accel interp,opt-ret=off
truncate -s 1M "$tmp/disk"
expect 'QEMU options that need no action' 43 'engine bt' run -kernel "$tmp/EXIT.elf" "${exit_dev[@]}" -nodefaults -no-user-config -display none \
    -vga none -nic none -net none -parallel none -boot order=cd,menu=off -rtc base=2020-01-02T03:04:05,clock=vm -name guest=a,process=b -M pc -smp 2,sockets=1,cores=2,threads=1 \
    -object rng-random,id=r,filename=/dev/urandom -device virtio-rng-pci,rng=r,addr=5 -drive "file=$tmp/disk,if=none,id=d,format=raw" \
    -device virtio-blk-pci,drive=d,serial=1 -blockdev "driver=raw,file.driver=file,file.filename=$tmp/disk,node-name=n,read-only=on" -m size=64M
expect 'blockdev on blockdev' 43 '' run -kernel "$tmp/EXIT.elf" "${exit_dev[@]}" -blockdev "file,filename=$tmp/disk,node-name=f" \
    -blockdev raw,file=f,node-name=n -device virtio-blk-pci,drive=n
expect 'next engine of a list' 43 'engine interp: kvm: not in this build; next in the list' run -kernel "$tmp/EXIT.elf" "${exit_dev[@]}" -accel kvm:interp
expect 'next engine of several options' 43 'engine interp: foo: unknown engine; kvm: not in this build; next in the list' run \
    -kernel "$tmp/EXIT.elf" "${exit_dev[@]}" -machine accel=foo -accel kvm -accel interp
expect 'the engines of QEMU scripts' 43 'engine bt' run -kernel "$tmp/EXIT.elf" "${exit_dev[@]}" -accel kvm -accel tcg,thread=multi
refuse 'one thread for all processors' 'thread=single: must be multi' run -accel tcg,thread=single
expect 'any engine' 43 'engine bt' run -kernel "$tmp/EXIT.elf" "${exit_dev[@]}" -machine pc,accel=auto
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
# The log, too, has a reader.
mkfifo "$tmp/log.fifo"
for args in '-d io' '-d int,cpu'; do
    sleep 30 <"$tmp/log.fifo" &
    reader=$!
    # shellcheck disable=SC2086
    timeout 20 "$pogo" run -kernel "$tmp/ECHO.elf" $args </dev/null >"$tmp/out" 2>"$tmp/log.fifo" &
    sleep 0.8
    kill $!
    wait $!
    verdict "ended with a log that nobody reads ($args)" "$([ $? -eq 143 ] || echo 'it went on')"
    kill $reader
done

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

# --- disassembler
expect 'disasm 64' 0 'mov rbx, rax' disasm 4889c3
expect 'disasm 32' 0 'dec eax' disasm --32 48 89c3
expect 'disasm 16' 0 'mov ax, 0x1234' disasm --16 b8 34 12
expect 'disasm base' 0 '^00001000 .*jmp 0x1000\|jmp 0x0*1000' disasm --base 0x1000 ebfe
expect 'disasm file' 0 'jmp' disasm --16 --file "$tmp/rom"
expect 'disasm help' 0 '^usage: pogo disasm' disasm --help
expect 'lockstep help' 0 '^  --every N' lockstep --help
expect 'lockstep' 0 'interp and interp are the same for' lockstep -b interp -kernel "$tmp/EXIT.elf" "${exit_dev[@]}"
expect 'lockstep, tuned' 0 'interp and bt are the same for' lockstep -b bt,opt-all=off,tb-insns=1,tb-size=1 -kernel "$tmp/EXIT.elf" "${exit_dev[@]}"
expect 'lockstep, limited' 0 'same for 5 instructions.*asked to stop' lockstep -b interp -kernel "$tmp/SPAM.elf" --limit 5 --dump-at 3
expect 'lockstep through resets' 0 'same for 3000 instructions.*asked to stop' lockstep -b interp -kernel "$tmp/RESET.elf" --limit 3000
expect 'lockstep without' 0 'asked for a reset' lockstep -b interp -kernel "$tmp/RESET.elf" --limit 20000 -no-reboot
expect 'lockstep until' 0 'asked to stop' lockstep -b interp -kernel "$tmp/SPAM.elf" --until xxxxxxxxxxxx --quiet
printf 'sleep 3\nsend abc\\n\n# no line\nwait bc\nsend abd\nwait abd\nsend .' >"$tmp/script"
expect 'lockstep input' 0 '^abd\.$' lockstep -b interp -kernel "$tmp/ECHO.elf" "${exit_dev[@]}" --input "$tmp/script"
echo 'type x' >"$tmp/script"
expect 'lockstep bad input' 2 'line 1: must be' lockstep -b interp -kernel "$tmp/ECHO.elf" --input "$tmp/script"
for bad in '' '-b nosuch' '-b interp -smp 2' '-b interp --every 0' '-b interp --limit -5' '-b interp -S' '-b' '-b bt:interp' '-b bt,x=y' '-b auto' '-b interp -accel interp' \
    '-b interp -device virtio-serial-pci'; do
    # shellcheck disable=SC2086
    expect "lockstep $bad" 2 '^pogo: ' lockstep -kernel "$tmp/EXIT.elf" $bad
done
refuse 'disasm nothing' 'no bytes' disasm
refuse 'disasm no hex' 'xyz' disasm xyz
refuse 'disasm odd' '909' disasm 909
refuse 'disasm option' '--48' disasm --48 90
refuse 'disasm base without' '--base: needs an argument' disasm --base
for base in -1 99999999999999999999 0x '' 1z; do
    refuse "disasm base '$base'" 'not a number' disasm --base "$base" 90
done
refuse 'disasm absent' 'No such file' disasm --file "$tmp/absent"

finish
