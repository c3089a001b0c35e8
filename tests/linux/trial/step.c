// Single steps, by a debugger and by the program itself, and the processor's breakpoints.
#include "trial.h"

#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/user.h>

#ifdef __x86_64__
#define USER_IP(u) ((u).rip)
#else
#define USER_IP(u) ((uintptr_t)(u).eip)
#endif

// The instructions in the order in which they run, each with the number of steps that it takes: repeated ones take one for each time, and
// the one behind a load of SS takes none that is seen.
__asm__(".macro STEP times, insn:vararg\n"
        "771: \\insn\n"
        ".pushsection .rodata.walk,\"a\"\n" WORD "771b\n" WORD "\\times\n.popsection\n"
        ".endm\n");
__asm__(".pushsection .rodata.walk,\"a\"\n.balign 8\nwalk_table:\n.popsection\n");
#define S(times, insn) "STEP " #times ", " insn "\n"
#ifdef __x86_64__
#define ONLY64(x) x
#define ONLY32(x)
#define SYSCALL S(1, "mov $39,%eax") S(1, "syscall")
#define TO_COPY S(1, "lea walk_from(%rip),%rsi") S(1, "lea walk_to(%rip),%rdi")
#define FLAGS S(1, "pushfq") S(1, DROP)
#define DROP "add $8,%rsp"
#else
#define ONLY64(x)
#define ONLY32(x) x
#define SYSCALL S(1, "mov $20,%eax") S(1, "int $0x80")
#define TO_COPY S(1, "mov $walk_from,%esi") S(1, "mov $walk_to,%edi")
#define FLAGS S(1, "pushf") S(1, DROP)
#define DROP "add $4,%esp"
#endif
__asm__(".text\nwalk:\n" S(1, "push " R(bx)) S(1, "mov $5,%eax") S(1, "add $7,%eax") S(1, "lea 1(" R(ax) "),%ebx")
            S(1, "cmp $13,%ebx") S(1, "je 1f") "ud2\n1:\n" S(1, "jne 1f") S(1, "call 2f") "ud2\n2:\n" S(
                1, DROP) "1:\n" S(1, "mov $4,%ecx") "1:\n" S(4, "loop 1b") TO_COPY S(1, "mov $6,%ecx") S(6, "rep movsb")
                S(1, "mov $3,%ecx") S(1, "xor %eax,%eax") S(3, "rep stosl") S(1, "rep stosl")
                    FLAGS SYSCALL S(1, "mov %eax,%ebx") S(1, "mov %ss,%ecx") S(1, "mov %ecx,%ss") S(0, "mov $9,%ecx")
                        S(1, "inc %ecx") S(1, "xor %eax,%eax") S(1, "cpuid") S(1, "rdtsc") S(1, "fld1")
                            S(1, "fstp %st(0)") S(1, "fninit") S(1, "pxor %xmm0,%xmm0") S(1, "movd %xmm0,%eax")
                                S(1, "lock incl (" R(sp) ")") S(1, "lock decl (" R(sp) ")") S(1, "cld")
                                    S(1, "mov %ds,%eax") S(1, "mov %eax,%ds") S(1, "sahf") S(1, "bswap %eax")
                                        S(1, "xchg %eax,%ecx") S(1, "setc %al")
                                            S(1, "cmovc %ecx,%eax") "jmp_over: " S(1, "jmp 5f") "3: " S(1, "nop")
                                                S(1, "ret") "5: " S(1, "call 3b")
                                                    ONLY32(S(1, "push %ss") S(1, "pop %ss") S(0, "nop") S(1, "pusha")
                                                               S(1, "popa"))
                                                        ONLY64(S(1, "push %r12") S(1, "movabs $0x123456789abcdef0,%r12")
                                                                   S(1, "pop %r12")) S(1, "pop " R(bx)) S(1, "ret"));
__asm__(".text\nwalk_end: nop\n.data\nwalk_from: .ascii \"abcdefgh\"\nwalk_to: .space 32\n.text\n"
        ".pushsection .rodata.walk,\"a\"\nwalk_table_end:\n.popsection\n");
