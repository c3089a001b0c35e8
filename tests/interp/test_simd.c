// Vector and x87 instructions that the interpreter does by hand (extended-state images, x87 environment, masked memory), and what
// surrounds native execution: control-register checks, alignment, exceptions, the x87 pointers.
//
// The first part runs each instruction on this processor too (isa/raw_run.S), from the same random state, and compares all of
// it. The rest holds single rules against the manuals.
#include <cpuid.h>
#include <sys/mman.h>

#include "xfer_env.h"

#include "engine/interp/simd.h"

#define DATA 0x40000u // operand memory of the guest
#define AREA 1024u
#define ROUNDS 60

extern struct x86_xsave raw_xs;
extern u64 raw_gpr[16], raw_flags;
extern const void *raw_code;
void raw_run(void);
extern const char raw_back[];

static u64 seed = 0xda942042e4dd58b5ull;

static u64 rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1dull;
}

static int env_simd(void **state)
{
    env_long(state);
    struct env *e = *state;
    struct cpu *c = e->c;
    c->cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
    c->cr0 |= X86_CR0_NE | X86_CR0_MP;
    c->xcr0 = 7;
    c->xs.fcw = X86_FCW_DEFAULT;
    c->gpr[X86_RBX] = DATA;
    return 0;
}

// --- against the processor ------------------------------------------------------------------------------------------------

struct twin {
    const char *name, *bytes;
    unsigned len;
    enum { PLAIN, RESTORE, GATHER } kind;
};

#define T(name, bytes, kind) \
    { \
        name, bytes, sizeof(bytes) - 1, kind \
    }

static const struct twin twins[] = {
    T("fxsave [rbx]", "\x0f\xae\x03", PLAIN),
    T("fxsave64 [rbx]", "\x48\x0f\xae\x03", PLAIN),
    T("fxrstor [rbx]", "\x0f\xae\x0b", RESTORE),
    T("fxrstor64 [rbx]", "\x48\x0f\xae\x0b", RESTORE),
    T("xsave [rbx]", "\x0f\xae\x23", PLAIN),
    T("xsave64 [rbx]", "\x48\x0f\xae\x23", PLAIN),
    T("xsaveopt [rbx]", "\x0f\xae\x33", PLAIN),
    T("xsavec [rbx]", "\x0f\xc7\x23", PLAIN),
    T("xrstor [rbx]", "\x0f\xae\x2b", RESTORE),
    T("xrstor64 [rbx]", "\x48\x0f\xae\x2b", RESTORE),
    T("fnsave [rbx]", "\xdd\x33", PLAIN),
    T("data16 fnsave [rbx]", "\x66\xdd\x33", PLAIN),
    T("frstor [rbx]", "\xdd\x23", RESTORE),
    T("data16 frstor [rbx]", "\x66\xdd\x23", RESTORE),
    T("fnstenv [rbx]", "\xd9\x33", PLAIN),
    T("data16 fnstenv [rbx]", "\x66\xd9\x33", PLAIN),
    T("fldenv [rbx]", "\xd9\x23", RESTORE),
    T("data16 fldenv [rbx]", "\x66\xd9\x23", RESTORE),
    T("fldcw [rbx]", "\xd9\x2b", RESTORE),
    T("fnstcw [rbx]", "\xd9\x3b", PLAIN),
    T("fnstsw [rbx]", "\xdd\x3b", PLAIN),
    T("fnstsw ax", "\xdf\xe0", PLAIN),
    T("fnclex", "\xdb\xe2", PLAIN),
    T("fninit", "\xdb\xe3", PLAIN),
    T("fneni", "\xdb\xe0", PLAIN),
    T("ldmxcsr [rbx+24]", "\x0f\xae\x53\x18", RESTORE),
    T("stmxcsr [rbx]", "\x0f\xae\x1b", PLAIN),
    T("vldmxcsr [rbx+24]", "\xc5\xf8\xae\x53\x18", RESTORE),
    T("vstmxcsr [rbx]", "\xc5\xf8\xae\x1b", PLAIN),
    T("vzeroupper", "\xc5\xf8\x77", PLAIN),
    T("vzeroall", "\xc5\xfc\x77", PLAIN),
    T("maskmovq mm1, mm6", "\x0f\xf7\xce", RESTORE),
    T("maskmovdqu xmm1, xmm6", "\x66\x0f\xf7\xce", PLAIN),
    T("vmaskmovdqu xmm9, xmm10", "\xc4\x41\x79\xf7\xca", PLAIN),
    T("vmaskmovps xmm1, xmm2, [rbx]", "\xc4\xe2\x69\x2c\x0b", PLAIN),
    T("vmaskmovps ymm1, ymm2, [rbx]", "\xc4\xe2\x6d\x2c\x0b", PLAIN),
    T("vmaskmovpd xmm1, xmm2, [rbx]", "\xc4\xe2\x69\x2d\x0b", PLAIN),
    T("vmaskmovpd ymm9, ymm2, [rbx]", "\xc4\x62\x6d\x2d\x0b", PLAIN),
    T("vmaskmovps [rbx], xmm2, xmm1", "\xc4\xe2\x69\x2e\x0b", PLAIN),
    T("vmaskmovps [rbx], ymm2, ymm1", "\xc4\xe2\x6d\x2e\x0b", PLAIN),
    T("vmaskmovpd [rbx], ymm2, ymm1", "\xc4\xe2\x6d\x2f\x0b", PLAIN),
    T("vpmaskmovd ymm1, ymm2, [rbx]", "\xc4\xe2\x6d\x8c\x0b", PLAIN),
    T("vpmaskmovd [rbx], ymm2, ymm1", "\xc4\xe2\x6d\x8e\x0b", PLAIN),
    T("vpmaskmovq ymm1, ymm2, [rbx]", "\xc4\xe2\xed\x8c\x0b", PLAIN),
    T("vpmaskmovq [rbx], xmm2, xmm1", "\xc4\xe2\xe9\x8e\x0b", PLAIN),
    T("vpgatherdd xmm1, [rbx+xmm2*4], xmm3", "\xc4\xe2\x61\x90\x0c\x93", GATHER),
    T("vpgatherdd ymm1, [rbx+ymm2*4], ymm3", "\xc4\xe2\x65\x90\x0c\x93", GATHER),
    T("vpgatherdq xmm1, [rbx+xmm2*8], xmm3", "\xc4\xe2\xe1\x90\x0c\xd3", GATHER),
    T("vpgatherdq ymm1, [rbx+xmm2*8], ymm3", "\xc4\xe2\xe5\x90\x0c\xd3", GATHER),
    T("vpgatherqd xmm1, [rbx+xmm2*4], xmm3", "\xc4\xe2\x61\x91\x0c\x93", GATHER),
    T("vpgatherqd xmm1, [rbx+ymm2*4], xmm3", "\xc4\xe2\x65\x91\x0c\x93", GATHER),
    T("vpgatherqq xmm1, [rbx+xmm2*8], xmm3", "\xc4\xe2\xe1\x91\x0c\xd3", GATHER),
    T("vpgatherqq ymm1, [rbx+ymm2*8], ymm3", "\xc4\xe2\xe5\x91\x0c\xd3", GATHER),
    T("vgatherdps ymm1, [rbx+ymm2*4], ymm3", "\xc4\xe2\x65\x92\x0c\x93", GATHER),
    T("vgatherdpd ymm1, [rbx+xmm2*8], ymm3", "\xc4\xe2\xe5\x92\x0c\xd3", GATHER),
    T("vgatherqps xmm1, [rbx+ymm2*4], xmm3", "\xc4\xe2\x65\x93\x0c\x93", GATHER),
    T("vgatherqpd ymm1, [rbx+ymm2*8], ymm3", "\xc4\xe2\xe5\x93\x0c\xd3", GATHER),
};

