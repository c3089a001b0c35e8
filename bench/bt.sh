#!/bin/bash
# Where the time goes: the same programs natively, in QEMU's TCG and in pogo, and the same single operations; interleaved, medians,
# ratios from the same run.
#
#   bench/bt.sh BUILD_DIR                           everything: tables, and the same in build/bench-bt.md, .json and .raw
#   bench/bt.sh BUILD_DIR load NAME[,NAME] ENGINE   only these loads, only in pogo: seconds, and the guest's console
#   bench/bt.sh BUILD_DIR nano ENGINE               only the single operations, only in pogo
#   bench/bt.sh BUILD_DIR opts [NAME[,NAME]]        what each of the translator's optimisations is worth: without it, with it, in turn
#   bench/bt.sh BUILD_DIR publish                   put build/bench-bt.md into docs/PERFORMANCE.md
#
#   ENGINES="..."    pogo's engines (default: all that work here but the interpreter)
#   ROUNDS=3         runs of each                 LOADS="..."   some of bench/loads.list (default: all)
#   PARTS="..."      nano, load (default: both)   TIMES=1       a load is run so often in each boot
#   PEERS="..."      native, tcg (default: both)  OPTIONS="..." more options for `pogo run`
#   CLOCK=wall       cpu: processor time of the monitor, or natively of the programs, which suffers less where others use the machine
#   KERNEL=PACKAGE   the guest's kernel (default: linux-image-cloud-amd64)
#
# Single operations are cycles of the time-stamp counter, measured by a small guest (guests/nano64.c). Programs are timed by the host's
# clock, from one line on the guest's console to the next, so that the guest's clock cannot flatter; natively they are the same files in
# a chroot, run by the same script, on one processor. What a load prints must be the same everywhere.
set -eu
cd "$(dirname "$0")/.."
B=$1 mode=${2:-all}
rounds=${ROUNDS:-3} times=${TIMES:-1} parts=${PARTS:-nano load} peers=${PEERS-native tcg}
engines=${ENGINES-$("$B/pogo" run -accel help | awk '/works here$/ && $1 != "interp" { print $1 }')}
loads=${LOADS:-$(awk '/^[a-z]/ { print $1 }' bench/loads.list)}
loads=$(echo "$loads" | tr -s ' \n' ',' | sed 's/^,//; s/,$//')
read -ra options <<<"${OPTIONS:-}"
clock=${CLOCK:-wall}
limit=1200 # seconds for one guest
raw=build/bench-bt.raw logs=build/guest/log
work=$(mktemp -d)
trap '[ -z "${child:-}" ] || kill "$child" 2>/dev/null; rm -rf "$work"' EXIT
mkdir -p "$logs"

say() { echo "bench: $*" >&2; }
note() { echo "$*" >>"$raw"; }

machine() {
    local cpu qemu=
    cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
    ! command -v qemu-system-x86_64 >/dev/null || qemu=", QEMU $(qemu-system-x86_64 --version | sed -n '1s/.*version \([0-9.]*\).*/\1/p')"
    echo "$cpu, $(nproc) processors, Linux $(uname -r)$qemu; $rounds rounds, $(date -u +%Y-%m-%d), load at the start $(cut -d ' ' -f 1 /proc/loadavg)"
}

monitor() { # env; sets `command`
    if [ "$1" = tcg ]; then
        command=(qemu-system-x86_64 -accel tcg -cpu max)
    else
        command=("$B/pogo" run -accel "$1" "${options[@]}")
    fi
    command+=(-display none -serial stdio -no-reboot)
}

# --- single operations ----------------------------------------------------------------------------------------------------------

nano_once() { # env
    local log=$logs/bench-nano.$1
    if [ "$1" = native ]; then
        "$B/bench/nano" >"$log" || note "failed $1 nano"
    else
        monitor "$1"
        timeout $limit "${command[@]}" -kernel build/guests/nano64.elf -m 32 -device isa-debug-exit,iobase=0xf4,iosize=4 \
            >"$log" 2>"$log.err" </dev/null || [ $? -eq 1 ] || note "failed $1 nano: exit status $?, see $log"
    fi
    awk -v env="$1" '$1 == "nano" { print "nano", $2, env, $3, $4, $5 }' "$log" >>"$raw"
}

# --- programs ----------------------------------------------------------------------------------------------------------------------

