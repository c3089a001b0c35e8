#!/bin/bash
# Run the test programs that tests/suite lists. Usage: tests/run.sh BUILD_DIR MODE SET [NAME...]
#
#   SET  check (rows marked all, or marked with MODE) or long (rows marked long)
#   NAME only rows whose name starts with it
#   ENGINE (environment) engines for rows that are run for every engine, instead of all that the program has
#
# One line per test; the output of a failed one follows its line. A program tells how many cases it ran by a line
# "N passed, N failed", by cmocka's summary or by TAP lines; one that tells nothing counts as one case. Exit status 77 means
# skipped, and the last line of the output says why. Ends with "N passed, N failed"; nonzero when something failed.
set -u
cd "$(dirname "$0")/.." || exit 1
export B=$1 MODE=$2
set_name=$3
shift 3
jobs=${JOBS:-$(nproc)}
out=$(mktemp -d "${TMPDIR:-/tmp}/pogo-check.XXXXXX") || exit 1
trap 'rm -rf "$out"' EXIT
trap 'kill $(jobs -p) 2>/dev/null; exit 130' INT TERM

wanted() { # when name
    case $set_name:$1 in
    check:all | check:"$MODE" | long:long) ;;
    *) return 1 ;;
    esac
    [ ${#names[@]} -eq 0 ] && return 0
    local n
    for n in "${names[@]}"; do
        case $2 in "$n"*) return 0 ;; esac
    done
    return 1
}

# Print "passed failed skipped" counted from the output of one program.
totals() { # file status
    awk -v status="$2" '
        /^[0-9]+ passed, [0-9]+ failed/ { p = $1; f = $3; own = 1 }
        /^\[  PASSED  \] [0-9]+ test/ { cp += $4; cm = 1 }
        /^\[  FAILED  \] [0-9]+ test/ { cf += $4; cm = 1 }
        /^\[  SKIPPED \] [0-9]+ test/ { cs += $4; cm = 1 }
        /^ok / { if (/# *[Ss][Kk][Ii][Pp]/) ts++; else tp++; tap = 1 }
        /^not ok / { tf++; tap = 1 }
        END {
            if (own) { s = 0 } else if (cm) { p = cp; f = cf; s = cs } else if (tap) { p = tp; f = tf; s = ts }
            else { p = status == 0; f = 0 }
            if (status != 0 && f + 0 == 0) f = 1
            print p + 0, f + 0, s + 0
        }' "$1"
}

run_one() { # number name seconds command
    local start=$EPOCHREALTIME status
    timeout --kill-after=5 "$3" bash -c "$4" >"$out/$1.log" 2>&1 </dev/null
    status=$?
    local ms=$(((${EPOCHREALTIME/./} - ${start/./}) / 1000))
    local p=0 f=0 s=0 verdict
    if [ $status -eq 77 ]; then
        s=1
        verdict="skipped: $(tail -n 1 "$out/$1.log" | sed 's/^skipped: *//')"
    else
        read -r p f s < <(totals "$out/$1.log" $status)
        verdict="$p passed, $f failed"
        [ "$s" -gt 0 ] && verdict="$verdict, $s skipped"
        [ $status -eq 124 ] || [ $status -eq 137 ] && verdict="$verdict (stopped after $3 s)"
    fi
    {
        printf '%-28s %5d.%01ds  %s\n' "$2" $((ms / 1000)) $((ms % 1000 / 100)) "$verdict"
        [ "$f" -gt 0 ] && { tail -n 60 "$out/$1.log" | sed 's/^/    /'; echo "    exit status $status: $4"; }
    } >"$out/$1.text"
    cat "$out/$1.text"
    # Names of what was left out inside a program that ran.
    [ $status -ne 77 ] && grep -E '^(SKIP|skipped)[: ]|^\[  SKIPPED \] [^0-9]|^ok .*# *skip' "$out/$1.log" | sort -u | sed 's/^/    /'
    echo "$p $f $s" >"$out/$1.count"
}

start_row() { # name when seconds command
    wanted "$2" "$1" || return
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    n=$((n + 1))
    run_one $n "$1" "$3" "$4" &
}

names=("$@")
engines=${ENGINE:-$("$B/pogo" run -accel help | awk '$2 == "works" { print $1 }')}
n=0
while read -r name when seconds command; do
    case $name in
    '' | '#'*) ;;
    *@*) for engine in ${engines//,/ }; do start_row "${name//@/$engine}" "$when" "$seconds" "${command//@/$engine}"; done ;;
    *) start_row "$name" "$when" "$seconds" "$command" ;;
    esac
done <tests/suite
wait

cat "$out"/*.count 2>/dev/null | awk -v n=$n '
    { p += $1; f += $2; s += $3 }
    END {
        if (NR < n) f += n - NR
        if (s) printf "%d skipped\n", s
        printf "%d passed, %d failed\n", p, f
        exit f > 0 || n == 0
    }'