static void random_bytes(void *p, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        ((u8 *)p)[i] = (u8)(rnd() >> 32);
}

// A state that the processor can be in. `pending`: x87 exceptions may be.
static void random_xs(struct x86_xsave *xs, bool pending)
{
    u64 parts = rnd() >> 32;
    memset(xs, 0, sizeof *xs);
    x87_set_words(xs, (u16)(rnd() >> 32), (u16)(rnd() >> 32));
    if (!pending)
        x87_set_words(xs, (u16)(rnd() >> 32), xs->fsw & 0x7f00);
    xs->ftw = (u8)(rnd() >> 32);
    xs->fop = rnd() & 0x7ff;
    xs->fip = rnd() & 0x7fffffffffff;
    xs->fdp = rnd() & 0x7fffffffffff;
    xs->mxcsr = 0x1f80 | (rnd() & 0xe07f);
    for (unsigned i = 0; i < 8; i++)
        random_bytes(xs->st[i], 10);
    if (parts & 1)
        x87_set_words(xs, X86_FCW_DEFAULT, 0), xs->ftw = 0, xs->fop = 0, xs->fip = xs->fdp = 0, memset(xs->st, 0, 128);
    if (parts & 2)
        random_bytes(xs->xmm, sizeof xs->xmm);
    if (parts & 4)
        random_bytes(xs->ymmh, sizeof xs->ymmh);
    if (parts & 8)
        xs->mxcsr = X86_MXCSR_DEFAULT;
}

// An image that can be restored: legacy part, header, AVX part.
static void random_image(u8 *b)
{
    u64 bv = rnd() & 7;
    u32 mxcsr = rnd() & 0xffff;
    random_bytes(b, AREA);
    memcpy(b + 24, &mxcsr, 4);
    memset(b + 512, 0, 64);
    memcpy(b + 512, &bv, 8);
    if (rnd() & 1) {
        u64 comp = 1ull << 63 | 7;
        memcpy(b + 520, &comp, 8);
    }
}