# Stamp the lines of standard input up to the last mark, with the time and with what processor time the monitor has used: it and all
# processes that it has waited for. Nothing else: a line that has to wait for its stamp falsifies two times.
stamp() { # stamped console
    local line pid='' text stat=()
    while IFS= read -r line; do
        line=${line%$'\r'}
        # Behind the name in parentheses: the state is field 3, the times are fields 14 to 17.
        { [ -n "$pid" ] || read -r pid <"/proc/$child/task/$child/children"; } 2>/dev/null || true
        { read -r text <"/proc/${pid:-none}/stat" && read -ra stat <<<"${text##*) }"; } 2>/dev/null || true
        printf '%s %s %s\n' "$EPOCHREALTIME" $((stat[11] + stat[12] + stat[13] + stat[14])) "$line" >&4
        printf '%s\n' "$line" >&3
        [ "$line" != '@ done' ] || return 0
    done 4>"$1" 3>"$2"
}

# What the stamped lines tell, for the file of measurements.
evaluate() { # env start
    awk -v env="$1" -v since="$2" -v log_file="$logs/bench.$1" -v ticks="$(getconf CLK_TCK)" '
        FILENAME != ARGV[2] { if (/^[a-z]/) group[$1] = $2; next }
        $3 == "==" && $4 == "/bench/run.sh" { printf "load boot boot %s %.4f %.2f\n", env, $1 - since, $2 / ticks }
        $3 != "@" { next }
        $4 == "begin" { begin = $1; used = $2 }
        $4 == "end" {
            printf "load %s %s %s %.4f %.2f\n", group[$5], $5, env, $1 - begin, ($2 - used) / ticks
            if ($6 != 0)
                printf "failed %s %s: exit status %s, see %s\n", env, $5, $6, log_file
        }
        $4 == "sum" { print "sum", $5, env, $6 }
        $4 == "done" { done = 1 }
        END { if (!done) printf "failed %s: the guest did not come to the end, see %s\n", env, log_file }' \
        bench/loads.list "$work/stamped" >>"$raw"
}

group_of() { awk -v name="$1" '$1 == name { print $2 }' bench/loads.list; }

loads_once() { # env
    local fd
    if [ "$1" = native ]; then
        # On one processor, as the guest has one. Natively a load is quick: more of it.
        command=(taskset -c "$(sed -n 's/^Cpus_allowed_list:.*[^0-9]//p' /proc/self/status)" chroot "$root" /bin/sh /bench/run.sh "$loads" $((times * 3)))
        [ "$(id -u)" -eq 0 ] || command=(unshare -r -- "${command[@]}")
    else
        monitor "$1"
        command+=(-kernel "$kernel" -initrd "$initrd" -m 512
            -append "console=ttyS0 panic=-1 pogo.run=/bench/run.sh bench.loads=$loads bench.times=$times")
    fi
    rm -f "$work/stamped"
    mkfifo "$work/pipe"
    start=$EPOCHREALTIME
    timeout $limit "${command[@]}" >"$work/pipe" 2>"$logs/bench.$1.err" </dev/null &
    child=$!
    exec {fd}<"$work/pipe"
    stamp "$work/stamped" "${console:-$logs/bench.$1}" <&$fd
    cat <&$fd >/dev/null # what it says while it switches itself off
    wait $child || note "failed $1: exit status $?, see $logs/bench.$1.err"
    child=
    exec {fd}<&-
    rm "$work/pipe"
    evaluate "$1" "$start"
}

