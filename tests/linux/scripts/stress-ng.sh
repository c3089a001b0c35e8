# stress-ng's stressors that check their own results; tests/linux/programs.sh brings it. pogo.seconds: how long each goes on.
. /tests/lib.sh

export PATH=/bin:/usr/bin LC_ALL=C HOME=/tmp
seconds=$(told seconds)
# Exit status 3 or 4: there is nothing to do it with here.
stressor() { # name seconds option...
    local name=$1 time=$2 status
    shift 2
    /usr/bin/stress-ng --temp-path /tmp --seed 1 --verify --oomable --timeout "$time" "$@" >/tmp/out 2>&1
    status=$?
    if grep -q 'fail: ' /tmp/out; then
        not_ok "$name" "$(grep -m 3 'fail: ' /tmp/out | tr '\n' ' ')"
    else
        case $status in
        0 | 3 | 4) ok "$name" ;;
        *) not_ok "$name" "exit status $status $(tail -n 3 /tmp/out | tr '\n' ' ')" ;;
        esac
    fi
}

s=${seconds:-1}
stressor 'all of cpu' $((s * 20)) --cpu 1 --cpu-method all
stressor 'all of vm' $((s * 20)) --vm 1 --vm-bytes 24m --vm-method all
stressor 'all of str' $((s * 3)) --str 1 --str-method all
stressor 'all of wcs' $((s * 3)) --wcs 1 --wcs-method all
stressor 'all of memthrash' $((s * 3)) --memthrash 1 --memthrash-method all
for name in atomic bsearch context crypt fp fp-error funccall funcret getrandom goto hash heapsort hsearch ipsec-mb jpeg judy list longjmp \
    lsearch matrix matrix-3d mergesort nop opcode prefetch priv-instr qsort radixsort rdrand regs rotate rseq secretmem shellsort skiplist \
    sparsematrix stream tree tsc tsearch vecfp vecmath vecshuf vecwide waitcpu x86cpuid zlib; do
    stressor $name "$s" --$name 1
done
for name in bad-altstack madvise malloc mmapaddr mmapfixed mmapfork mmapmany mprotect mremap munmap pagemove pageswap stack stackmmap \
    userfaultfd vm-addr vm-rw vm-segv vm-splice memfd misaligned null remap rmap tlb-shootdown membarrier mincore shm; do
    stressor $name "$s" --$name 1
done
for name in fork vfork clone daemon wait zombie nanosleep itimer timer timerfd sigabrt sigchld sigfd sigfpe sigio sigpending sigpipe sigq sigrt \
    sigsegv sigsuspend sigtrap pthread futex mutex sem switch pipe pipeherd eventfd ptrace vdso mq msg poll epoll dev-shm loadavg; do
    stressor $name "$s" --$name 1
done
bad=$(dmesg | grep -iE 'WARNING:|BUG:|oops|stall|hung task' | head -n 3)
same 'complaints of the kernel' "$bad" ''
[ $failed -eq 0 ]