static void prepare(const struct twin *t, struct env *e, u8 *area)
{
    struct cpu *c = e->c;
    random_xs(&c->xs, t->kind == PLAIN);
    random_bytes(area, AREA);
    if (t->kind == RESTORE)
        random_image(area);
    if (t->kind == GATHER) {
        for (unsigned i = 0; i < 4; i++) { // small indices in every width
            u64 lo = rnd() & 0x1f, hi = (rnd() & 1) && strstr(t->name, "gatherd") ? (u64)((rnd() & 0xf) << 32) : 0;
            u64 q = lo | hi;
            memcpy(i < 2 ? c->xs.xmm[2] + 8 * i : c->xs.ymmh[2] + 8 * (i - 2), &q, 8);
        }
        random_bytes(c->xs.xmm[3], 16);
        random_bytes(c->xs.ymmh[3], 16);
    }
    for (unsigned r = 0; r < 16; r++)
        c->gpr[r] = rnd();
    c->gpr[X86_RAX] = rnd() & 1 ? 7 : rnd() & 7; // components that guest and host both have
    c->gpr[X86_RDX] = 0;
    c->gpr[X86_RSP] = STACK0;
    c->gpr[X86_RBX] = c->gpr[X86_RDI] = DATA;
    c->fcs = c->fds = 0;
    c->rip = CODE;
}

static void run_processor(const struct twin *t, const struct cpu *c, u8 *code, u8 *area)
{
    static const u8 jump[] = {0xff, 0x25, 0, 0, 0, 0};
    const void *back = raw_back;
    memcpy(code, t->bytes, t->len);
    memcpy(code + t->len, jump, sizeof jump);
    memcpy(code + t->len + sizeof jump, &back, 8);
    memcpy(raw_gpr, c->gpr, sizeof raw_gpr);
    raw_gpr[X86_RBX] = raw_gpr[X86_RDI] = (u64)area;
    raw_flags = 0x202;
    raw_xs = c->xs;
    raw_xs.xstate_bv = 7;
    raw_xs.xcomp_bv = 0;
    raw_code = code;
    raw_run();
}

static const char *xs_difference(const struct x86_xsave *a, const struct x86_xsave *b)
{
    if (a->fcw != b->fcw || a->fsw != b->fsw || a->ftw != b->ftw)
        return "x87 words";
    if (memcmp(a->st, b->st, sizeof a->st))
        return "x87 registers";
    if (x87_pending(b) && (a->fip != b->fip || a->fdp != b->fdp || a->fop != b->fop))
        return "x87 pointers";
    if (a->mxcsr != b->mxcsr)
        return "mxcsr";
    if (memcmp(a->xmm, b->xmm, sizeof a->xmm))
        return "xmm";
    return memcmp(a->ymmh, b->ymmh, sizeof a->ymmh) ? "ymm upper halves" : NULL;
}

static bool host_is_amd(void)
{
    u32 a, b, c, d;
    return __get_cpuid(0, &a, &b, &c, &d) && b == 0x68747541 && __get_cpuid(0x80000008, &a, &b, &c, &d) && b & 4;
}

static bool host_runs_twins(void)
{
    u32 a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && b & 1u << 5 && __get_cpuid_count(13, 1, &a, &b, &c, &d) &&
           (a & 3) == 3;
}

static void one_twin(struct env *e, const struct twin *t, u8 *code, u8 *area)
{
    u8 *mem = e->t->ram + DATA;
    prepare(t, e, area);
    memcpy(mem, area, AREA);
    run_processor(t, e->c, code, area);
    run_bytes(e, t->bytes, t->len);
    const char *what = e->c->event.type != CPU_EVENT_NONE ? "exception" : xs_difference(&e->c->xs, &raw_xs);
    if (!what && (u16)e->c->gpr[X86_RAX] != (u16)raw_gpr[X86_RAX])
        what = "rax";
    if (strstr(t->name, "save"))
        memcpy(mem + 28, area + 28, 4); // MXCSR_MASK is the processor's
    for (unsigned i = 0; i < AREA && !what; i++) {
        if (mem[i] == area[i])
            continue;
        fprintf(stderr, "byte %u: %02x, processor %02x\n", i, mem[i], area[i]);
        what = "memory";
    }
    if (what)
        fail_msg("%s: %s (event %u)", t->name, what, e->c->event.vector);
}

static void test_twins(void **state)
{
    struct env *e = *state;
    if (!host_is_amd() || !host_runs_twins()) {
        print_message("skipped: what XINUSE and the x87 pointers look like differs between processors\n");
        return;
    }
    u8 *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    u8 *area = aligned_alloc(64, AREA);
    e->x->isa_options |= ISA_OPT_AMD;
    for (unsigned i = 0; i < ARRAY_LEN(twins); i++)
        for (unsigned round = 0; round < ROUNDS; round++)
            one_twin(e, &twins[i], code, area);
    free(area);
    munmap(code, 4096);
}

// --- checks before execution ------------------------------------------------------------------------------------------------

struct check_case {
    const char *bytes;
    unsigned len;
    u32 cr0_set, cr4_clear;
    u8 xcr0;
    i8 vector; // -1: runs
};

#define C(bytes, cr0, cr4, xcr0, vector) \
    { \
        bytes, sizeof(bytes) - 1, cr0, cr4, xcr0, vector \
    }

