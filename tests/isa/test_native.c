// Thunks of isa/native against the instruction itself: random encodings of every form with ISA_ATTR_NATIVE that this processor
// has are run once as they stand, with all registers loaded (raw_run.S), and once through a thunk, from the same state. What
// they leave in registers, flags, MXCSR, x87 and memory must be equal bit for bit, and so must be the SIMD exceptions that are
// raised with random masks.
#include <cpuid.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cmocka.h>

#include "engine/interp/simd.h"
#include "host/native_arena.h"
#include "isa/native.h"

#define TRIES 1500000u
#define BUFFER 64

extern struct x86_xsave raw_xs;
extern u64 raw_gpr[16], raw_flags;
extern const void *raw_code;
void raw_run(void);
extern const char raw_back[];

struct state {
    u64 gpr[16];
    u64 flags;
    struct x86_xsave xs;
    u8 mem[BUFFER];
    bool fault;
};

static u64 seed = 0x853c49e6748fea9bull;
static u8 *buffer; // below 4 GiB, so that 32-bit addresses reach it
static u8 *code;
static bool raw_fault;
static struct host_code arena;
static struct native_cache *cache;
static struct state guest;

static u64 rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1dull;
}

static unsigned pick(unsigned n)
{
    return (unsigned)((rnd() >> 32) % n);
}

// --- the two executions ---------------------------------------------------------------------------------------------------

static void on_fpe(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;
    (void)sig, (void)info;
    raw_fault = true;
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)raw_back;
}

static void on_native_fault(struct host_fault *f)
{
    f->pc = (u64)native_fault(f->rdi, f->mxcsr);
}

static void run_raw(const u8 *bytes, unsigned len, struct state *s)
{
    static const u8 jump[] = {0xff, 0x25, 0, 0, 0, 0};
    const void *back = raw_back;
    memcpy(code, bytes, len);
    memcpy(code + len, jump, sizeof jump);
    memcpy(code + len + sizeof jump, &back, 8);
    memcpy(raw_gpr, s->gpr, sizeof s->gpr);
    raw_flags = s->flags;
    raw_xs = s->xs;
    raw_code = code;
    memcpy(buffer, s->mem, BUFFER);
    raw_fault = false;
    raw_run();
    memcpy(s->gpr, raw_gpr, sizeof s->gpr);
    s->flags = raw_flags;
    s->xs = raw_xs;
    memcpy(s->mem, buffer, BUFFER);
    s->fault = raw_fault;
}

static bool run_thunk(const struct insn *in, const u8 *bytes, struct state *s)
{
    guest = *s;
    const struct native_op *op = native_bind(cache, in, bytes);
    if (!op)
        return false;
    memcpy(cache->ctx.mem, s->mem, BUFFER);
    cache->ctx.flags = s->flags;
    guest.fault = native_call(op, &cache->ctx);
    if (guest.fault) {
        guest.xs.mxcsr = cache->ctx.fault_mxcsr;
        if (simd_names_mmx(in))
            x87_enter_mmx(&guest.xs); // the caller's part, see native.h
    }
    *s = guest;
    if (op->flags & NATIVE_OP_FLAGS)
        s->flags = cache->ctx.flags;
    memcpy(s->mem, cache->ctx.mem, BUFFER);
    return true;
}

// --- random states ----------------------------------------------------------------------------------------------------------

static u32 random_float(void)
{
    static const u32 corner[] = {0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000,
                                 0x7fc00000, 0x7fa00000, 0x00000001, 0x007fffff, 0x00800000, 0x7f7fffff,
                                 0x4f000000, 0xcf000000, 0x3f000000, 0x40400000};
    return pick(3) ? corner[pick(16)] : (u32)rnd();
}

static u64 random_double(void)
{
    static const u64 corner[] = {0,
                                 1ull << 63,
                                 0x3ff0000000000000,
                                 0xbff0000000000000,
                                 0x7ff0000000000000,
                                 0xfff0000000000000,
                                 0x7ff8000000000000,
                                 0x7ff4000000000000,
                                 1,
                                 0x000fffffffffffff,
                                 0x0010000000000000,
                                 0x7fefffffffffffff,
                                 0x41e0000000000000,
                                 0x43e0000000000000,
                                 0x36a0000000000000,
                                 0x4008000000000000};
    return pick(3) ? corner[pick(16)] : rnd();
}

static void random_vector(u8 *p)
{
    u64 q[2] = {random_double(), random_double()};
    switch (pick(3)) {
    case 0:
        for (unsigned i = 0; i < 2; i++)
            q[i] = random_float() | (u64)random_float() << 32;
        break;
    case 1: q[0] = rnd(), q[1] = rnd(); break;
    default: break;
    }
    memcpy(p, q, 16);
}

static void random_st(u8 *p)
{
    static const u16 exponents[] = {0, 0x8000, 0x3fff, 0xbfff, 0x7fff, 0xffff, 0x4000, 0x0001, 0x7ffe, 0x403e};
    u16 se = pick(3) ? exponents[pick(10)] : (u16)rnd();
    u64 m = pick(3) ? 1ull << 63 | (pick(2) ? rnd() : 0) : pick(2) ? rnd() : 0;
    memset(p, 0, 16);
    memcpy(p, &m, 8);
    memcpy(p + 8, &se, 2);
}

