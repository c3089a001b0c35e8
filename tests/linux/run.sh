#!/bin/bash
# Run the large guests of guests.list. Usage: tests/linux/run.sh MONITOR ENGINE check|long [NAME...]
#
#   MONITOR  path of pogo, or `qemu`: qemu-system-x86_64 as a second opinion
#   ENGINE   engine (pogo -accel) or accelerator (qemu: tcg); ENGINE:ENGINE: both in lockstep
#   NAME     only rows whose name starts with it; NAME$: only that row
#   SLOW=N   (environment) multiplies the time limits
#   LOGS=DIR (environment) where outputs stay, instead of build/guest/log
#
# One line per guest, the end of its output under a failed one; ends with "N passed, N failed". The kernels come from Debian's
# packages; without them and a network to get them rows are skipped.
set -u
cd "$(dirname "$0")/../.." || exit 1
monitor=$1 engine=$2 when=$3
shift 3
passed=0 failed=0 skipped=0
# Two engines take their time, and the comparison takes some.
[[ $engine != *:* ]] || SLOW=$((${SLOW:-1} * 6))
logs=${LOGS:-build/guest/log}
mkdir -p $logs
work=$(mktemp -d "${TMPDIR:-/tmp}/pogo-linux.XXXXXX") || exit 1
trap '[ -z "${child:-}" ] || kill "$child" 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

di=usr/lib/debian-installer/images/12

# Set `kernel` and `initrd` (files, separated by commas).
fetch_kernel() { # kernel[+set...]
    local dir modules sets=${1#"${1%%+*}"}
    initrd=
    case ${1%%+*} in
    cloud | full | pvh)
        dir=linux-image-$([[ $1 = cloud* ]] && echo cloud-)amd64
        dir=$(tools/guest/kernel.sh "$dir") || return 1
        { read -r kernel && read -r modules; } <<<"$dir"
        tools/guest/initramfs.sh "$work/initrd" || return 1
        initrd=$work/initrd,$modules,$work/tests
        # Of several modules of a PVH image, Linux takes the first.
        [ "$1" != pvh ] || { unpack_kernel && one_initrd; } || return 1
        ;;
    pae)
        dir=$(tools/guest/kernel.sh linux-image-686-pae:i386) || return 1
        { read -r kernel && read -r modules; } <<<"$dir"
        ARCH=i386 tools/guest/initramfs.sh "$work/initrd" || return 1
        initrd=$work/initrd,$modules,$work/tests
        ;;
    memtest64 | memtest32)
        dir=$(tools/guest/fetch.sh memtest86+ 'boot/*') || return 1
        kernel=$dir/boot/memtest86+$([ "$1" = memtest64 ] && echo x64 || echo ia32).bin
        ;;
    installer-*)
        local files=$di/${1#*-}/text/debian-installer/${1#*-}
        dir=$(tools/guest/fetch.sh debian-installer-12-netboot-"${1#*-}" $files/linux $files/initrd.gz) || return 1
        kernel=$dir/$files/linux
        initrd=$dir/$files/initrd.gz
        ;;
    *)
        echo "guests.list: unknown kernel $1"
        return 1
        ;;
    esac
    if [ -n "$sets" ]; then
        # shellcheck disable=SC2086
        tests/linux/programs.sh "$work/programs" ${sets//+/ } || return 1
        initrd=$initrd,$work/programs
    fi
}

# The ELF image inside a bzImage: payload_offset and payload_length say where (boot protocol 2.08). In front of the last 4 bytes, its size.
unpack_kernel() {
    local setup offset length
    field() { od -An -t u"$2" -j "$1" -N "$2" "$kernel" | tr -d ' '; }
    setup=$((($(field 497 1) + 1) * 512))
    offset=$((setup + $(field 584 4)))
    length=$(($(field 588 4) - 4))
    tail -c +$((offset + 1)) "$kernel" | head -c $length | xz -dc >"$work/vmlinux" || return 1
    kernel=$work/vmlinux
}