static const struct check_case checks[] = {
    C("\x0f\x58\xc1", 0, 0, 7, -1), // addps
    C("\x0f\x58\xc1", X86_CR0_TS, 0, 7, X86_EXC_NM),
    C("\x0f\x58\xc1", X86_CR0_EM, 0, 7, X86_EXC_UD),
    C("\x0f\x58\xc1", X86_CR0_EM | X86_CR0_TS, 0, 7, X86_EXC_UD),
    C("\x0f\x58\xc1", X86_CR0_TS, X86_CR4_OSFXSR, 7, X86_EXC_UD),
    C("\xc5\xf0\x58\xc2", 0, 0, 7, -1), // vaddps
    C("\xc5\xf0\x58\xc2", X86_CR0_EM, 0, 7, -1),
    C("\xc5\xf0\x58\xc2", X86_CR0_TS, 0, 7, X86_EXC_NM),
    C("\xc5\xf0\x58\xc2", 0, X86_CR4_OSFXSR, 7, -1),
    C("\xc5\xf0\x58\xc2", X86_CR0_TS, X86_CR4_OSXSAVE, 7, X86_EXC_UD),
    C("\xc5\xf0\x58\xc2", 0, 0, 3, X86_EXC_UD),
    C("\xc4\xe2\x70\xf2\xc2", X86_CR0_EM | X86_CR0_TS, X86_CR4_OSXSAVE, 1, -1), // andn
    C("\xd9\xe8", X86_CR0_EM, 0, 7, X86_EXC_NM),                                // fld1
    C("\xd9\xe8", X86_CR0_TS, 0, 7, X86_EXC_NM),
    C("\x9b", X86_CR0_TS, 0, 7, X86_EXC_NM), // fwait, MP set
    C("\x9b", X86_CR0_EM, 0, 7, -1),
    C("\xdb\xe3", X86_CR0_EM, 0, 7, X86_EXC_NM),     // fninit
    C("\x0f\xfc\xc1", X86_CR0_EM, 0, 7, X86_EXC_UD), // paddb mm
    C("\x0f\xfc\xc1", X86_CR0_TS, 0, 7, X86_EXC_NM),
    C("\x0f\xfc\xc1", 0, X86_CR4_OSFXSR, 7, -1),
    C("\x0f\xae\x03", X86_CR0_EM, 0, 7, X86_EXC_NM), // fxsave
    C("\x0f\xae\x03", X86_CR0_TS, 0, 7, X86_EXC_NM),
    C("\x0f\xae\x03", 0, X86_CR4_OSFXSR, 7, -1),
    C("\x0f\xae\x23", X86_CR0_TS, X86_CR4_OSXSAVE, 7, X86_EXC_UD), // xsave
    C("\x0f\xae\x23", X86_CR0_TS, 0, 7, X86_EXC_NM),
    C("\x0f\xae\x23", X86_CR0_EM, 0, 7, -1),
    C("\x0f\xae\x1b", X86_CR0_EM, 0, 7, X86_EXC_UD), // stmxcsr
    C("\x0f\xae\x1b", X86_CR0_TS, 0, 7, X86_EXC_NM),
    C("\xf3\x0f\xb8\xc1", X86_CR0_EM | X86_CR0_TS, X86_CR4_OSFXSR, 1, -1),     // popcnt
    C("\xf2\x0f\x38\xf1\xc1", X86_CR0_EM | X86_CR0_TS, X86_CR4_OSFXSR, 1, -1), // crc32
};

static void test_checks(void **state)
{
    struct env *e = *state;
    struct cpu start = *e->c;
    for (unsigned i = 0; i < ARRAY_LEN(checks); i++) {
        const struct check_case *k = &checks[i];
        *e->c = start;
        e->c->rip = CODE;
        e->c->cr0 |= k->cr0_set;
        e->c->cr4 &= ~(u64)k->cr4_clear;
        e->c->xcr0 = k->xcr0;
        run_bytes(e, k->bytes, k->len);
        if ((k->vector < 0) != (e->c->event.type == CPU_EVENT_NONE))
            print_message("case %u\n", i);
        if (k->vector >= 0)
            expect_fault(e, (unsigned)k->vector, -1);
        else
            expect_ok(e);
    }
}

// VEX is #UD in real and v8086 mode; it is LES and LDS there with memory operands, so registers are used.
static void test_vex_real_mode(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    c->cr0 = X86_CR0_ET;
    c->cr4 = X86_CR4_OSFXSR | X86_CR4_OSXSAVE;
    c->xcr0 = 7;
    for (unsigned s = 0; s < 6; s++)
        c->seg[s] = (struct x86_seg){.limit = 0xffff, .attr = 0x93};
    c->rip = 0x8000;
    c->rflags = 2;
    mmu_state_changed(e->t->v);
    RUN(e, "\xc5\xf0\x58\xc2");
    expect_fault(e, X86_EXC_UD, -1);
    RUN(e, "\xc4\xe2\x70\xf2\xc2");
    expect_fault(e, X86_EXC_UD, -1);
    RUN(e, "\x0f\x58\xc1");
    expect_ok(e);
}

