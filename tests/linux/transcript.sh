#!/bin/bash
# What a guest's kernel complains about in pogo and not in QEMU. Usage: tests/linux/transcript.sh POGO ENGINE [ROW...]
# Boots each row of guests.list (default cloud) in both, and compares the lines that sound like trouble, numbers aside.
set -u
cd "$(dirname "$0")/../.." || exit 1
pogo=$1 engine=$2
shift 2
[ $# -gt 0 ] || set -- cloud
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

for row; do
    set=$([[ $row == long-* ]] && echo long || echo check)
    for m in "qemu tcg" "$pogo $engine"; do
        # shellcheck disable=SC2086
        tests/linux/run.sh $m $set "$row" >/dev/null 2>&1
        status=$?
        [ $status -ne 77 ] || exit 77
        [ $status -eq 0 ] || echo "note: $row does not pass on ${m%% *}"
    done
    only=$(comm -13 <(complaints "build/guest/log/$row.tcg") <(complaints "build/guest/log/$row.$engine"))
    if [ -s "build/guest/log/$row.$engine" ] && [ -z "$only" ]; then
        passed=$((passed + 1))
        echo "ok   $row: $(complaints "build/guest/log/$row.$engine" | wc -l) complaints, all of which QEMU's guest has too"
    else
        failed=$((failed + 1))
        echo "FAIL $row: only in pogo:"
        sed 's/^/     /' <<<"$only"
    fi
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