extern const char walk[], walk_end[];
extern const struct walk_row {
    uintptr_t ip, times;
} walk_table[], walk_table_end[];

// A child that stops itself, and then calls `body`.
static pid_t traced(void (*body)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        if (ptrace(PTRACE_TRACEME, 0, 0, 0))
            _exit(220);
        raise(SIGSTOP);
        body();
        _exit(0);
    }
    int status = reap(pid);
    if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGSTOP)
        fail("the child stopped with %x", status);
    return pid;
}

static void go_on(pid_t pid, int request)
{
    if (ptrace(request, pid, 0, 0))
        fail("ptrace: %s", strerror(errno));
}

// Go on until the next stop; SIGTRAP, or the child has failed.
static void next_trap(pid_t pid, int request)
{
    go_on(pid, request);
    int status = reap(pid);
    if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP)
        fail("the child stopped with %x, not a trap", status);
}

static uintptr_t ip_of(pid_t pid)
{
    struct user_regs_struct r;
    if (ptrace(PTRACE_GETREGS, pid, 0, &r))
        fail("ptrace: %s", strerror(errno));
    return (uintptr_t)USER_IP(r);
}

static void set_ip(pid_t pid, uintptr_t ip)
{
    if (ptrace(PTRACE_POKEUSER, pid,
               offsetof(struct user, regs) + offsetof(struct user_regs_struct,
#ifdef __x86_64__
                                                      rip
#else
                                                      eip
#endif
                                                      ),
               ip))
        fail("ptrace: %s", strerror(errno));
}

// By a breakpoint in the code to `at`; the code is whole again then.
static void run_to(pid_t pid, const char *at)
{
    long was = ptrace(PTRACE_PEEKTEXT, pid, at, 0);
    ptrace(PTRACE_POKETEXT, pid, at, (was & ~0xffl) | 0xcc);
    next_trap(pid, PTRACE_CONT);
    if (ip_of(pid) != (uintptr_t)at + 1)
        fail("a breakpoint at %p stopped at %lx, %s", (const void *)at, (long)ip_of(pid), strerror(errno));
    ptrace(PTRACE_POKETEXT, pid, at, was);
    set_ip(pid, (uintptr_t)at);
}

static void walk_body(void)
{
    for (unsigned i = 0; i < 3; i++)
        call_with(walk, 0);
}

static void walk_once(pid_t pid)
{
    uintptr_t times[100] = {0}, rows = (uintptr_t)(walk_table_end - walk_table), ip;
    run_to(pid, walk);
    while ((ip = ip_of(pid)) >= (uintptr_t)walk && ip < (uintptr_t)walk_end) {
        unsigned i = 0;
        while (i < rows && walk_table[i].ip != ip)
            i++;
        if (i == rows)
            fail("a step to walk+%lx", (long)(ip - (uintptr_t)walk));
        if (++times[i] > 10)
            fail("walk+%lx again and again", (long)(ip - (uintptr_t)walk));
        next_trap(pid, PTRACE_SINGLESTEP);
    }
    for (unsigned i = 0; i < rows; i++)
        if (times[i] != walk_table[i].times)
            fail("%lu steps at walk+%lx, not %lu", (long)times[i], (long)(walk_table[i].ip - (uintptr_t)walk),
                 (long)walk_table[i].times);
}

u64 trial_single_steps(void)
{
    u64 n = 0;
    do {
        pid_t pid = traced(walk_body);
        for (unsigned i = 0; i < 3; i++)
            walk_once(pid);
        go_on(pid, PTRACE_CONT);
        if (reap(pid) != 0)
            fail("the child did not end well");
        n++;
    } while (more());
    return n;
}

// --- a program that steps itself -----------------------------------------------------------------------------------------------

__asm__(".text\nown: pushf; mov (" R(sp) ")," R(dx) "; orl $0x100,(" R(
    sp) "); popf\n"
        "own_1: nop\nown_2: xor %eax,%eax\nown_3: inc %eax\nown_4: test %eax,%eax\nown_5: jnz own_7\nown_6: ud2\n"
        "own_7: mov $3,%ecx\nown_8: loop own_8\nown_9: mov %ss,%ecx\nown_10: mov %ecx,%ss\nown_11: nop\nown_12: push " R(
            dx) "\nown_13: popf\nown_14: mov $77,%eax; ret\n");