// --- alignment ----------------------------------------------------------------------------------------------------------------

static void test_alignment(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    c->gpr[X86_RBX] = DATA + 8;
    RUN(e, "\x0f\x58\x03"); // addps xmm0, [rbx]
    expect_fault(e, X86_EXC_GP, 0);
    RUN(e, "\x0f\x29\x03"); // movaps [rbx], xmm0
    expect_fault(e, X86_EXC_GP, 0);
    RUN(e, "\x0f\xae\x03"); // fxsave
    expect_fault(e, X86_EXC_GP, 0);
    c->gpr[X86_RBX] = DATA + 32;
    RUN(e, "\x0f\xae\x23"); // xsave
    expect_fault(e, X86_EXC_GP, 0);
    RUN(e, "\xc5\xfc\x28\x03"); // vmovaps ymm0, [rbx]
    expect_ok(e);
    c->gpr[X86_RBX] = DATA + 16;
    c->rip = CODE;
    RUN(e, "\xc5\xfc\x28\x03");
    expect_fault(e, X86_EXC_GP, 0);
    c->gpr[X86_RBX] = DATA + 1;
    RUN(e, "\x0f\x10\x03"); // movups
    expect_ok(e);
}

// With alignment checks in force what may be misaligned raises #AC, and what must not keeps its #GP.
static void test_alignment_check(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    load_cache(e, X86_CS, CODE64_3 | 3);
    load_cache(e, X86_SS, DATA3 | 3);
    c->cpl = 3;
    c->cr0 |= X86_CR0_AM;
    c->rflags |= X86_FL_AC;
    mmu_state_changed(e->t->v);
    c->gpr[X86_RBX] = DATA + 8;
    RUN(e, "\x0f\x10\x03"); // movups
    expect_fault(e, X86_EXC_AC, 0);
    RUN(e, "\x0f\x28\x03"); // movaps
    expect_fault(e, X86_EXC_GP, 0);
    RUN(e, "\xdb\x2b"); // fld m80: 8 is enough
    expect_ok(e);
    c->rip = CODE;
    c->gpr[X86_RBX] = DATA + 4;
    RUN(e, "\xdb\x2b");
    expect_fault(e, X86_EXC_AC, 0);
    RUN(e, "\xf3\x0f\x10\x03"); // movss
    expect_ok(e);
    c->rip = CODE;
    RUN(e, "\xc4\xe2\x6d\x2c\x0b"); // vmaskmovps: elements are never checked
    expect_ok(e);
}

// --- SIMD exceptions ------------------------------------------------------------------------------------------------------------

static void set_float(struct cpu *c, unsigned reg, float v)
{
    memcpy(c->xs.xmm[reg], &v, 4);
}

// The machine is built inside the test: cmocka has signal handlers of its own while a test runs.
static void test_simd_exception(void **unused)
{
    void *state;
    (void)unused;
    env_simd(&state);
    struct env *e = state;
    struct cpu *c = e->c;
    set_float(c, 0, 1.0f);
    set_float(c, 1, 0.0f);
    c->xs.mxcsr = X86_MXCSR_DEFAULT & ~(u32)(4 << X86_MXCSR_MASK_SHIFT); // divide by zero unmasked
    RUN(e, "\xf3\x0f\x5e\xc1");                                          // divss xmm0, xmm1
    assert_int_equal(c->xs.mxcsr, e->before.xs.mxcsr | 4);
    e->before.xs.mxcsr |= 4;
    expect_fault(e, X86_EXC_XM, -1);
    c->cr4 &= ~(u64)X86_CR4_OSXMMEXCPT;
    RUN(e, "\xf3\x0f\x5e\xc1");
    expect_fault(e, X86_EXC_UD, -1);
    c->xs.mxcsr = X86_MXCSR_DEFAULT;
    RUN(e, "\xf3\x0f\x5e\xc1");
    expect_ok(e);
    assert_int_equal(c->xs.mxcsr, X86_MXCSR_DEFAULT | 4);
    env_free(&state);
}

// The memory operand faults before anything is computed.
static void test_fault_before_exception(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    c->xs.mxcsr = 0;
    c->gpr[X86_RBX] = 0x8000000000000000;
    RUN(e, "\xf3\x0f\x5e\x03");
    expect_fault(e, X86_EXC_GP, 0);
    c->xs.mxcsr = X86_MXCSR_DEFAULT;
    c->gpr[X86_RBX] = DATA;
    put(e, DATA, 4, 0x10000);
    RUN(e, "\x0f\xae\x13"); // ldmxcsr: reserved bit
    expect_fault(e, X86_EXC_GP, 0);
}

// --- x87 exceptions and pointers --------------------------------------------------------------------------------------------------

