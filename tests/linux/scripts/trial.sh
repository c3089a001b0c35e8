. /tests/lib.sh

# Programs at their most awkward, of both widths where the kernel has both; see tests/linux/trial/main.c. pogo.ms: how long each trial goes on.
ms=$(told ms) bad=0
case $(uname -m) in
x86_64) /tests/trial64 "${ms:-100}" || bad=1 ;;
esac
/tests/trial32 "${ms:-100}" || bad=1
bad_lines=$(dmesg | grep -iE 'WARNING:|BUG:|oops|call trace|stall|hung task' | head -n 3)
same 'complaints of the kernel' "$bad_lines" ''
[ $bad -eq 0 ] && [ $failed -eq 0 ]
