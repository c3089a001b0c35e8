// Exceptions of floating point, alignment checks, and floating-point state that lives through signals and switches.
#include "trial.h"

#include <pthread.h>
#include <sched.h>

// --- exceptions that are not masked ------------------------------------------------------------------------------------------

static struct {
    volatile int count, sig, code;
    volatile uintptr_t addr, ip, out;
    bool clear_ac;
} got;

static void look(int sig, siginfo_t *info, void *uc)
{
    got.sig = sig;
    got.code = info->si_code;
    got.addr = (uintptr_t)info->si_addr;
    got.ip = (uintptr_t)CTX(uc, IP);
    CTX(uc, IP) = (greg_t)got.out;
    if (got.clear_ac)
        ((ucontext_t *)uc)->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)FLAG_AC;
    if (++got.count > 100)
        fail("signal %d again and again", sig);
}

static const float numbers[8] = {1.0f, 0.0f, 1e38f, 1e-38f, 3.0f, -1.0f, 1e-40f, __builtin_nanf("")};
#define AT(n) "4*" #n "(" R(di) ")"

// name, bit of MXCSR to clear, before, instruction, si_code
#define SSE_TRAPS(X) \
    X(divide, 0x200, "movss " AT(0) ",%xmm0", "divss " AT(1) ",%xmm0", FPE_FLTDIV) \
    X(divide_packed, 0x200, "movups " AT(0) ",%xmm0; xorps %xmm1,%xmm1", "divps %xmm1,%xmm0", FPE_FLTDIV) \
    X(invalid, 0x080, "movss " AT(5) ",%xmm0", "sqrtss %xmm0,%xmm1", FPE_FLTINV) \
    X(overflow, 0x400, "movss " AT(2) ",%xmm0", "mulss %xmm0,%xmm0", FPE_FLTOVF) \
    X(underflow, 0x800, "movss " AT(3) ",%xmm0", "mulss %xmm0,%xmm0", FPE_FLTUND) \
    X(denormal, 0x100, "movss " AT(0) ",%xmm0", "addss " AT(6) ",%xmm0", FPE_FLTUND) \
    X(inexact, 0x1000, "movss " AT(0) ",%xmm0", "divss " AT(4) ",%xmm0", FPE_FLTRES) \
    X(convert, 0x080, "movss " AT(2) ",%xmm0", "cvttss2si %xmm0,%eax", FPE_FLTINV) \
    X(compare, 0x080, "movss " AT(7) ",%xmm0", "comiss " AT(0) ",%xmm0", FPE_FLTINV)
// The exception waits for the next instruction that does.
#define X87_TRAPS(X) \
    X(x_divide, 0x04, "flds " AT(0) "; fdivs " AT(1), "fwait", FPE_FLTDIV) \
    X(x_invalid, 0x01, "fldz; flds " AT(5) "; fsqrt; nop", "fstp %st(0)", FPE_FLTINV) \
    X(x_stack, 0x01, "fstp %st(0); nop", "fld1", FPE_FLTINV) \
    X(x_overflow, 0x08, "flds " AT(2) "; fmul %st(0),%st; fstps -64(" R(sp) ")", "fld1", FPE_FLTOVF) \
    X(x_inexact, 0x20, "flds " AT(0) "; fdivs " AT(4), "fwait", FPE_FLTRES) \
    X(x_denormal, 0x02, "flds " AT(6), "fadd %st(0),%st", FPE_FLTUND)

#define SSE_CODE(name, clear, before, insn, code) \
    __asm__(".text\nfp_" #name ": movl $0x1f80-" #clear \
            ",-4(" R(sp) "); ldmxcsr -4(" R(sp) "); " before "\nfp_at_" #name ": " insn "\nfp_out_" #name \
                                                ": movl $0x1f80,-4(" R(sp) "); ldmxcsr -4(" R(sp) "); ret\n"); \
    extern const char fp_##name[], fp_at_##name[], fp_out_##name[];
#define X87_CODE(name, clear, before, insn, code) \
    __asm__(".text\nfp_" #name ": fninit; movl $0x37f-" #clear ",-4(" R(sp) "); fldcw -4(" R( \
        sp) "); " before "\nfp_at_" #name ": " insn "\nfp_out_" #name ": fninit; ret\n"); \
    extern const char fp_##name[], fp_at_##name[], fp_out_##name[];
SSE_TRAPS(SSE_CODE)
X87_TRAPS(X87_CODE)

static const struct float_trap {
    const char *name, *code, *at, *out;
    int si_code;
} float_traps[] = {
#define FLOAT_ROW(name, clear, before, insn, code) {#name, fp_##name, fp_at_##name, fp_out_##name, code},
    SSE_TRAPS(FLOAT_ROW) X87_TRAPS(FLOAT_ROW)};

