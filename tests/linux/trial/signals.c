// Signals at every moment: nothing that a program has in its registers or its memory may be lost.
#include "trial.h"

#include <sched.h>
#include <setjmp.h>

// --- registers under a storm --------------------------------------------------------------------------------------------------

// All registers have values that are compared in a loop of CX rounds; AX says how many differed.
#ifdef __x86_64__
__asm__(".text\nspin: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "mov $0x11111111,%ebx; mov $0x22222222,%edx; mov $0x33333333,%esi; mov $0x44444444,%ebp\n"
        "mov $0x55555555,%r8d; mov $0x66666666,%r9d; mov $0x77777777,%r10d; mov $0x18888888,%r11d\n"
        "mov $0x19999999,%r12d; mov $0x1aaaaaaa,%r13d; mov $0x1bbbbbbb,%r14d; mov $0x1ccccccc,%r15d\n"
        "mov %edi,%ecx; mov %rsp,%rdi; xor %eax,%eax\n"
        "1: cmp $0x11111111,%rbx; jne 2f; cmp $0x22222222,%rdx; jne 2f; cmp $0x33333333,%rsi; jne 2f\n"
        "cmp $0x44444444,%rbp; jne 2f; cmp $0x55555555,%r8; jne 2f; cmp $0x66666666,%r9; jne 2f\n"
        "cmp $0x77777777,%r10; jne 2f; cmp $0x18888888,%r11; jne 2f; cmp $0x19999999,%r12; jne 2f\n"
        "cmp $0x1aaaaaaa,%r13; jne 2f; cmp $0x1bbbbbbb,%r14; jne 2f; cmp $0x1ccccccc,%r15; jne 2f\n"
        "cmp %rsp,%rdi; jne 2f; stc; jnc 2f; push %rcx; pop %rcx; jnc 2f\n"
        "dec %ecx; jnz 1b; jmp 3f\n"
        "2: inc %eax\n"
        "3: pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n");
#else
__asm__(".text\nspin: push %ebx; push %ebp; mov %edi,%ecx; xor %eax,%eax\n"
        "mov $0x11111111,%ebx; mov $0x22222222,%edx; mov $0x33333333,%esi; mov $0x44444444,%ebp; mov %esp,%edi\n"
        "1: cmp $0x11111111,%ebx; jne 2f; cmp $0x22222222,%edx; jne 2f; cmp $0x33333333,%esi; jne 2f\n"
        "cmp $0x44444444,%ebp; jne 2f; cmp %esp,%edi; jne 2f; stc; jnc 2f; push %ecx; pop %ecx; jnc 2f\n"
        "dec %ecx; jnz 1b; jmp 3f\n"
        "2: inc %eax\n"
        "3: pop %ebp; pop %ebx; ret\n");
#endif
extern const char spin[];

static volatile u64 ticks, pokes;

static void count_tick(int sig, siginfo_t *info, void *uc)
{
    (void)info;
    (void)uc;
    if (sig == SIGALRM)
        ticks++;
    else
        pokes++;
}

u64 trial_signal_storm(void)
{
    u64 n = 0;
    own_signal_stack();
    handle(SIGALRM, count_tick, SA_ONSTACK | SA_RESTART);
    handle(SIGUSR1, count_tick, SA_ONSTACK | SA_RESTART);
    tick_every(100);
    pid_t self = getpid(), child = fork();
    if (child == 0) {
        tick_every(0);
        while (kill(self, SIGUSR1) == 0 && getppid() == self)
            for (volatile unsigned i = 0; i < 300; i++)
                ;
        _exit(0);
    }
    do {
        if (call_with(spin, 20000) & 0xff)
            fail("a signal changed a register");
        kill(self, SIGUSR1);
        n++;
    } while (more() || ticks < 5);
    tick_every(0);
    kill(child, SIGKILL);
    reap(child);
    if (pokes < n)
        fail("%lu signals of %lu to itself came", (long)pokes, (long)n);
    return n;
}

// --- queued signals -----------------------------------------------------------------------------------------------------------

static volatile int next_value, out_of_order;

static void take_value(int sig, siginfo_t *info, void *uc)
{
    (void)sig;
    (void)uc;
    if (info->si_value.sival_int != next_value++)
        out_of_order++;
}

u64 trial_signal_queue(void)
{
    u64 n = 0;
    int sig = SIGRTMIN + 2;
    sigset_t set, old;
    handle(sig, take_value, 0);
    sigemptyset(&set);
    sigaddset(&set, sig);
    do {
        unsigned many = 1 + noise() % 60;
        next_value = 0;
        sigprocmask(SIG_BLOCK, &set, &old);
        for (unsigned i = 0; i < many; i++)
            if (sigqueue(getpid(), sig, (union sigval){.sival_int = (int)i}))
                fail("sigqueue: %s", strerror(errno));
        if (next_value)
            fail("a blocked signal came");
        sigprocmask(SIG_SETMASK, &old, NULL);
        if (next_value != (int)many || out_of_order)
            fail("%d signals of %u came, %d out of order", next_value, many, out_of_order);
        n++;
    } while (more());
    return n;
}

// --- handlers inside handlers -------------------------------------------------------------------------------------------------

static volatile unsigned depth, deepest;
static sigjmp_buf nest_out;

