#!/bin/sh
# Run loads of /bench/loads.list, in the guest or in the same tree natively. Usage: run.sh [NAME[,NAME...] [TIMES]]
#
# Without arguments the kernel's command line tells: bench.loads=NAME,... bench.times=N. Whoever reads the output has the clock: a line
# before each load and a line behind it. Then a sum of what it printed, which must be the same everywhere.
loads=${1:-$(sed -n 's/.*\<bench\.loads=\([^ ]*\).*/\1/p' /proc/cmdline)}
times=${2:-$(sed -n 's/.*\<bench\.times=\([^ ]*\).*/\1/p' /proc/cmdline)}
export PATH=/usr/bin:/bin
# Nothing of the kernel's in between.
[ ! -e /proc/sys/kernel/printk ] || echo 1 >/proc/sys/kernel/printk
[ -e /bench/zero ] || truncate -s 48M /bench/zero

while read -r name _ command; do
    case ,$loads, in *",$name,"*) ;; *) continue ;; esac
    for _ in $(seq "${times:-1}"); do
        echo "@ begin $name"
        eval "$command" >/tmp/out 2>/tmp/errors
        status=$?
        echo "@ end $name $status"
        echo "@ sum $name $(md5sum </tmp/out | cut -c 1-8)"
        [ $status -eq 0 ] || head -n 5 /tmp/errors
    done
done </bench/loads.list
echo "@ done"