u64 trial_float_traps(void)
{
    u64 n = 0;
    own_signal_stack();
    handle(SIGFPE, look, SA_ONSTACK);
    do {
        for (unsigned i = 0; i < ARRAY_SIZE(float_traps) * 8; i++) {
            const struct float_trap *t = &float_traps[i / 8];
            got.count = 0;
            got.out = (uintptr_t)t->out;
            call_with(t->code, (uintptr_t)numbers);
            if (got.count != 1)
                fail("%s: %d signals", t->name, got.count);
            if (got.code != t->si_code || got.ip != (uintptr_t)t->at || got.addr != got.ip)
                fail("%s: code %d at %lx for %lx, not %d at %p", t->name, got.code, (long)got.ip, (long)got.addr,
                     t->si_code, (const void *)t->at);
        }
        n++;
    } while (more());
    return n;
}

// --- alignment checks ---------------------------------------------------------------------------------------------------------

#define PUSHF_AC "pushf; orl $0x40000,(" R(sp) "); popf; "
#define AC_TRAPS(X) \
    X(load2, "movw 1(" R(di) "),%ax", 1) \
    X(load4, "movl 2(" R(di) "),%eax", 1) \
    X(store4, "movl %eax,1(" R(di) ")", 1) \
    X(add4, "addl %eax,3(" R(di) ")", 1) \
    X(lock4, "lock addl %eax,3(" R(di) ")", 1) \
    X(load8, "movq 4(" R(di) "),%xmm0", 1) \
    X(fld8, "fldl 4(" R(di) ")", 1) \
    X(movs, "lea 2(" R(di) ")," R(si) "; movsl", 1) \
    X(push, "push 2(" R(di) "); pop " R(cx), 1) \
    X(load1, "movb 3(" R(di) "),%al", 0) \
    X(load2_right, "movw 2(" R(di) "),%ax", 0) \
    X(load8_right, "movq 8(" R(di) "),%xmm0", 0) \
    X(lea, "lea 3(" R(di) ")," R(ax), 0)

#define AC_CODE(name, insn, faults) \
    __asm__(".text\nac_" #name ": " PUSHF_AC "\nac_at_" #name ": " insn "\nac_out_" #name \
            ": pushf; andl $~0x40000,(" R(sp) "); popf; fninit; ret\n"); \
    extern const char ac_##name[], ac_at_##name[], ac_out_##name[];
AC_TRAPS(AC_CODE)

static const struct ac_trap {
    const char *name, *code, *at, *out;
    int faults;
} ac_traps[] = {
#define AC_ROW(name, insn, faults) {#name, ac_##name, ac_at_##name, ac_out_##name, faults},
    AC_TRAPS(AC_ROW)};

u64 trial_alignment_checks(void)
{
    static u8 data[64] __attribute__((aligned(64)));
    u64 n = 0;
    own_signal_stack();
    handle(SIGBUS, look, SA_ONSTACK);
    got.clear_ac = true;
    do {
        for (unsigned i = 0; i < ARRAY_SIZE(ac_traps) * 4; i++) {
            const struct ac_trap *t = &ac_traps[i / 4];
            got.count = 0;
            got.out = (uintptr_t)t->out;
            call_with(t->code, (uintptr_t)data);
            if (got.count != t->faults)
                fail("%s: %d signals", t->name, got.count);
            // A string instruction or a push has not come to its last instruction.
            if (got.count && (got.code != BUS_ADRALN || got.ip < (uintptr_t)t->at || got.ip >= (uintptr_t)t->out))
                fail("%s: code %d at %lx", t->name, got.code, (long)got.ip);
        }
        n++;
    } while (more());
    return n;
}

// --- state that lives on ------------------------------------------------------------------------------------------------------

#ifdef __x86_64__
#define VECTORS 16
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define YIELD "push %%rcx; push %%r11; mov $24,%%eax; syscall; pop %%r11; pop %%rcx; "
#else
#define VECTORS 8
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define YIELD "mov $158,%%eax; int $0x80; "
#endif
#define LOAD_XMM(i) "movups 16*" #i "(%[v]),%%xmm" #i "\n"
#define SAVE_XMM(i) "movups %%xmm" #i ",16*" #i "(%[v])\n"
#define LOAD_YMM(i) "vmovups 32*" #i "(%[v]),%%ymm" #i "\n"
#define SAVE_YMM(i) "vmovups %%ymm" #i ",32*" #i "(%[v])\n"

struct float_state {
    u8 v[VECTORS * 32];
    double x[8];
    u32 mxcsr;
    u16 fcw, pad;
};

#define LOAD_REST \
    "ldmxcsr %[m]\n fninit\n fldcw %[f]\n" \
    "fldl 56(%[x])\n fldl 48(%[x])\n fldl 40(%[x])\n fldl 32(%[x])\n fldl 24(%[x])\n fldl 16(%[x])\n fldl 8(%[x])\n fldl (%[x])\n"
