#!/bin/bash
# Have the ACPI tables judged: every one must disassemble without complaint, and the DSDT's source compile again to the same
# byte code. Usage: tests/board/acpi.sh BUILD_DIR
set -eu
program=$1/tests/board/test_acpi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
bad=0
complain() {
    echo "acpi: $1" >&2
    bad=1
}

"$program" dump "$dir"
cd "$dir"
for table in *.dat; do
    name=${table%.dat}
    iasl -d "$table" >"$name.log" 2>&1 || complain "$name: iasl -d failed"
    [ -s "$name.dsl" ] || complain "$name: nothing came out"
    # Besides the tool's messages: what it writes into the source about fields that it finds wrong.
    if grep -iE 'error|warning|invalid|incorrect|unknown' "$name.log" "$name.dsl" | grep -v 'Compiler.*Warnings' >"$name.bad"; then
        complain "$name: $(head -3 "$name.bad")"
    fi
done
for source in DSDT*.dsl; do
    name=${source%.dsl}
    mkdir -p again
    iasl -oa -p "again/$name" "$source" >"$name.log" 2>&1 || complain "$name: does not compile: $(grep -A2 -i error "$name.log" | head -6)"
    # Remarks are about style that decompiled code has.
    grep -q '0 Errors, 0 Warnings' "$name.log" || complain "$name: $(grep -iE -A2 'warning|error' "$name.log" | head -9)"
    # From the header's end on: the compiler puts its own name there.
    cmp <(tail -c +37 "$name.dat") <(tail -c +37 "again/$name.aml") || complain "$name: other byte code"
done
[ $bad = 0 ] && echo "acpi: $(ls ./*.dat | wc -l) tables are well-formed"
exit $bad
