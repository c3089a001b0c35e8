# The guest's clocks against the host's: the runner knows when each line came. "clock UPTIME DATE".
. /tests/lib.sh

for i in 1 2 3 4; do
    [ $i -eq 1 ] || sleep 2
    echo "clock $(cut -d ' ' -f 1 /proc/uptime) $(date +%s)"
done
source=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
case $source in
tsc | kvm-clock) ok "clock source $source" ;;
*) not_ok "clock source" "$source" ;;
esac
[ $failed -eq 0 ]
