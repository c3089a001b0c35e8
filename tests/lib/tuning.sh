#!/bin/bash
# An engine with tuning chosen at random, as for -accel: a small code cache, short blocks, optimisations switched off. Usage:
# tests/lib/tuning.sh POGO ENGINE SEED
set -u
pogo=$1 engine=$2
RANDOM=$3
text=$engine
sizes=(1 1 1 2 4 16)
[ $((RANDOM % 4)) -eq 0 ] || text+=,tb-size=${sizes[RANDOM % ${#sizes[@]}]}
[ "$engine" = interp ] && echo interp && exit
case $((RANDOM % 4)) in
0) ;;
1) text+=,tb-insns=$((1 + RANDOM % 64)) ;;
*) text+=,tb-insns=$((1 + RANDOM % 6)) ;;
esac
# All, none, or each with even chances.
how=$((RANDOM % 4))
for opt in $("$pogo" run -accel help | awk -v engine="$engine" '$1 !~ /^opt-/ { here = $1 == engine } here && $1 ~ /^opt-/ { print $1 }'); do
    case $how in
    0) ;;
    1) text+=,$opt=off ;;
    *) [ $((RANDOM % 2)) -eq 0 ] && text+=,$opt=off ;;
    esac
done
echo "$text"
