#!/bin/bash
# Run one libFuzzer program for a while. Usage: tests/fuzz/run.sh PROGRAM SECONDS [SEED_FILE...]
# The corpus grows in PROGRAM.corpus; a finding is kept beside it and makes this fail.
set -eu
program=$1 seconds=$2
shift 2
corpus=$program.corpus
mkdir -p "$corpus"
max_len=65536
case $program in
*/fuzz_decode) max_len=64 ;; # instructions, not images
*/fuzz_devices | */fuzz_pci | */fuzz_fw_cfg | */fuzz_memory | */fuzz_gdb | */fuzz_options) max_len=4096 ;;
*/fuzz_interp) max_len=512 ;;
*)
    for seed in "$@"; do
        cp -f "$seed" "$corpus/seed-$(basename "$seed")"
    done
    ;;
esac
log=$program.log
if "$program" -max_total_time="$seconds" -max_len=$max_len -rss_limit_mb=4096 -timeout=10 -print_final_stats=1 \
    -artifact_prefix="$program.found-" "$corpus" >"$log" 2>&1; then
    runs=$(sed -n 's/stat::number_of_executed_units: *//p' "$log")
    echo "$(basename "$program"): $runs inputs in $seconds s, nothing found"
else
    tail -n 40 "$log"
    echo "$(basename "$program"): found something; input in $program.found-*"
    exit 1
fi
