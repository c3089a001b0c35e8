#!/bin/bash
# What a guest's kernel complains about in pogo and not in QEMU. Usage: tests/linux/transcript.sh POGO ENGINE [ROW...]
# Boots each row of guests.list in both, and compares the lines that sound like trouble, numbers aside. What QEMU's guest said is kept
# for a day in build/guest/transcript/.
set -u
cd "$(dirname "$0")/../.." || exit 1
pogo=$1 engine=$2
shift 2
[ $# -gt 0 ] || set -- cloud long-smp4 long-full long-pvh long-pae
export LOGS=build/guest/transcript
mkdir -p $LOGS
command -v qemu-system-x86_64 >/dev/null || {
    echo 'skipped: qemu-system-x86_64 is not here'
    exit 77
}
trouble='warn|bug:|error|fail|unchecked|lost|firmware bug|bios bug|invalid|unable|not found|spurious|unexpected|cannot|can.t|unstable|taint|stall|nobody cared|hung'
passed=0 failed=0

complaints() { # log
    sed 's/^[0-9.]* //; s/^\[ *[0-9.]*\] //' "$1" | grep -av 'ommand line: ' | grep -aiE "$trouble" |
        sed 's/0x[0-9a-f]*/X/g; s/[0-9][0-9]*/N/g' | sort -u
}

# Run the row into its log; the status of a row that cannot be run ends the test.
boot() { # row monitor engine
    local status set
    set=$([[ $1 == long-* ]] && echo long || echo check)
    tests/linux/run.sh "$2" "$3" $set "$1\$" >/dev/null 2>&1
    status=$?
    [ $status -ne 77 ] || exit 77
    [ $status -eq 0 ] || echo "note: $1 does not pass on ${2##*/}"
}

qemu_is_done() { [ -n "$(find "$LOGS/$1.tcg" -mmin -1440 -size +8k 2>/dev/null)" ]; }

for row; do
    # Tests of other engines may want the same.
    exec 9>$LOGS/lock
    flock 9
    qemu_is_done "$row" || boot "$row" qemu tcg
    exec 9>&-
    boot "$row" "$pogo" "$engine"
    only=$(comm -13 <(complaints "$LOGS/$row.tcg") <(complaints "$LOGS/$row.$engine"))
    if [ -s "$LOGS/$row.$engine" ] && [ -z "$only" ]; then
        passed=$((passed + 1))
        echo "ok   $row: $(complaints "$LOGS/$row.$engine" | wc -l) complaints, all of which QEMU's guest has too"
    else
        failed=$((failed + 1))
        echo "FAIL $row: only in pogo:"
        sed 's/^/     /' <<<"$only"
    fi
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