extern const char own[], own_2[], own_3[], own_4[], own_5[], own_7[], own_8[], own_9[], own_10[], own_12[], own_13[],
    own_14[];
static const char *const own_path[] = {own_2, own_3, own_4,  own_5,  own_7,  own_8, own_8,
                                       own_8, own_9, own_10, own_12, own_13, own_14};
static volatile unsigned own_at;

static void own_trap(int sig, siginfo_t *info, void *uc)
{
    uintptr_t ip = (uintptr_t)CTX(uc, IP);
    (void)sig;
    if (own_at >= ARRAY_SIZE(own_path) || ip != (uintptr_t)own_path[own_at] || info->si_code != TRAP_TRACE)
        fail("trap %u at own+%lx, code %d", own_at, (long)(ip - (uintptr_t)own), info->si_code);
    own_at++;
}

u64 trial_own_steps(void)
{
    u64 n = 0;
    own_signal_stack();
    handle(SIGTRAP, own_trap, SA_ONSTACK);
    do {
        own_at = 0;
        if (call_with(own, 0) != 77 || own_at != ARRAY_SIZE(own_path))
            fail("%u traps", own_at);
        n++;
    } while (more());
    return n;
}

// --- the processor's breakpoints ------------------------------------------------------------------------------------------------

static volatile u64 watched[16] __attribute__((aligned(128)));

__asm__(".text\nwatch: movl $1,(" R(di) ")\nwatch_1: movl $2,8(" R(di) ")\nwatch_2: movl 8(" R(
    di) "),%eax\nwatch_3: nop\n"
        "movb $3,15(" R(
            di) ")\nwatch_4: nop; mov $16,%ecx; xor %eax,%eax; cld; rep stosl\nwatch_5: nop\nwatch_6: ret\n");
extern const char watch[], watch_2[], watch_3[], watch_4[], watch_5[], watch_6[];

static void watch_body(void)
{
    call_with(watch, (uintptr_t)watched);
}

static void set_debug(pid_t pid, unsigned n, uintptr_t v)
{
    if (ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg) + n * sizeof(long), v))
        fail("debug register %u: %s", n, strerror(errno));
}

static void expect_watch(pid_t pid, const char *at, unsigned bits)
{
    next_trap(pid, PTRACE_CONT);
    uintptr_t ip = ip_of(pid);
    long dr6 = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user, u_debugreg) + 6 * sizeof(long), 0);
    if (ip != (uintptr_t)at)
        fail("a watchpoint stops at watch+%lx, not watch+%lx", (long)(ip - (uintptr_t)watch), (long)(at - watch));
    if ((dr6 & 15) != (long)bits)
        fail("DR6 is %lx at watch+%lx, not %x", dr6, (long)(at - watch), bits);
    set_debug(pid, 6, 0);
}

u64 trial_watchpoints(void)
{
    u64 n = 0;
    do {
        pid_t pid = traced(watch_body);
        // 0: writes to eight bytes, 1: reads and writes of four, 2: execution
        set_debug(pid, 0, (uintptr_t)(watched + 1));
        set_debug(pid, 1, (uintptr_t)(watched + 1));
        set_debug(pid, 2, (uintptr_t)watch_6);
        set_debug(pid, 7, 1 | 1 << 2 | 1 << 4 | (BITS == 64 ? 0x9u : 0xdu) << 16 | 0xfu << 20);
        expect_watch(pid, watch_2, 3);
        expect_watch(pid, watch_3, 2);
        if (BITS == 64)
            expect_watch(pid, watch_4, 1);
        // Within the repeated store: where it stands still, or behind it.
        next_trap(pid, PTRACE_CONT);
        set_debug(pid, 7, 1 << 4);
        set_debug(pid, 6, 0);
        expect_watch(pid, watch_6, 4);
        go_on(pid, PTRACE_CONT);
        if (reap(pid) != 0)
            fail("the child did not end well");
        n++;
    } while (more());
    return n;
}
