#!/bin/bash
# Compare the translator's code for the snippets with what is committed in golden/. Usage: tests/bt/golden.sh BUILD_DIR [rebase]
#
#   rebase   write golden/ anew instead, and say what has changed; `make golden` does this. Where golden files conflict in a merge, take either
#            side and run that.
set -u
cd "$(dirname "$0")/../.." || exit 1
golden=tests/bt/golden
work=$(mktemp -d "${TMPDIR:-/tmp}/pogo-golden.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
"$1/tests/bt/golden" "$work" || exit 1

# Bytes of host code, of all blocks with their tails.
total() { # directory
    cat "$1"/*.txt 2>/dev/null | awk '/^block/ { n += $8; b += $10; t += $15 } END { printf "%d host instructions, %d bytes; %d bytes in tails", n, b, t }'
}

if [ "${2:-}" = rebase ]; then
    echo "before: $(total "$golden")"
    rm -f "$golden"/*.txt
    mkdir -p "$golden"
    cp "$work"/*.txt "$golden"/
    echo "now:    $(total "$golden")"
    git --no-pager diff --stat -- "$golden" 2>/dev/null
    exit 0
fi
passed=0 failed=0
for name in $(cat <(ls "$golden") <(ls "$work") | sort -u); do
    if diff -U 3 -F '^===' "$golden/$name" "$work/$name" >"$work/diff" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL ${name%.txt}: the code has changed; when that is meant: make golden"
        head -n 80 "$work/diff" | sed 's/^/     /'
    fi
done
echo "committed: $(total "$golden"); now: $(total "$work")"
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