static void random_state(struct state *s)
{
    memset(s, 0, sizeof *s);
    for (unsigned i = 0; i < 16; i++)
        s->gpr[i] = pick(4) ? rnd() : rnd() & 0xff;
    s->flags = 0x202 | (rnd() & X86_FL_STATUS);
    struct x86_xsave *xs = &s->xs;
    xs->fcw = (u16)(0x007f | (rnd() & 0x0f00));
    if (pick(4) == 0)
        xs->fcw = (u16)(0x0040 | (rnd() & 0x0f3f));
    xs->fsw = (u16)(rnd() & 0x7f00);
    xs->ftw = pick(2) ? (u8)rnd() : 0xff;
    xs->mxcsr = (u32)(0x1f80 | (rnd() & 0xe040));
    if (pick(8) == 0)
        xs->mxcsr = (u32)(rnd() & 0xffff);
    for (unsigned i = 0; i < 8; i++)
        random_st(xs->st[i]);
    for (unsigned i = 0; i < 16; i++) {
        random_vector(xs->xmm[i]);
        random_vector(xs->ymmh[i]);
    }
    xs->xstate_bv = 7;
    for (unsigned i = 0; i < BUFFER; i += 16)
        random_vector(s->mem + i);
}

// --- random encodings ---------------------------------------------------------------------------------------------------------

static unsigned random_code(u8 *b, enum isa_mode mode)
{
    static const u8 mandatory[] = {0, 0x66, 0xf3, 0xf2};
    unsigned n = 0;
    for (unsigned i = 0; i < 16; i++)
        b[i] = (u8)rnd();
    unsigned kind = pick(16);
    if (kind == 0) { // x87
        b[n++] = (u8)(0xd8 + pick(8));
        return n;
    }
    if (kind < 8) {
        if (pick(8) == 0 && mode == ISA_MODE_64)
            b[n++] = 0x67;
        if (pick(8) == 0)
            b[n++] = 0x66;
        u8 p = mandatory[pick(4)];
        if (p)
            b[n++] = p;
        if (mode == ISA_MODE_64 && pick(2))
            b[n++] = (u8)(0x40 + pick(16));
        b[n++] = 0x0f;
        unsigned map = pick(3);
        if (map)
            b[n++] = map == 1 ? 0x38 : 0x3a;
        return n;
    }
    // Bit 6 set in 32-bit code: else it is LES.
    b[n++] = 0xc4;
    b[n] = (u8)((b[n] & 0xe0) | (1 + pick(3)) | (mode == ISA_MODE_64 ? 0 : 0xe0));
    if (mode != ISA_MODE_64)
        b[n + 1] |= 0x40; // the high bit of vvvv means nothing there
    if (pick(2))
        b[n + 1] |= 0x78; // vvvv unused
    n += 2;
    return n;
}

static bool host_has(enum isa_feature f)
{
    const struct isa_feature_info *i = &isa_features[f];
    u32 r[4];
    if (f == ISA_FEAT_NONE)
        return true;
    if (i->leaf < 0x80000000 && i->leaf > __get_cpuid_max(0, NULL))
        return false;
    __cpuid_count(i->leaf, i->subleaf, r[0], r[1], r[2], r[3]);
    return r[i->reg] >> i->bit & 1;
}

static bool usable(unsigned form)
{
    const struct isa_form_info *f = &isa_forms[form];
    return f->attr & ISA_ATTR_NATIVE && f->op != ISA_OP_FWAIT && host_has((enum isa_feature)f->feature);
}

// Bytes of 32-bit code that mean the same in 64-bit code (REX, 16-bit addresses and absolute ones never get here).
static bool same_in_64(const struct insn *in)
{
    bool gpr = false;
    for (unsigned i = 0; i < in->nopnd; i++)
        gpr = gpr || in->opnd[i].kind == ISA_OPND_GPR || (in->opnd[i].kind == ISA_OPND_MEM && in->opnd[i].size == 4);
    if (in->enc == ISA_ENC_LEGACY)
        return true;
    return !(in->rex & ISA_REX_W && gpr) && !(isa_forms[in->form].field[3] == ISA_FIELD_IS4 && in->imm & 0x80);
}

// Make the memory operand, if there is one, point at the buffer. False when it cannot.
static bool aim(const struct insn *in, struct state *s)
{
    bool mem = false;
    for (unsigned i = 0; i < in->nopnd; i++)
        mem = mem || in->opnd[i].kind == ISA_OPND_MEM;
    if (!mem)
        return true;
    if (in->base >= 16 || in->base == in->index || in->seg >= X86_FS || in->adsize == 2)
        return false;
    u64 ea = (u64)buffer - (u64)in->disp;
    if (in->index != ISA_REG_NONE)
        ea -= s->gpr[in->index] << in->scale;
    bool narrow = in->mode == ISA_MODE_64 && in->adsize == 4;
    s->gpr[in->base] = narrow ? (ea & 0xffffffff) | rnd() << 32 : ea;
    return true;
}