static void test_x87_pending(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    c->xs.fcw = 0x37e; // invalid operation unmasked
    put(e, DATA, 4, 0x11223344);
    c->xs.fsw = 0;
    c->xs.ftw = 0;
    RUN(e, "\xdb\x1b"); // fistp dword [rbx] of an empty register
    expect_ok(e);
    assert_int_equal(get(e, DATA, 4), 0x11223344);
    assert_int_equal(c->xs.fsw & 0x80ff, 0x80c1);
    assert_int_equal(c->xs.fip, CODE);
    assert_int_equal(c->xs.fdp, DATA);
    assert_int_equal(c->xs.fop, 0x31b);
    assert_int_equal(c->fcs, CODE64);
    c->rip = CODE + 0x20;
    RUN(e, "\xd9\xe8"); // fld1 waits
    expect_fault(e, X86_EXC_MF, -1);
    RUN(e, "\x9b");
    expect_fault(e, X86_EXC_MF, -1);
    RUN(e, "\x0f\xfc\xc1"); // paddb mm waits
    expect_fault(e, X86_EXC_MF, -1);
    RUN(e, "\x0f\x2a\x03"); // cvtpi2ps xmm, m64 does not
    expect_ok(e);
    RUN(e, "\xdf\xe0"); // fnstsw ax does not
    expect_ok(e);
    assert_int_equal((u16)c->gpr[X86_RAX], c->xs.fsw);
    assert_int_equal(c->xs.fip, CODE);
    RUN(e, "\xdb\xe2"); // fnclex
    expect_ok(e);
    assert_int_equal(c->xs.fsw & 0x80ff, 0);
}

static void note_ferr(void *sink, unsigned n, bool level)
{
    (void)n;
    *(int *)sink += level ? 1 : 100;
}

// CR0.NE clear: FERR# and a standstill before the waiting instruction, unless IGNNE# is asserted.
static void test_ferr(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    int changes = 0;
    c->cr0 &= ~(u64)X86_CR0_NE;
    x87_set_words(&c->xs, 0x37e, 1);
    RUN(e, "\xd9\xe8"); // fld1, no line connected: runs
    expect_ok(e);
    assert_int_equal(c->rip, CODE + 2);
    e->t->v->ferr = (struct irq_line){note_ferr, &changes, 0};
    c->rip = CODE;
    RUN(e, "\xd9\xe8");
    expect_ok(e);
    assert_int_equal(c->rip, CODE);
    assert_int_equal(c->activity, CPU_HALTED);
    assert_int_equal(changes, 1);
    c->activity = CPU_RUNNING;
    e->t->v->ignne = true;
    RUN(e, "\xd9\xe8");
    assert_int_equal(c->rip, CODE + 2);
    RUN(e, "\xdb\xe2"); // fnclex, and the next waiting instruction lets FERR# go
    RUN(e, "\x9b");
    expect_ok(e);
    assert_int_equal(changes, 101);
    assert_int_equal(c->activity, CPU_RUNNING);
}

// With only inexactness unmasked the result is stored all the same.
static void test_x87_inexact_store(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    c->xs.fcw = 0x35f;
    c->xs.fsw = 0;
    c->xs.ftw = 1;
    memcpy(c->xs.st[0], "\0\0\0\0\0\0\0\xc0\xff\x3f", 10); // 1.5
    put(e, DATA, 4, 0x11223344);
    RUN(e, "\xdb\x13"); // fist dword [rbx]
    expect_ok(e);
    assert_int_equal(get(e, DATA, 4), 2);
    assert_int_equal(c->xs.fsw & 0x80a0, 0x80a0);
}

// --- the environment outside 64-bit mode ------------------------------------------------------------------------------------------

static void env_pointers(struct cpu *c)
{
    c->xs.fcw = 0x37f;
    c->xs.fsw = 0x3800;
    c->xs.ftw = 0x80;
    memcpy(c->xs.st[0], "\0\0\0\0\0\0\0\x80\xff\x3f", 10);
    c->xs.fop = 0x123;
    c->xs.fip = 0x12345678;
    c->xs.fdp = 0x9abcdef0;
    c->fcs = 0x1111;
    c->fds = 0x2222;
}

static void expect_env(struct env *e, const u32 *w, unsigned size)
{
    for (unsigned i = 0; i < 7; i++)
        assert_int_equal(get(e, DATA + i * size, size), w[i] & (size == 4 ? 0xffffffff : 0xffff));
}

static void test_env_protected(void **state)
{
    struct env *e = *state;
    static const u32 wide[] = {0xffff037f, 0xffff3800, 0xffff3fff, 0x12345678, 0x01231111, 0x9abcdef0, 0xffff2222};
    static const u32 narrow[] = {0x037f, 0x3800, 0x3fff, 0x5678, 0x1111, 0xdef0, 0x2222};
    e->c->gpr[X86_RBX] = DATA;
    env_pointers(e->c);
    RUN(e, "\xd9\x33");
    expect_ok(e);
    expect_env(e, wide, 4);
    env_pointers(e->c);
    RUN(e, "\x66\xd9\x33");
    expect_ok(e);
    expect_env(e, narrow, 2);
    assert_int_equal(e->c->xs.fcw, 0x37f);
    env_pointers(e->c);
    e->c->xs.fcw = 0x360;
    RUN(e, "\xd9\x33"); // fnstenv masks all exceptions
    assert_int_equal(e->c->xs.fcw, 0x37f);
}

