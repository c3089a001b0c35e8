#!/bin/bash
# The core benchmark: the software engines against the same loads run natively and, where it is installed, in QEMU's TCG; runs
# interleaved, medians, ratios from the same run. Usage: bench/core.sh BUILD_DIR
#
#   ENGINES="interp cache"   engines to run      ROUNDS=5   runs of each
#
# Goals: the interpreter at least 20 million instructions per second on both loads, the cache engine at least 120 million and five
# times the interpreter on `int`; a TLB miss with a 4-level walk under 150 ns, the decoder at least 15 million instructions per second.
set -eu
cd "$(dirname "$0")/.."
B=$1 rounds=${ROUNDS:-5} engines=${ENGINES:-interp cache}
image=build/guests/bench64.elf
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
guest_args=(-kernel "$image" -m 32 -display none -serial stdio -device isa-debug-exit,iobase=0xf4,iosize=4)

tcg=
command -v qemu-system-x86_64 >/dev/null && tcg=1

for ((i = 0; i < rounds; i++)); do
    "$B/bench/native" >>"$out/native"
    for e in $engines; do
        "$B/pogo" run -accel "$e" "${guest_args[@]}" >>"$out/$e" 2>/dev/null </dev/null || [ $? -eq 1 ]
        "$B/bench/mips" "$e" "$image" >>"$out/mips.$e"
    done
    if [ -n "$tcg" ]; then
        qemu-system-x86_64 -accel tcg -cpu max "${guest_args[@]}" >>"$out/tcg" </dev/null || [ $? -eq 1 ]
    fi
done

median() { sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
cycles() { awk -v n="$2" '$1 == "cycles" && $2 == n { print $3 }' "$out/$1" | median; }

mips() { awk -v n="$2" '$1 == "mips" && $2 == n { print $3 }' "$out/mips.$1" | median; }
over() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }

printf '%-6s %-8s %14s %14s %14s %14s\n' load engine 'MIPS' 'to native' 'to tcg' 'MIPS to interp'
for load in int mix jit; do
    native=$(cycles native $load)
    for e in $engines ${tcg:+tcg}; do
        own=- faster=- totcg=-
        if [ "$e" != tcg ]; then
            own=$(mips "$e" $load)
            [[ " $engines " != *" interp "* ]] || faster=$(over "$own" "$(mips interp $load)")
        fi
        [ -z "$tcg" ] || totcg=$(over "$(cycles "$e" $load)" "$(cycles tcg $load)")
        printf '%-6s %-8s %14s %14s %14s %14s\n' $load "$e" "$own" "$(over "$(cycles "$e" $load)" "$native")" "$totcg" "$faster"
    done
done
echo 'to native, to tcg: time it takes, in multiples of theirs'
grep -h '^allocations' "$out"/mips.* | sort -u
"$B/bench/tlb"
"$B/bench/decode"
