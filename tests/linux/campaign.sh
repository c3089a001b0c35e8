#!/bin/bash
# Linux guests again and again, with what an engine may choose for itself drawn at random. Usage: tests/linux/campaign.sh POGO ENGINE [ROUNDS]
#
#   SEED=N   (environment) repeat the draws of that seed; otherwise it is drawn, too. Every round says what it has drawn
#
# Ends with "N passed, N failed".
set -u
cd "$(dirname "$0")/../.." || exit 1
pogo=$1 engine=$2 rounds=${3:-12}
seed=${SEED:-$(($(date +%N | sed 's/^0*//') % 1000000))}
echo "SEED=$seed"
RANDOM=$seed
rows=(trial userland 'cloud$' trial)
optimisations=()
[ "$engine" != bt ] || mapfile -t optimisations < <(sed -n 's/^BT_OPT([^"]*"\([^"]*\)".*/\1/p' src/engine/bt/opts.def)
passed=0 failed=0
# Blocks of one instruction, forgotten all the time, take long.
export SLOW=$((${SLOW:-1} * 4))

# Sets `what`: the engine with its properties. Often so little memory that code is forgotten all the time.
draw() {
    what=$engine
    [ "$engine" != interp ] || return
    case $((RANDOM % 3)) in
    0) what=$what,tb-size=1 ;;
    1) what=$what,tb-size=$((RANDOM % 8 + 1)) ;;
    esac
    [ "$engine" = bt ] || return
    [ $((RANDOM % 2)) -ne 0 ] || what=$what,tb-insns=$((RANDOM % 2 ? RANDOM % 6 + 1 : RANDOM % 64 + 1))
    local opt
    for opt in "${optimisations[@]}"; do
        [ $((RANDOM % 4)) -ne 0 ] || what=$what,opt-$opt=off
    done
}

for ((i = 0; i < rounds; i++)); do
    draw
    row=${rows[RANDOM % ${#rows[@]}]}
    echo "round $i: $what $row"
    if output=$(tests/linux/run.sh "$pogo" "$what" check "$row" 2>&1); then
        passed=$((passed + 1))
    elif [ $? -eq 77 ]; then
        tail -n 1 <<<"$output"
        exit 77
    else
        failed=$((failed + 1))
        echo "$output"
    fi
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