#define SAVE_REST \
    "stmxcsr %[m]\n fnstcw %[f]\n fstpl (%[x])\n fstpl 8(%[x])\n fstpl 16(%[x])\n fstpl 24(%[x])\n fstpl 32(%[x])\n" \
    "fstpl 40(%[x])\n fstpl 48(%[x])\n fstpl 56(%[x])\n fninit\n"
// A while of work that leaves the registers alone, or another thread's turn.
#define PASS_TIME "test %%ecx,%%ecx; jnz 2f; " YIELD "jmp 3f; 2: dec %%ecx; pause; jnz 2b; 3:\n"
#define OPERANDS(s, n) \
    [m] "+m"((s)->mxcsr), [f] "+m"((s)->fcw), "+c"(n) : [v] "S"((s)->v), [x] "D"((s)->x) : "memory", "cc", "eax"

static void hold_sse(struct float_state *s, u32 n)
{
    __asm__ volatile(EACH(LOAD_XMM) LOAD_REST PASS_TIME SAVE_REST EACH(SAVE_XMM) : OPERANDS(s, n));
}

static void hold_avx(struct float_state *s, u32 n)
{
    __asm__ volatile(EACH(LOAD_YMM) LOAD_REST PASS_TIME SAVE_REST EACH(SAVE_YMM) "vzeroupper\n" : OPERANDS(s, n));
}

static void make_state(struct float_state *s, unsigned id, unsigned round)
{
    memset(s, 0, sizeof *s);
    for (unsigned i = 0; i < sizeof s->v; i++)
        s->v[i] = (u8)(id * 37 + round * 11 + i);
    for (unsigned i = 0; i < 8; i++)
        s->x[i] = id + 1.0 / (1 + i + round % 100);
    // Another direction of rounding in each thread; all exceptions masked.
    s->mxcsr = 0x1f80 | (id & 3) << 13;
    s->fcw = (u16)(0x37f | ((id + 1) & 3) << 10);
}

static void hold(struct float_state *s, u32 n)
{
    const u32 mxcsr = 0x1f80;
    if (__builtin_cpu_supports("avx"))
        hold_avx(s, n);
    else
        hold_sse(s, n);
    __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
}

static volatile u64 handled;

// It has state of its own, which nobody may find later.
static void spoil(int sig, siginfo_t *info, void *uc)
{
    struct float_state s, want;
    (void)sig;
    (void)info;
    (void)uc;
    make_state(&s, 99, (unsigned)handled++);
    want = s;
    hold(&s, 20);
    if (memcmp(&s, &want, sizeof s))
        fail("a handler's registers have changed");
}

static void *work_float(void *arg)
{
    unsigned id = (unsigned)(uintptr_t)arg;
    uintptr_t n = 0;
    own_signal_stack();
    do {
        struct float_state s, want;
        make_state(&s, id, (unsigned)n);
        want = s;
        hold(&s, n % 3 ? (u32)(n * 77 % 3000) : 0);
        if (s.mxcsr != want.mxcsr || s.fcw != want.fcw)
            fail("thread %u round %lu: MXCSR %x, control word %x", id, (long)n, s.mxcsr, s.fcw);
        if (memcmp(s.x, want.x, sizeof s.x))
            fail("thread %u round %lu: x87 registers have changed", id, (long)n);
        for (unsigned i = 0; i < sizeof s.v; i++)
            if (s.v[i] != want.v[i])
                fail("thread %u round %lu: byte %u of vector registers is %x, not %x", id, (long)n, i, s.v[i],
                     want.v[i]);
        n++;
    } while (more());
    return (void *)n;
}

// A child has its parent's.
static void fork_float(unsigned round)
{
    struct float_state s, want;
    make_state(&s, 5, round);
    want = s;
    pid_t pid = fork();
    hold(&s, 50);
    bool same = !memcmp(&s, &want, sizeof s);
    if (pid == 0)
        _exit(same ? 0 : 3);
    if (!same || reap(pid) != 0)
        fail("a fork changes registers");
}

u64 trial_float_state(void)
{
    pthread_t t[5];
    uintptr_t n = 0;
    handle(SIGALRM, spoil, SA_ONSTACK | SA_RESTART);
    tick_every(700);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
        if (pthread_create(&t[i], NULL, work_float, (void *)(uintptr_t)i))
            fail("pthread_create: %s", strerror(errno));
    for (unsigned i = 0; i < 20; i++)
        fork_float(i);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        void *v;
        pthread_join(t[i], &v);
        n += (uintptr_t)v;
    }
    tick_every(0);
    if (handled < 5)
        fail("%lu signals only", (long)handled);
    return n;
}
