#!/bin/bash
# The core benchmark: the interpreter against the same loads run natively and, where it is installed, in QEMU's TCG; runs
# interleaved, medians, ratios from the same run. Usage: bench/core.sh BUILD_DIR
#
# Goals: interpreter at least 20 million instructions per second on both loads, a TLB miss with a 4-level walk under 150 ns, the
# decoder at least 15 million instructions per second.
set -eu
cd "$(dirname "$0")/.."
B=$1 rounds=${ROUNDS:-5}
image=build/guests/bench64.elf
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
guest_args=(-kernel "$image" -m 32 -display none -serial stdio -device isa-debug-exit,iobase=0xf4,iosize=4)

for ((i = 0; i < rounds; i++)); do
    "$B/bench/native" >>"$out/native"
    "$B/pogo" run -accel interp "${guest_args[@]}" >>"$out/interp" </dev/null || [ $? -eq 1 ]
    "$B/bench/mips" interp "$image" >>"$out/mips"
    if command -v qemu-system-x86_64 >/dev/null; then
        qemu-system-x86_64 -accel tcg -cpu max "${guest_args[@]}" >>"$out/tcg" </dev/null || [ $? -eq 1 ]
    fi
done

median() { sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
cycles() { awk -v n="$2" '$1 == "cycles" && $2 == n { print $3 }' "$out/$1" | median; }

printf '%-6s %14s %14s %14s\n' load 'interp MIPS' 'interp:native' 'tcg:native'
for load in int mix jit; do
    native=$(cycles native $load)
    mips=$(awk -v n=$load '$1 == "mips" && $2 == n { print $3 }' "$out/mips" | median)
    tcg=-
    [ -s "$out/tcg" ] && tcg=$(awk -v a="$(cycles tcg $load)" -v b="$native" 'BEGIN { printf "%.2f", a / b }')
    ratio=$(awk -v a="$(cycles interp $load)" -v b="$native" 'BEGIN { printf "%.1f", a / b }')
    printf '%-6s %14s %14s %14s\n' $load "$mips" "$ratio" "$tcg"
done
grep -h '^allocations' "$out/mips" | sort -u
"$B/bench/tlb"
"$B/bench/decode"