one_initrd() {
    # shellcheck disable=SC2086
    [ -z "$initrd" ] || { cat ${initrd//,/ } >"$work/one-initrd" && initrd=$work/one-initrd; }
}

# Prefix every line with the host's clock.
stamp() {
    local line
    while IFS= read -r line || [ -n "$line" ]; do printf '%s %s\n' "$EPOCHREALTIME" "${line%$'\r'}"; done
}

# A disk whose first half is noise; sets `options` and adds to `append`.
make_disk() {
    head -c 8M /dev/urandom >"$work/disk"
    append="$append pogo.md5=$(md5sum <"$work/disk" | cut -d ' ' -f 1)"
    truncate -s 16M "$work/disk"
    options=(-drive "file=$work/disk,format=raw,if=virtio")
}

monitor_command() { # mem smp append
    if [[ $engine == *:* ]]; then
        command=("$monitor" lockstep -a "${engine%%:*}" -b "${engine#*:}")
    elif [ "$monitor" = qemu ]; then
        command=(qemu-system-x86_64 -accel "$engine" -cpu max -display none -serial stdio)
        [ "$initrd" = "$work/one-initrd" ] || one_initrd
    else
        command=("$monitor" run -accel "$engine" -display none -serial stdio)
    fi
    command+=(-kernel "$kernel" -m "$1" -smp "$2" -append "$3" "${options[@]}")
    [ -z "$initrd" ] || command+=(-initrd "$initrd")
}

# Run until the guest ends or `pattern` has matched on `times` lines; the latter is status "-".
run_screen() { # seconds pattern times log
    local start=$SECONDS
    "${command[@]}" >"$4" 2>&1 </dev/null &
    child=$!
    status=124
    while [ $((SECONDS - start)) -lt "$1" ]; do
        sleep 0.5
        if [ "$(tr '\033' '\n' <"$4" | grep -ac -e "$2")" -ge "$3" ]; then
            status=-
            break
        fi
        kill -0 $child 2>/dev/null || break
    done
    kill $child 2>/dev/null
    wait $child
    [ $status != 124 ] || [ $((SECONDS - start)) -ge "$1" ] || status=$?
    child=
}

run_script() { # seconds log
    timeout --foreground "$1" "${command[@]}" 2>&1 </dev/null | stamp >"$2"
    status=${PIPESTATUS[0]}
}

# Six seconds of the guest's clock are six of the host's, give or take what a loaded host delays lines; the time of day is the host's.
clock_problem() { # log
    awk '$2 == "clock" {
            if (!n++) { h0 = $1; u0 = $3 }
            h = $1; u = $3; off = $4 - $1
            if (off > 3 || off < -4) bad = sprintf("the time of day is %.1f s off", off)
        }
        END {
            d = (u - u0) - (h - h0)
            if (n && (d > 1 || d < -1)) bad = sprintf("%.2f s of the guest took %.2f s", u - u0, h - h0)
            print bad
        }' "$1"
}

script_problem() { # log scripts
    local n
    n=$(grep -ac ' == exit status 0$' "$1")
    grep -a -m 3 -o ' not ok .*' "$1"
    [ "$n" -eq 1 ] || echo "the script did not end well"
    grep -aq ' ok ' "$1" || echo "nothing was checked"
    if [[ $engine == *:* ]]; then
        grep -aq ' are the same for ' "$1" || echo 'the engines were not compared'
    else
        clock_problem "$1"
    fi
}

make_tests_archive() { # scripts
    mkdir -p "$work/tree/tests"
    cp tests/linux/scripts/*.sh "$work/tree/tests/"
    [[ ,$1, != *,stress,* ]] || cp build/guests/stress "$work/tree/tests/"
    [[ ,$1, != *,userland,* ]] || cp -r tests/linux/scripts/work "$work/tree/tests/"
    [[ ,$1, != *,trial,* ]] || cp build/guests/trial{32,64} "$work/tree/tests/"
    # shellcheck disable=SC2086
    printf 'sh /tests/%s.sh || bad=1\n' ${1//,/ } >"$work/tree/tests/all.sh"
    echo '[ -z "$bad" ]' >>"$work/tree/tests/all.sh"
    (cd "$work/tree" && find tests | cpio -o -H newc --owner=0:0 --quiet) >"$work/tests"
}

run_row() { # name kernel mem smp seconds want expect append
    local log=$logs/$1.$engine problem='' start=$SECONDS append=$8
    make_tests_archive "${7#script:}"
    options=(-device pvpanic)
    [[ ,${7#script:}, != *,disk,* ]] || make_disk
    [[ $7 == twice:* ]] || options+=(-no-reboot)
    if ! fetch_kernel "$2" >"$work/fetch" 2>&1; then
        skipped=$((skipped + 1))
        echo "skip $1: $(tail -n 1 "$work/fetch")"
        return
    fi
    # These say for themselves what console they use.
    [[ $2 == memtest* ]] || append="console=ttyS0 panic=-1 pogo.smp=$4 pogo.mem=$3 $append"
    [[ $7 != script:* ]] || append="$append pogo.run=/tests/all.sh"
    monitor_command "$3" "$4" "$append"
    case $7 in
    script:*)
        run_script "$5" "$log"
        problem=$(script_problem "$log")
        ;;
    dies:*)
        run_script "$5" "$log"
        grep -aq -e "${7#*:}" "$log" || problem="no '${7#*:}' in its output"
        ;;
    screen:*) run_screen "$5" "${7#*:}" 1 "$log" ;;
    twice:*) run_screen "$5" "${7#*:}" 2 "$log" ;;
    esac
    [[ ,${7#script:}, != *,disk,* ]] || [ "$(tail -c 8M "$work/disk" | md5sum)" = "$(head -c 8M "$work/disk" | md5sum)" ] ||
        problem="$problem"$'\n'"the disk's halves differ"
    [[ $2 != memtest* ]] || ! tr '\033' '\n' <"$log" | grep -aq 'Errors: *[1-9]' || problem='memory errors'
    [ "$status" = "$6" ] || problem="exit status $status, expected $6"$'\n'$problem
    if [ -z "$problem" ]; then
        passed=$((passed + 1))
        echo "ok   $1: $(grep -ac '^[^ ]* ok ' "$log") checks in $((SECONDS - start)) s"
    else
        failed=$((failed + 1))
        echo "FAIL $1: $problem"
        tail -n 40 "$log" | cut -c 1-160 | sed 's/^/     /'
    fi
}

while read -r name engines kernel_name mem smp seconds want expect append; do
    case $name in '' | '#'*) continue ;; esac
    [ "$when" = "$([[ $name == long-* ]] && echo long || echo check)" ] || continue
    if [ $# -gt 0 ]; then
        wanted=
        for n; do [[ $name$ != "$n"* ]] || wanted=1; done
        [ -n "$wanted" ] || continue
    fi
    case ,$engines, in
    ,all, | *",$engine,"*) ;;
    ,pogo,) [ "$monitor" != qemu ] || continue ;;
    *) continue ;;
    esac
    run_row "$name" "$kernel_name" "$mem" "$smp" $((seconds * ${SLOW:-1})) "$want" "$expect" "$append" </dev/null
done <tests/linux/guests.list
[ $skipped -eq 0 ] || echo "skipped: $skipped guests that could not be fetched"
[ $((passed + failed)) -gt 0 ] || exit 77
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