static void test_env_real(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    // Linear pointers 0x1111 * 16 + 0x5678 = 0x16788 and 0x2222 * 16 + 0xdef0 = 0x30110.
    static const u32 narrow[] = {0x037f, 0x3800, 0x3fff, 0x6788, 0x1123, 0x0110, 0x3000};
    static const u32 wide[] = {0xffff037f, 0xffff3800, 0xffff3fff, 0xffff6788, 0x00001123, 0xffff0110, 0x00003000};
    c->cr0 = X86_CR0_ET;
    for (unsigned s = 0; s < 6; s++)
        c->seg[s] = (struct x86_seg){.limit = 0xffff, .attr = 0x93};
    c->seg[X86_DS].base = DATA;
    c->rip = 0x8000;
    c->gpr[X86_RBX] = 0;
    mmu_state_changed(e->t->v);
    env_pointers(c);
    c->xs.fip = 0x5678;
    c->xs.fdp = 0xdef0;
    RUN(e, "\xd9\x37"); // fnstenv [bx]
    expect_ok(e);
    expect_env(e, narrow, 2);
    RUN(e, "\x66\xd9\x37");
    expect_ok(e);
    expect_env(e, wide, 4);
    RUN(e, "\x66\xd9\x27"); // fldenv [bx]: the linear pointer is what is known afterwards
    expect_ok(e);
    assert_int_equal(c->xs.fip, 0x16788);
    assert_int_equal(c->xs.fdp, 0x30110);
    assert_int_equal(c->xs.fop, 0x123);
}

// Eight registers outside 64-bit mode.
static void test_fxsave_32(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    c->cr4 = X86_CR4_OSFXSR;
    c->gpr[X86_RBX] = DATA;
    env_pointers(c);
    memset(c->xs.xmm, 0x5a, 256);
    memset(e->t->ram + DATA, 0xee, 512);
    RUN(e, "\x0f\xae\x03");
    expect_ok(e);
    assert_int_equal(get(e, DATA + 8, 8), 0x111112345678);
    assert_int_equal(get(e, DATA + 160 + 127, 1), 0x5a);
    assert_int_equal(get(e, DATA + 160 + 128, 1), 0xee);
    assert_int_equal(get(e, DATA + 464, 1), 0xee);
    c->cr4 = 0; // no SSE state without OSFXSR
    memset(e->t->ram + DATA, 0xee, 512);
    RUN(e, "\x0f\xae\x03");
    assert_int_equal(get(e, DATA + 24, 4), 0xeeeeeeee);
    assert_int_equal(get(e, DATA + 160, 1), 0xee);
    assert_int_equal(get(e, DATA, 2), 0x37f);
}

// --- XRSTOR's header ----------------------------------------------------------------------------------------------------------------

struct header_case {
    const char *bytes;
    u64 bv, comp;
    u64 rest; // bytes 16..23
    u64 tail; // bytes 56..63
    u32 mxcsr;
    u8 xcr0;
    bool ok;
};

#define COMPACT (1ull << 63)

static const struct header_case headers[] = {
    {"\x0f\xae\x2b", 7, 0, 0, 0, 0x1f80, 7, true},
    {"\x0f\xae\x2b", 7, 0, 0, 1, 0x1f80, 7, true}, // only bytes 8..23 are looked at
    {"\x0f\xae\x2b", 8, 0, 0, 0, 0x1f80, 7, false},
    {"\x0f\xae\x2b", 4, 0, 0, 0, 0x1f80, 3, false},
    {"\x0f\xae\x2b", 7, 1, 0, 0, 0x1f80, 7, false},
    {"\x0f\xae\x2b", 7, 0, 1, 0, 0x1f80, 7, false},
    {"\x0f\xae\x2b", 0, 0, 0, 0, 0x11f80, 7, false}, // MXCSR counts whatever XSTATE_BV says
    {"\x0f\xae\x2b", 7, COMPACT | 7, 0, 0, 0x1f80, 7, true},
    {"\x0f\xae\x2b", 3, COMPACT | 1, 0, 0, 0x1f80, 7, false},
    {"\x0f\xae\x2b", 1, COMPACT | 15, 0, 0, 0x1f80, 7, false},
    {"\x0f\xae\x2b", 1, COMPACT | 7, 0, 1, 0x1f80, 7, false},
    {"\x0f\xae\x2b", 0, COMPACT | 7, 0, 0, 0x11f80, 7, true}, // ... but not in the compacted format
    {"\x0f\xc7\x1b", 7, COMPACT | 7, 0, 0, 0x1f80, 7, true},  // xrstors
    {"\x0f\xc7\x1b", 7, 0, 0, 0, 0x1f80, 7, false},
};