prepare_loads() {
    local name
    for name in ${loads//,/ }; do
        [ -n "$(group_of "$name")" ] || { say "no load is called $name; bench/loads.list has them" && exit 2; }
    done
    make -s --no-print-directory build/guests/loads
    tools/guest/bench.sh build/guests/loads >"$work/files"
    { read -r kernel && read -r initrd && read -r root; } <"$work/files"
}

# --- whole runs ----------------------------------------------------------------------------------------------------------------------

environments() {
    local peer
    for peer in $peers; do
        [ "$peer" != tcg ] || command -v qemu-system-x86_64 >/dev/null || continue
        echo "$peer"
    done
    echo "$engines"
}

report() {
    local status=0
    awk -v clock="$clock" -v json=build/bench-bt.json -f bench/report.awk bench/bt.goals "$raw" >build/bench-bt.md || status=$?
    cat build/bench-bt.md
    return $status
}

everything() {
    local i env started start
    : >"$raw"
    note "machine $(machine)"
    [[ " $parts " != *" load "* ]] || prepare_loads
    # What was measured until then is kept.
    trap '[ -z "${child:-}" ] || [ ! -s "$work/stamped" ] || evaluate "$env" "$start"; report || true; exit 130' INT TERM
    for ((i = 1; i <= rounds; i++)); do
        for env in $(environments); do
            started=$SECONDS
            [[ " $parts " != *" nano "* ]] || nano_once "$env"
            [[ " $parts " != *" load "* ]] || loads_once "$env"
            say "round $i of $rounds: $env took $((SECONDS - started)) s"
        done
    done
    report
}

# For somebody who changes an engine: the console as it comes, then the seconds.
some_loads() { # names engine
    local last=/dev/null
    [ ! -e "$raw" ] || last=$raw
    loads=$1 raw=$work/raw console=/dev/stdout
    : >"$raw"
    prepare_loads
    loads_once "$2"
    echo
    # Beside the quickest runs of the last whole one, if there was one.
    awk -v column="$([ "$clock" = cpu ] && echo 6 || echo 5)" '
        function least(name, env) { return ((name, env) in last) ? sprintf("%9.3f", last[name, env]) : "        -" }
        $1 == "failed" && FILENAME != ARGV[1] { print; bad = 1 }
        $1 != "load" { next }
        FILENAME == ARGV[1] { if (!(($3, $4) in last) || $column + 0 < last[$3, $4]) last[$3, $4] = $column + 0; next }
        !shown++ { printf "%-12s %9s %9s   last whole run: %9s %9s %9s\n", "load", "seconds", "cpu", "native", "tcg", $4 }
        { printf "%-12s %9.3f %9.2f                   %s %s %s\n", $3, $5, $6, least($3, "native"), least($3, "tcg"), least($3, $4) }
        END { exit bad }' "$last" "$raw" || { cat "$logs/bench.$2.err" && exit 1; }
}

# Processor time (CLOCK) of each load without an optimisation as a multiple of that with all of them: the quickest of the rounds.
all_opts() { # names
    local names=${1:-$(sed -n 's/^BT_OPT([^"]*"\([^"]*\)".*/\1/p' src/engine/bt/opts.def)} name i
    clock=${CLOCK:-cpu} raw=$work/raw
    : >"$raw"
    prepare_loads
    for ((i = 1; i <= rounds; i++)); do
        for name in all ${names//,/ }; do
            loads_once "bt$([ "$name" = all ] || echo ",opt-$name=off")"
        done
        say "round $i of $rounds"
    done
    awk -v column="$([ "$clock" = cpu ] && echo 6 || echo 5)" '
        $1 == "failed" { print; bad = 1 }
        $1 != "load" { next }
        !($3 in known) { known[$3]; load[++loads] = $3 }
        !($4 in seen) { seen[$4]; env[++envs] = $4 }
        !(($3, $4) in least) || $column + 0 < least[$3, $4] { least[$3, $4] = $column + 0 }
        END {
            printf "%-10s", "without"
            for (l = 1; l <= loads; l++) printf " %10s", load[l]
            printf " %10s\n", "mean"
            for (e = 2; e <= envs; e++) {
                name = env[e]; sub(/.*opt-/, "", name); sub(/=off/, "", name)
                printf "%-10s", name
                sum = n = 0
                for (l = 1; l <= loads; l++) {
                    a = least[load[l], env[1]]; b = least[load[l], env[e]]
                    if (a > 0 && b > 0) { printf " %10.2f", b / a; sum += log(b / a); n++ } else printf " %10s", "-"
                }
                printf " %10s\n", n ? sprintf("%.3f", exp(sum / n)) : "-"
            }
            exit bad
        }' "$raw"
}

publish() {
    local page=docs/PERFORMANCE.md
    awk -v tables=build/bench-bt.md '
        /^<!-- end of tables -->/ { skip = 0 }
        !skip { print }
        /^<!-- tables of make bench-bt -->/ { print ""; while ((getline line < tables) > 0) print line; skip = 1 }' $page >"$work/page"
    cp "$work/page" $page
}

case $mode in
all) everything ;;
load) some_loads "$3" "${4:-${engines%%[ $'\n']*}}" ;;
nano)
    make -s --no-print-directory build/guests/nano64.elf
    raw=$work/raw
    nano_once "${3:-${engines%%[ $'\n']*}}"
    awk '{ printf "%-22s %10s %10s %10s\n", $2, $4, $5, $6 } /^failed/ { bad = 1 } END { exit bad }' "$raw"
    ;;
opts) all_opts "${3:-}" ;;
publish) publish ;;
*)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
    ;;
esac
