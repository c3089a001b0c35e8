#!/bin/bash
# The boot benchmark: Debian's kernel to the first line of init, in pogo and in QEMU's TCG, with the same files and command line,
# interleaved; medians. Usage: bench/boot.sh BUILD_DIR
#
#   ENGINES="..."      pogo's engines (default: all that work here)     KERNEL=linux-image-amd64   the kernel's package
#   ROUNDS=3           runs of each               APPEND=...                 more of the command line
#
# Goals: pogo's own start (from exec to the first guest instruction) under 20 ms with 512 MB of guest memory; resident memory beyond
# the guest's under 16 MB in the interpreter, and beyond that and the code cache under 48 MB in the translator.
set -eu
cd "$(dirname "$0")/.."
B=$1 rounds=${ROUNDS:-3} engines=${ENGINES:-$("$1/pogo" run -accel help | awk '/works here$/ { print $1 }')} package=${KERNEL:-linux-image-amd64}
out=$(mktemp -d)
trap '[ -z "${child:-}" ] || kill "$child" 2>/dev/null; rm -rf "$out"' EXIT

kernel=$(tools/guest/kernel.sh "$package" | head -n 1)
# The guest says that it is there, and then resets the machine in the way that makes pogo tell how many instructions it ran.
mkdir -p "$out/tree/tests"
echo 'reboot -f' >"$out/tree/tests/reboot.sh"
tools/guest/initramfs.sh "$out/initrd" "$out/tree"
append="console=ttyS0 reboot=t pogo.run=/tests/reboot.sh ${APPEND:-}"
mark='== /tests/reboot.sh'
guest=(-kernel "$kernel" -initrd "$out/initrd" -m 512 -append "$append" -display none -serial stdio -no-reboot)

# KiB of resident memory that is not the guest's, and how much of that is not the translator's code cache either, which is its code, mapped
# twice, and the records right before that. The guest's memory has no name where the kernel was built without names for such: it is
# what is as large.
other_memory() { # pid
    awk '
        /^[0-9a-f]+-[0-9a-f]+ / { split($1, range, "-"); code = /memfd:bt-code/; first = range[1]; next }
        /^Size:/ { size = $2 }
        /^Rss:/ && size < 512 * 1024 {
            n += $2
            if (code && !last_code && first == last_end) cache += last_rss
            if (code) cache += $2
            last_rss = $2; last_code = code
        }
        /^Rss:/ { last_end = range[2] }
        END { print n, n - cache }' "/proc/$1/smaps"
}

# Seconds from here to the mark on the output of the command, and in $out/NAME.rss (for pogo) what other_memory() says.
boot_once() { # name command...
    local name=$1 start line fd
    shift
    mkfifo "$out/pipe"
    start=$EPOCHREALTIME
    "$@" >"$out/pipe" 2>"$out/$name.err" </dev/null &
    child=$!
    exec {fd}<"$out/pipe"
    while IFS= read -r line <&$fd; do
        [[ $line != "$mark"* ]] || break
    done
    awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f\n", b - a }' >>"$out/$name.seconds"
    other_memory "$child" >>"$out/$name.rss" 2>/dev/null || true
    cat <&$fd >/dev/null
    wait $child || true
    child=
    exec {fd}<&-
    rm "$out/pipe"
}

rss() { # engine field; in MB
    cut -d ' ' -f "$2" "$out/$1.rss" | median | awk '{ printf "%.1f", $1 / 1024 }'
}

median() { sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
qemu=
command -v qemu-system-x86_64 >/dev/null && qemu=1

for ((i = 0; i < rounds; i++)); do
    for e in $engines; do boot_once "$e" "$B/pogo" run -accel "$e" "${guest[@]}"; done
    [ -z "$qemu" ] || boot_once tcg qemu-system-x86_64 -accel tcg -cpu max "${guest[@]}"
done
if [ -n "$qemu" ]; then
    # Counting slows QEMU down: a run of its own.
    gcc -O2 -shared -fPIC -o "$out/count.so" bench/qemu_count.c
    qemu-system-x86_64 -accel tcg -cpu max "${guest[@]}" -plugin "$out/count.so" >/dev/null 2>"$out/tcg.err" </dev/null || true
fi

echo "${kernel##*/}: seconds to the first line of init, median of $rounds"
printf '%-10s %10s %10s %18s %16s\n' engine seconds 'to tcg' 'instructions (M)' 'resident MB (1)'
tcg=
[ -z "$qemu" ] || tcg=$(median <"$out/tcg.seconds")
for e in $engines ${qemu:+tcg}; do
    seconds=$(median <"$out/$e.seconds")
    insns=$(sed -n 's/.* after \([0-9]*\) instructions.*/\1/p; s/^insns \([0-9]*\)$/\1/p' "$out/$e.err" | awk '{ n += $1 } END { printf "%.0f", n / 1e6 }')
    rss=-
    [ "$e" = tcg ] || rss=$(rss "$e" 1)
    ratio=$(awk -v a="$seconds" -v b="${tcg:-0}" 'BEGIN { if (b > 0) printf "%.2f", a / b; else print "-" }')
    printf '%-10s %10s %10s %18s %16s\n' "$e" "$seconds" "$ratio" "${insns:--}" "$rss"
done
echo '(1) beyond guest memory, at that point'

# pogo's own start: the same kernel with its 64-bit entry overwritten by mov al, '!'; out 0xe9, al; hlt; jmp to the hlt. From before
# the exec until the character is here, which it is a millisecond after the guest has sent it.
cp "$kernel" "$out/start"
setup=$((($(od -An -t u1 -j 497 -N 1 "$kernel") + 1) * 512))
printf '\xb0!\xe6\xe9\xf4\xeb\xfd' | dd of="$out/start" bs=1 seek=$((setup + 0x200)) conv=notrunc status=none
mkfifo "$out/pipe"
exec {fd}<>"$out/pipe"
for ((i = 0; i < 15; i++)); do
    for e in $engines; do
        start=$EPOCHREALTIME
        "$B/pogo" run -accel "$e" -kernel "$out/start" -initrd "$out/initrd" -m 512 -serial none -monitor none -debugcon stdio \
            >"$out/pipe" 2>/dev/null </dev/null &
        child=$!
        read -rN1 -t 10 _ <&$fd
        awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f\n", (b - a) * 1000 }' >>"$out/$e.start"
        kill $child
        wait $child || true
        child=
    done
done
for e in $engines; do
    case $e in
    interp) goal=' (goal: 16)' ;;
    bt) goal=", beyond that and the code cache: $(rss bt 2) MB (goal: 48)" ;;
    *) goal= ;;
    esac
    echo "$e: from exec to the guest's first instruction, with kernel, initrd and -m 512: $(median <"$out/$e.start") ms (goal: 20)," \
        "resident memory beyond the guest's: $(rss "$e" 1) MB$goal"
done