static void test_xrstor_header(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    for (unsigned i = 0; i < ARRAY_LEN(headers); i++) {
        const struct header_case *h = &headers[i];
        memset(e->t->ram + DATA, 0, AREA);
        put(e, DATA, 2, 0x37f);
        put(e, DATA + 24, 4, h->mxcsr);
        put(e, DATA + 512, 8, h->bv);
        put(e, DATA + 520, 8, h->comp);
        put(e, DATA + 528, 8, h->rest);
        put(e, DATA + 568, 8, h->tail);
        c->xcr0 = h->xcr0;
        c->gpr[X86_RAX] = c->gpr[X86_RDX] = ~0ull;
        c->rip = CODE;
        run_bytes(e, h->bytes, 3);
        if (h->ok != (c->event.type == CPU_EVENT_NONE))
            print_message("case %u\n", i);
        if (h->ok)
            expect_ok(e);
        else
            expect_fault(e, X86_EXC_GP, 0);
    }
}

// An area without room for the AVX state: the compacted format is checked as far as XSTATE_BV reaches, the standard one as far as the
// request does.
static void test_xrstor_extent(void **state)
{
    static const struct {
        u64 request, bv, comp;
        bool ok;
    } k[] = {
        {7, 3, COMPACT | 7, true}, {7, 7, COMPACT | 7, false}, {3, 7, COMPACT | 7, true}, {7, 3, 0, false},
        {3, 3, 0, true},
    };
    struct env *e = *state;
    struct cpu *c = e->c;
    load_cache(e, X86_CS, CODE0);
    c->seg[X86_DS].limit = DATA + 575;
    c->xcr0 = 7;
    c->gpr[X86_RDX] = 0;
    memset(e->t->ram + DATA, 0, AREA);
    put(e, DATA + 24, 4, X86_MXCSR_DEFAULT);
    for (unsigned i = 0; i < ARRAY_LEN(k); i++) {
        put(e, DATA + 512, 8, k[i].bv);
        put(e, DATA + 520, 8, k[i].comp);
        c->gpr[X86_RAX] = k[i].request;
        c->rip = CODE;
        RUN(e, "\x0f\xae\x2b");
        if (k[i].ok)
            expect_ok(e);
        else
            expect_fault(e, X86_EXC_GP, 0);
    }
}

static void test_xsaves_privilege(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    load_cache(e, X86_CS, CODE64_3 | 3);
    load_cache(e, X86_SS, DATA3 | 3);
    c->cpl = 3;
    mmu_state_changed(e->t->v);
    RUN(e, "\x0f\xc7\x2b"); // xsaves
    expect_fault(e, X86_EXC_GP, 0);
    RUN(e, "\x0f\xc7\x1b"); // xrstors
    expect_fault(e, X86_EXC_GP, 0);
    c->gpr[X86_RAX] = 7;
    c->gpr[X86_RDX] = 0;
    RUN(e, "\x0f\xc7\x23"); // xsavec
    expect_ok(e);
}

// --- restart of a gather ------------------------------------------------------------------------------------------------------------

static void test_gather_restart(void **state)
{
    struct env *e = *state;
    struct cpu *c = e->c;
    static const u32 index[4] = {1, 0, 0x10000000, 2}; // the third lies beyond the mapped 2 MiB
    for (unsigned i = 0; i < 4; i++)
        put(e, DATA + 4 * i, 4, 0x1000 + i);
    memcpy(c->xs.xmm[2], index, 16);
    memset(c->xs.xmm[1], 0, 16);
    memset(c->xs.ymmh[1], 0x77, 16);
    memset(c->xs.xmm[3], 0xff, 16);
    memset(c->xs.ymmh[3], 0xff, 16);
    RUN(e, "\xc4\xe2\x61\x90\x0c\x93"); // vpgatherdd xmm1, [rbx+xmm2*4], xmm3
    assert_int_equal(c->event.type, CPU_EVENT_EXCEPTION);
    assert_int_equal(c->event.vector, X86_EXC_PF);
    assert_int_equal(c->event.cr2, DATA + 0x40000000u);
    u32 r[4], m[4];
    memcpy(r, c->xs.xmm[1], 16);
    memcpy(m, c->xs.xmm[3], 16);
    assert_int_equal(r[0], 0x1001);
    assert_int_equal(r[1], 0x1000);
    assert_int_equal(m[0] | m[1], 0);
    assert_int_equal(m[2] & m[3], 0xffffffff);
    assert_int_equal(c->rip, CODE);
    assert_int_equal(c->xs.ymmh[1][0], 0x77);
}

int main(void)
{
#define SIMD(f) cmocka_unit_test_setup_teardown(f, env_simd, env_free)
#define PROTECTED(f) cmocka_unit_test_setup_teardown(f, env_protected, env_free)
    const struct CMUnitTest tests[] = {
        SIMD(test_twins),
        SIMD(test_checks),
        PROTECTED(test_vex_real_mode),
        SIMD(test_alignment),
        SIMD(test_alignment_check),
        cmocka_unit_test(test_simd_exception),
        SIMD(test_fault_before_exception),
        SIMD(test_x87_pending),
        SIMD(test_ferr),
        SIMD(test_x87_inexact_store),
        PROTECTED(test_env_protected),
        PROTECTED(test_env_real),
        PROTECTED(test_fxsave_32),
        SIMD(test_xrstor_header),
        SIMD(test_xrstor_extent),
        SIMD(test_xsaves_privilege),
        SIMD(test_gather_restart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