// --- comparison -----------------------------------------------------------------------------------------------------------------

static const char *difference(const struct state *a, const struct state *b)
{
    const struct x86_xsave *x = &a->xs, *y = &b->xs;
    if (a->fault != b->fault)
        return "exception";
    if (x->mxcsr != y->mxcsr)
        return "mxcsr";
    if (memcmp(a->gpr, b->gpr, sizeof a->gpr))
        return "general registers";
    if ((a->flags ^ b->flags) & X86_FL_STATUS)
        return "flags";
    if (x->fcw != y->fcw || x->fsw != y->fsw || x->ftw != y->ftw)
        return "x87 words";
    if (memcmp(x->st, y->st, sizeof x->st))
        return "x87 registers";
    if (memcmp(x->xmm, y->xmm, sizeof x->xmm))
        return "xmm";
    if (memcmp(x->ymmh, y->ymmh, sizeof x->ymmh))
        return "ymm upper halves";
    return memcmp(a->mem, b->mem, BUFFER) ? "memory" : NULL;
}

static void complain(const struct insn *in, const u8 *bytes, const char *what)
{
    fprintf(stderr, "%s:", isa_forms[in->form].name);
    for (unsigned i = 0; i < in->len; i++)
        fprintf(stderr, " %02x", bytes[i]);
    fprintf(stderr, ": %s\n", what);
}

static void sweep(enum isa_mode mode, unsigned tries)
{
    static unsigned seen[ISA_FORM_COUNT];
    unsigned bad = 0, runs = 0, faults = 0;
    memset(seen, 0, sizeof seen);
    for (unsigned t = 0; t < tries && bad < 20; t++) {
        u8 bytes[16];
        struct insn in;
        struct state raw, native;
        random_code(bytes, mode);
        if (isa_decode(bytes, 15, mode, 0, &in) != ISA_OK || !usable(in.form) ||
            (mode != ISA_MODE_64 && !same_in_64(&in)))
            continue;
        random_state(&raw);
        if (!aim(&in, &raw))
            continue;
        native = raw;
        run_raw(bytes, in.len, &raw);
        const char *what = run_thunk(&in, bytes, &native) ? difference(&raw, &native) : "no thunk";
        if (what) {
            complain(&in, bytes, what);
            bad++;
        }
        seen[in.form]++;
        runs++;
        faults += raw.fault;
    }
    unsigned forms = 0, missed = 0;
    for (unsigned f = 1; f < ISA_FORM_COUNT; f++) {
        if (!usable(f) || (isa_forms[f].attr & (mode == ISA_MODE_64 ? ISA_ATTR_I64 : ISA_ATTR_O64)))
            continue;
        forms++;
        if (!seen[f] && ++missed <= 20 && mode == ISA_MODE_64)
            fprintf(stderr, "never met: %s\n", isa_forms[f].name);
    }
    printf("%u runs, %u of %u forms, %u SIMD exceptions, %u thunks thrown away %u times\n", runs, forms - missed, forms,
           faults, cache->count, cache->generation);
    assert_int_equal(bad, 0);
    if (mode == ISA_MODE_64)
        assert_int_equal(missed, 0);
    assert_true(faults > 100);
}

// --- set-up -----------------------------------------------------------------------------------------------------------------------

// Inside the test: cmocka has handlers of its own while a test runs.
static int setup(void)
{
    static u8 stack[65536];
    stack_t ss = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction sa = {.sa_flags = SA_SIGINFO | SA_ONSTACK};
    sa.sa_sigaction = on_fpe;
    if (sigaltstack(&ss, NULL) || sigaction(SIGFPE, &sa, NULL))
        return -1;
    buffer = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cache = aligned_alloc(64, (sizeof *cache + 63) & ~63ul);
    if (buffer == MAP_FAILED || code == MAP_FAILED || !cache)
        return -1;
    // After our handler, which then gets what is not from a thunk. Small, so that it overflows.
    if (native_arena_alloc(NULL, "test", 64 << 10, 0, on_native_fault, &arena))
        return -1;
    memset(cache, 0, sizeof *cache);
    native_init(cache, arena.write, arena.exec, (u32)arena.size, guest.gpr, &guest.xs);
    return 0;
}

static void teardown(void)
{
    native_arena_free(NULL, &arena);
    munmap(buffer, 4096);
    munmap(code, 4096);
    free(cache);
}

static void test_all_forms_64(void **unused)
{
    (void)unused;
    assert_int_equal(setup(), 0);
    sweep(ISA_MODE_64, TRIES);
    teardown();
}

static void test_all_forms_32(void **unused)
{
    (void)unused;
    assert_int_equal(setup(), 0);
    sweep(ISA_MODE_32, TRIES / 4);
    teardown();
}

int main(void)
{
    if (!host_has(ISA_FEAT_AVX) || !host_has(ISA_FEAT_XSAVE)) {
        printf("this processor has no AVX: skipped\n");
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_forms_64),
        cmocka_unit_test(test_all_forms_32),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