static void nest(int sig, siginfo_t *info, void *uc)
{
    u32 here[16], mark = 0x1000 * ++depth;
    (void)info;
    (void)uc;
    for (unsigned i = 0; i < 16; i++)
        here[i] = mark + i;
    if (depth > deepest)
        deepest = depth;
    if (depth < 40)
        raise(sig == SIGUSR1 ? SIGUSR2 : SIGUSR1);
    else if (ticks++ % 2)
        siglongjmp(nest_out, 1);
    for (unsigned i = 0; i < 16; i++)
        if (here[i] != mark + i)
            fail("the stack of a handler has changed");
    depth--;
}

u64 trial_signal_nesting(void)
{
    volatile u64 n = 0;
    handle(SIGUSR1, nest, SA_NODEFER);
    handle(SIGUSR2, nest, SA_NODEFER);
    do {
        depth = deepest = 0;
        if (!sigsetjmp(nest_out, 1)) {
            raise(SIGUSR1);
            if (depth)
                fail("%u handlers have not ended", depth);
        } else if (depth != 40) {
            fail("thrown out of depth %u", depth);
        }
        if (deepest != 40)
            fail("depth %u", deepest);
        n++;
    } while (more());
    return n;
}

// --- handlers that change what they interrupted ----------------------------------------------------------------------------

__asm__(".text\nsurgery: mov $1,%eax; ud2; cmp $7,%eax; jne 1f; jnc 2f; ret\n"
        "1: mov $100,%eax; ret\n"
        "2: mov $101,%eax; ret\n"
        "surgery_flags: stc; std; ud2; setc %al; pushf; pop " R(
            dx) "; cld; movzbl %al,%eax; and $0x400,%edx; or %edx,%eax; ret\n"
                "surgery_step: mov $3,%eax; ud2; inc %eax; inc %eax; inc %eax; ret\n");
extern const char surgery[], surgery_flags[], surgery_step[];

static volatile int steps;

static void operate(int sig, siginfo_t *info, void *uc)
{
    greg_t *flags = &((ucontext_t *)uc)->uc_mcontext.gregs[REG_EFL];
    uintptr_t di = (uintptr_t)CTX(uc, DI);
    (void)info;
    if (sig == SIGTRAP) {
        if (++steps == 2)
            *flags &= ~(greg_t)FLAG_TF;
        return;
    }
    CTX(uc, IP) += 2;
    CTX(uc, AX) += (greg_t)di;
    if (di == 1)
        *flags &= ~(greg_t)(FLAG_CF | FLAG_DF);
    if (di == 2)
        *flags |= FLAG_TF;
}

u64 trial_signal_surgery(void)
{
    u64 n = 0;
    own_signal_stack();
    handle(SIGILL, operate, SA_ONSTACK);
    handle(SIGTRAP, operate, SA_ONSTACK);
    do {
        // 7 is not below 7: the comparison leaves no carry, and the code says so.
        uintptr_t r = call_with(surgery, 6);
        if (r != 101)
            fail("code whose AX was changed went on with %lu", (long)r);
        if ((r = call_with(surgery_flags, 0)) != 0x401 || (r = call_with(surgery_flags, 1)) != 0)
            fail("flags after a handler: %lx", (long)r);
        steps = 0;
        if ((r = call_with(surgery_step, 2)) != 8 || steps != 2)
            fail("%d steps that a handler asked for, %lu", steps, (long)r);
        n++;
    } while (more());
    return n;
}

// --- system calls -------------------------------------------------------------------------------------------------------------

static long raw_call(long nr, long a, long b, long c)
{
    long r;
#ifdef __x86_64__
    __asm__ volatile("syscall" : "=a"(r) : "a"(nr), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
#else
    __asm__ volatile("int $0x80" : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(c) : "memory");
#endif
    return r;
}

// The kernel's own faults in the program's memory, and what a call leaves behind.
u64 trial_system_calls(void)
{
    u64 n = 0;
    char *p = map(NULL, 3 * PAGE, PROT_READ | PROT_WRITE);
    int fd[2];
    if (pipe(fd))
        fail("pipe: %s", strerror(errno));
    protect(p + PAGE, PAGE, PROT_NONE);
    protect(p + 2 * PAGE, PAGE, PROT_READ);
    do {
        long r = raw_call(SYS_write, fd[1], (long)(p + PAGE), 8);
        if (r != -EFAULT)
            fail("write() from nowhere: %ld", r);
        if ((r = raw_call(SYS_write, fd[1], (long)(p + PAGE - 5), 5)) != 5)
            fail("write() up to the end of a page: %ld", r);
        if ((r = raw_call(SYS_read, fd[0], (long)(p + 2 * PAGE), 5)) != -EFAULT)
            fail("read() to where nothing may be written: %ld", r);
        if ((r = raw_call(SYS_getppid, 0, 0, 0)) != getppid())
            fail("getppid(): %ld", r);
        if ((r = raw_call(9999, 0, 0, 0)) != -ENOSYS)
            fail("a call that is not there: %ld", r);
        if ((r = raw_call(SYS_read, fd[0], (long)p, 100)) != 5)
            fail("read() of what was written: %ld", r);
#ifdef __x86_64__
        u64 flags, cx, after, want;
        __asm__ volatile(
            "stc; pushfq; pop %3; lea 1f(%%rip),%2; mov $39,%%eax; syscall; 1: pushfq; pop %0; mov %%rcx,%1"
            : "=&r"(flags), "=&r"(cx), "=&r"(after), "=&r"(want)
            :
            : "rax", "rcx", "r11", "cc", "memory");
        if (cx != after || flags != want)
            fail("a call leaves RCX %llx, not %llx, and flags %llx, not %llx", (unsigned long long)cx,
                 (unsigned long long)after, (unsigned long long)flags, (unsigned long long)want);
#endif
        n++;
    } while (more());
    return n;
}
