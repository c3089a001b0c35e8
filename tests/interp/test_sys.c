// System instructions: control-register writes with every refusal, debug registers, fast system calls by vendor, privilege and
// mode checks of the rest.
//
// Each case puts the processor into a mode, runs one instruction and looks at the pending exception or the state.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "lib/testvm.h"

#include "core/cpuid.h"
#include "engine/interp/interp.h"
#include "host/features.h"

#define RAM_SIZE 0x100000u
#define CODE 0x1000u
#define PML4 0x10000u
#define PDPT 0x11000u
#define PDPTES 0x12000u // for PAE: four entries, the first bad in BAD_PDPTES
#define BAD_PDPTES 0x12020u
#define NONCANONICAL 0x0000800000000000ull

enum mode { REAL, PROT0, PROT3, PAE0, V86, LONG0, LONG3, COMPAT0, COMPAT3 };

static struct testvm *vm;
static struct cpu *c;
static struct cpu_model model;

#define NONE (-1)
#define GP X86_EXC_GP
#define UD X86_EXC_UD
#define DB X86_EXC_DB

// --- the machine ----------------------------------------------------------------------------------------------------------------

static void use_model(const char *spec)
{
    u64 host[HOST_FEATURE_WORDS];
    char err[200];
    memset(host, 0xff, sizeof host);
    const char *why = cpu_model_parse(spec, host, &model, err, sizeof err);
    if (why)
        fail_msg("%s", why);
    if (vm)
        testvm_destroy(vm);
    vm = testvm_create(testvm_engine(), RAM_SIZE, &model);
    c = &vm->v->cpu;
}

static int tear_down(void **state)
{
    (void)state;
    if (vm)
        testvm_destroy(vm);
    vm = NULL;
    return 0;
}

static void put64(u32 a, u64 val)
{
    memcpy(vm->ram + a, &val, 8);
}

static void flat(unsigned seg, u16 sel, u32 attr)
{
    c->seg[seg] = (struct x86_seg){.sel = sel, .attr = attr, .limit = 0xffffffff};
}

static void flat_segments(unsigned cpl, u32 code_size)
{
    u32 dpl = cpl << X86_SEG_DPL_SHIFT;
    flat(X86_CS, (u16)(8 | cpl), 0x809b | dpl | code_size);
    for (unsigned i = 0; i < 6; i++) {
        if (i != X86_CS)
            flat(i, (u16)(16 | cpl), 0xc093 | dpl);
    }
    c->cpl = (u8)cpl;
}

static void long_mode(unsigned cpl, u32 code_size)
{
    put64(PML4, PDPT | 7);
    put64(PDPT, 0x80 | 7); // 1 GB, identity
    c->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP;
    c->cr4 = X86_CR4_PAE;
    c->cr3 = PML4;
    c->msr.efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE;
    flat_segments(cpl, code_size);
}

static void enter(enum mode mode)
{
    cpu_reset(c, true);
    c->cr0 = X86_CR0_PE | X86_CR0_ET;
    switch (mode) {
    case REAL:
        c->cr0 = X86_CR0_ET;
        c->seg[X86_CS].base = 0;
        c->seg[X86_CS].sel = 0;
        break;
    case PROT0: flat_segments(0, X86_SEG_DB); break;
    case PROT3: flat_segments(3, X86_SEG_DB); break;
    case PAE0:
        put64(PML4, PDPT | 1);
        put64(PML4 + 8, 0);
        put64(PML4 + 16, 0);
        put64(PML4 + 24, 0);
        put64(PDPT, 0x80 | 7); // the first 2 MB, identity
        put64(PDPTES, PDPT | 1);
        put64(BAD_PDPTES, PDPT | 3); // bit 1 is reserved
        flat_segments(0, X86_SEG_DB);
        c->cr0 |= X86_CR0_PG;
        c->cr4 = X86_CR4_PAE;
        c->cr3 = PML4;
        c->pdpte[0] = PDPT | 1;
        break;
    case V86:
        c->rflags |= X86_FL_VM;
        c->cpl = 3;
        for (unsigned i = 0; i < 6; i++)
            c->seg[i] = (struct x86_seg){.sel = 0, .attr = 0xf3, .limit = 0xffff};
        break;
    case LONG0: long_mode(0, X86_SEG_L); break;
    case LONG3: long_mode(3, X86_SEG_L); break;
    case COMPAT0: long_mode(0, X86_SEG_DB); break;
    case COMPAT3: long_mode(3, X86_SEG_DB); break;
    }
    c->rip = CODE;
    mmu_state_changed(vm->v);
}

// Run one instruction; the vector of the exception that is pending afterwards, or NONE.
static int run(const void *code, size_t len)
{
    u8 bytes[16];
    memset(bytes, 0x90, sizeof(bytes));
    memcpy(bytes, code, len);
    testvm_put_code(vm, CODE, bytes, sizeof(bytes));
    c->rip = CODE;
    c->event.type = CPU_EVENT_NONE;
    testvm_run(vm, 1);
    int vector = c->event.type == CPU_EVENT_NONE ? NONE : c->event.vector;
    if (vector == GP || vector == X86_EXC_DF)
        assert_int_equal(c->event.error, 0);
    return vector;
}

#define CODE_OF(text) text, sizeof(text) - 1
#define RUN(text) run(CODE_OF(text))

static void expect(const char *what, int got, int want)
{
    if (got != want)
        fail_msg("%s: exception %d, not %d", what, got, want);
}

// --- control registers --------------------------------------------------------------------------------------------------------

// mov cr, rax: the value replaces the register after clearing and setting bits of what the mode has.
struct cr_case {
    enum mode mode;
    u8 cr;
    u64 clear, set;
    int vector;
    const char *model;
};

#define CR0_PG_NW_ETC (X86_CR0_NW | X86_CR0_CD)

static const struct cr_case cr_cases[] = {
    {REAL, 0, 0, X86_CR0_PE, NONE, 0},
    {REAL, 0, 0, X86_CR0_PG, GP, 0}, // PG without PE
    {REAL, 0, 0, X86_CR0_NW, GP, 0}, // NW without CD
    {REAL, 0, 0, CR0_PG_NW_ETC, NONE, 0},
    {PROT0, 0, X86_CR0_PE, 0, NONE, 0},
    {PROT0, 0, 0, 0x1ff0ffc0, NONE, 0}, // reserved bits are ignored
    {PROT3, 0, 0, 0, GP, 0},
    {V86, 0, 0, 0, GP, 0},
    {LONG0, 0, 0, 1ull << 32, GP, 0},
    {LONG0, 0, X86_CR0_PG, 0, GP, 0}, // leaving long mode from 64-bit code
    {LONG0, 0, X86_CR0_PE, 0, GP, 0}, // PG without PE
    {COMPAT0, 0, X86_CR0_PG, 0, NONE, 0},
    {LONG0, 0, X86_CR0_WP, X86_CR0_AM, NONE, 0},
    {LONG3, 0, 0, 0, GP, 0},
    {LONG0, 2, 0, NONCANONICAL, NONE, 0},
    {LONG0, 3, 0, 0x5000, NONE, 0},
    {LONG0, 3, 0, 1ull << 40, GP, 0},
    {LONG0, 3, 0, X86_CR3_NOFLUSH, GP, 0}, // PCIDs are off
    {LONG0, 3, 0, 1ull << 39, NONE, 0},
    {LONG3, 3, 0, 0, GP, 0},
    {PAE0, 3, ~0ull, PDPTES, NONE, 0},
    {PAE0, 3, ~0ull, BAD_PDPTES, GP, 0},
    {PROT0, 3, ~0ull, BAD_PDPTES, NONE, 0},
    {LONG0, 4, X86_CR4_PAE, 0, GP, 0},
    {COMPAT0, 4, X86_CR4_PAE, 0, GP, 0},
    {PROT0, 4, 0, X86_CR4_PAE, NONE, 0},
    {PROT0, 4, 0, X86_CR4_PCIDE, GP, 0}, // outside long mode
    {LONG0, 4, 0, X86_CR4_PCIDE, NONE, 0},
    {LONG0, 4, 0, X86_CR4_LA57, GP, 0},
    {LONG0, 4, 0, X86_CR4_VMXE, GP, 0},
    {LONG0, 4, 0, X86_CR4_SMXE, GP, 0},
    {LONG0, 4, 0, X86_CR4_PKE, GP, 0},
    {LONG0, 4, 0, X86_CR4_CET, GP, 0},
    {LONG0, 4, 0, 1u << 15, GP, 0},
    {LONG0, 4, 0, 1ull << 32, GP, 0},
    {LONG0, 4, 0, X86_CR4_SMEP | X86_CR4_OSXSAVE | X86_CR4_FSGSBASE | X86_CR4_OSFXSR | X86_CR4_PCE, NONE, 0},
    {LONG0, 4, 0, X86_CR4_SMAP, GP, "Haswell"}, // came later
    {LONG0, 4, 0, X86_CR4_UMIP, GP, "Haswell"},
    {LONG0, 4, 0, X86_CR4_SMAP | X86_CR4_UMIP, NONE, "EPYC-Rome"},
    {LONG0, 4, 0, X86_CR4_PCIDE, GP, "EPYC"},
    {PROT0, 4, 0, X86_CR4_PAE, GP, "pentium"},
    {PROT0, 4, 0, X86_CR4_PSE | X86_CR4_DE | X86_CR4_VME | X86_CR4_TSD, NONE, "pentium"},
    {LONG0, 8, ~0ull, 15, NONE, 0},
    {LONG0, 8, ~0ull, 16, GP, 0},
    {LONG3, 8, ~0ull, 0, GP, 0},
};

static u64 *cr_of(unsigned n)
{
    return n == 0 ? &c->cr0 : n == 2 ? &c->cr2 : n == 3 ? &c->cr3 : n == 4 ? &c->cr4 : &c->cr8;
}

static int write_cr(unsigned cr, u64 val)
{
    u8 code[] = {0x44, 0x0f, 0x22, (u8)(0xc0 | (cr & 7) << 3)};
    c->gpr[X86_RAX] = val;
    return run(code + (cr < 8), sizeof code - (cr < 8));
}

static void test_cr_writes(void **state)
{
    (void)state;
    const char *current = "";
    for (size_t i = 0; i < ARRAY_LEN(cr_cases); i++) {
        const struct cr_case *k = &cr_cases[i];
        const char *wanted = k->model ? k->model : "Haswell";
        if (strcmp(wanted, current))
            use_model(wanted);
        current = wanted;
        enter(k->mode);
        u64 old = *cr_of(k->cr), val = (old & ~k->clear) | k->set;
        int vector = write_cr(k->cr, val);
        if (vector != k->vector)
            fail_msg("case %zu: mov cr%u, %lx: exception %d, not %d", i, k->cr, (unsigned long)val, vector, k->vector);
        if (vector == NONE && k->cr == 0)
            val &= 0xe005003f;
        assert_int_equal(*cr_of(k->cr), vector == NONE ? val : old);
        assert_null(cpu_check(c));
    }
}

// Into long mode and out of it, and what forbids it.
static void test_long_mode_switch(void **state)
{
    (void)state;
    use_model("Haswell");
    for (unsigned i = 0; i < 5; i++) {
        enter(PROT0);
        put64(PML4, PDPT | 7);
        put64(PDPT, 0x80 | 7);
        c->cr3 = PML4;
        c->cr4 = i == 1 ? 0 : X86_CR4_PAE;
        c->msr.efer = X86_EFER_LME;
        if (i == 2)
            c->seg[X86_CS].attr = (c->seg[X86_CS].attr & ~X86_SEG_DB) | X86_SEG_L;
        if (i == 3)
            c->seg[X86_TR].attr = X86_SEG_P | X86_SYS_TSS16_BUSY;
        if (i == 4)
            c->msr.efer = 0; // plain PAE: PDPTEs are loaded and bad
        expect("paging on", write_cr(0, c->cr0 | X86_CR0_PG), i == 0 ? NONE : GP);
        assert_int_equal(c->msr.efer & X86_EFER_LMA, i == 0 ? X86_EFER_LMA : 0);
        assert_null(cpu_check(c));
        if (i)
            continue;
        expect("paging off", write_cr(0, c->cr0 & ~(u64)X86_CR0_PG), NONE);
        assert_int_equal(c->msr.efer, X86_EFER_LME);
    }
}

static void test_pcid(void **state)
{
    (void)state;
    use_model("Haswell");
    enter(LONG0);
    c->cr3 |= 5;
    expect("PCIDE with a PCID in CR3", write_cr(4, c->cr4 | X86_CR4_PCIDE), GP);
    enter(LONG0);
    expect("PCIDE", write_cr(4, c->cr4 | X86_CR4_PCIDE), NONE);
    expect("bit 63", write_cr(3, PML4 | 5 | X86_CR3_NOFLUSH), NONE);
    assert_int_equal(c->cr3, PML4 | 5);
    c->seg[X86_CS].attr = (c->seg[X86_CS].attr & ~X86_SEG_L) | X86_SEG_DB;
    expect("paging off with PCIDE", write_cr(0, c->cr0 & ~(u64)X86_CR0_PG), GP);
}

static void test_cr_reads(void **state)
{
    (void)state;
    use_model("EPYC");
    enter(LONG0);
    c->cr3 |= 0x18;
    expect("mov rax, cr3", RUN("\x0f\x20\xd8"), NONE);
    assert_int_equal(c->gpr[X86_RAX], PML4 | 0x18);
    enter(LONG3);
    expect("at CPL 3", RUN("\x0f\x20\xd8"), GP);
    expect("CR1", RUN("\x0f\x20\xc8"), UD);
    expect("CR5, at CPL 3 too", RUN("\x0f\x20\xe8"), UD);
    enter(PROT0);
    c->gpr[X86_RAX] = ~0ull;
    expect("mov eax, cr0", RUN("\x0f\x20\xc0"), NONE);
    assert_int_equal(c->gpr[X86_RAX], X86_CR0_PE | X86_CR0_ET);
}

// LOCK MOV CR0 is CR8 on AMD.
static void test_legacy_cr8(void **state)
{
    (void)state;
    use_model("EPYC");
    enter(PROT0);
    c->gpr[X86_RAX] = 9;
    expect("lock mov cr0, eax", RUN("\xf0\x0f\x22\xc0"), NONE);
    assert_int_equal(c->cr8, 9);
    use_model("EPYC,-cr8legacy");
    enter(PROT0);
    expect("without the feature", RUN("\xf0\x0f\x22\xc0"), UD);
    use_model("Haswell");
    enter(PROT0);
    expect("on Intel", RUN("\xf0\x0f\x22\xc0"), UD);
}

static void test_clts(void **state)
{
    (void)state;
    use_model("Haswell");
    enter(LONG0);
    c->cr0 |= X86_CR0_TS;
    expect("clts", RUN("\x0f\x06"), NONE);
    assert_int_equal(c->cr0 & X86_CR0_TS, 0);
    enter(LONG3);
    expect("clts at CPL 3", RUN("\x0f\x06"), GP);
}

// --- debug registers ----------------------------------------------------------------------------------------------------------

struct dr_case {
    enum mode mode;
    u8 dr;
    u64 val, cr4, dr7;
    int vector;
    u64 result; // of the register (4 and 5: of 6 and 7)
};

static const struct dr_case dr_cases[] = {
    {LONG0, 0, 0x123456789abcdef0, 0, 0, NONE, 0x123456789abcdef0},
    {PROT0, 3, 0x9abcdef0, 0, 0, NONE, 0x9abcdef0},
    {LONG0, 6, 0, 0, 0, NONE, X86_DR6_FIXED},
    {LONG0, 6, 0xffffffff, 0, 0, NONE, 0xffffefff},
    {LONG0, 6, 1ull << 32, 0, 0, GP, 0},
    {LONG0, 7, 0, 0, 0, NONE, X86_DR7_FIXED},
    {LONG0, 7, 0xffffdfff, 0, 0, NONE, 0xffff07ff},
    {LONG0, 7, 1ull << 32, 0, 0, GP, 0},
    {LONG0, 4, 0, 0, 0, NONE, X86_DR6_FIXED},
    {LONG0, 5, 0, 0, 0, NONE, X86_DR7_FIXED},
    {LONG0, 4, 0, X86_CR4_DE, 0, UD, 0},
    {LONG3, 5, 0, X86_CR4_DE, 0, UD, 0},
    {LONG3, 0, 0, 0, 0, GP, 0},
    {LONG0, 0, 0, 0, X86_DR7_GD, DB, 0},
    {LONG3, 0, 0, 0, X86_DR7_GD, GP, 0},
    {LONG0, 5, 0, X86_CR4_DE, X86_DR7_GD, UD, 0},
    {V86, 0, 0, 0, 0, GP, 0},
    {REAL, 1, 0x1234, 0, 0, NONE, 0x1234},
};

static void test_dr_writes(void **state)
{
    (void)state;
    use_model("Haswell");
    for (size_t i = 0; i < ARRAY_LEN(dr_cases); i++) {
        const struct dr_case *k = &dr_cases[i];
        u8 code[] = {0x0f, 0x23, (u8)(0xc0 | k->dr << 3)};
        enter(k->mode);
        c->cr4 |= k->cr4;
        c->dr7 |= k->dr7;
        c->gpr[X86_RAX] = k->val;
        int vector = run(code, sizeof code);
        if (vector != k->vector)
            fail_msg("case %zu: exception %d, not %d", i, vector, k->vector);
        if (vector == DB)
            assert_int_equal(c->event.dr6, X86_DR6_BD);
        if (vector == NONE)
            assert_int_equal(k->dr < 4 ? c->dr[k->dr] : k->dr & 1 ? c->dr7 : c->dr6, k->result);
    }
    enter(LONG0);
    expect("DR8", RUN("\x44\x0f\x23\xc0"), UD);
    use_model("EPYC"); // the privilege level comes first on AMD
    enter(LONG3);
    c->cr4 |= X86_CR4_DE;
    expect("DR5 at CPL 3", RUN("\x0f\x23\xe8"), GP);
}

// --- system calls ---------------------------------------------------------------------------------------------------------------

#define STAR (0x0033ull << 48 | 0x0010ull << 32 | 0x9000)

static void syscall_state(enum mode mode)
{
    enter(mode);
    c->msr.efer |= X86_EFER_SCE;
    c->msr.star = STAR;
    c->msr.lstar = 0xffffffff80001000;
    c->msr.cstar = 0xffffffff80002000;
    c->msr.sfmask = X86_FL_IF | X86_FL_TF | X86_FL_DF;
    c->msr.sysenter_cs = 0x10;
    c->msr.sysenter_esp = 0xffff800000005000;
    c->msr.sysenter_eip = 0xffff800000006000;
    c->rflags = X86_FL_RSVD1 | X86_FL_IF | X86_FL_CF | (mode == V86 ? X86_FL_VM : 0);
}

static void expect_segs(u16 cs, u32 cs_attr, u16 ss, u32 ss_attr)
{
    assert_int_equal(c->seg[X86_CS].sel, cs);
    assert_int_equal(c->seg[X86_CS].attr, cs_attr);
    assert_int_equal(c->seg[X86_CS].base, 0);
    assert_int_equal(c->seg[X86_CS].limit, 0xffffffff);
    assert_int_equal(c->seg[X86_SS].sel, ss);
    assert_int_equal(c->seg[X86_SS].attr, ss_attr);
    assert_int_equal(c->cpl, cs & 3);
    assert_null(cpu_check(c));
}

static void test_syscall(void **state)
{
    (void)state;
    for (unsigned amd = 0; amd < 2; amd++) {
        use_model(amd ? "EPYC" : "Haswell");
        syscall_state(LONG3);
        expect("syscall", RUN("\x0f\x05"), NONE);
        assert_int_equal(c->rip, 0xffffffff80001000);
        assert_int_equal(c->gpr[X86_RCX], CODE + 2);
        assert_int_equal(c->gpr[X86_R11], X86_FL_RSVD1 | X86_FL_IF | X86_FL_CF);
        assert_int_equal(c->rflags, X86_FL_RSVD1 | X86_FL_CF);
        expect_segs(0x10, 0xa09b, 0x18, 0xc093);
        syscall_state(LONG3);
        c->msr.efer &= ~(u64)X86_EFER_SCE;
        expect("without SCE", RUN("\x0f\x05"), UD);
        syscall_state(COMPAT3);
        expect("compatibility mode", RUN("\x0f\x05"), amd ? NONE : UD);
        if (amd) {
            assert_int_equal(c->rip, 0xffffffff80002000);
            expect_segs(0x10, 0xa09b, 0x18, 0xc093);
        }
        syscall_state(PROT3);
        expect("protected mode", RUN("\x0f\x05"), amd ? NONE : UD);
        if (amd) {
            assert_int_equal(c->rip, 0x9000);
            assert_int_equal(c->gpr[X86_RCX], CODE + 2);
            assert_int_equal(c->rflags, X86_FL_RSVD1 | X86_FL_CF);
            expect_segs(0x10, 0xc09b, 0x18, 0xc093);
        }
    }
}

// TF counts as it is after the instruction.
static void test_syscall_trap_flag(void **state)
{
    (void)state;
    use_model("Haswell");
    syscall_state(LONG3);
    c->rflags |= X86_FL_TF;
    expect("TF masked", RUN("\x0f\x05"), NONE);
    syscall_state(LONG3);
    c->rflags |= X86_FL_TF;
    c->msr.sfmask = 0;
    expect("TF kept", RUN("\x0f\x05"), DB);
    assert_int_equal(c->event.dr6, X86_DR6_BS);
    syscall_state(LONG0);
    c->gpr[X86_RCX] = 0x2000;
    c->gpr[X86_R11] = X86_FL_TF;
    expect("TF set by sysret", RUN("\x48\x0f\x07"), DB);
    assert_int_equal(c->event.dr6, X86_DR6_BS);
    assert_int_equal(c->rip, 0x2000);
    syscall_state(LONG0);
    c->rflags |= X86_FL_TF;
    c->gpr[X86_RCX] = 0x2000;
    c->gpr[X86_R11] = 0;
    expect("TF cleared by sysret", RUN("\x48\x0f\x07"), NONE);
}

// With DEBUGCTL.BTF, TF traps branches that are taken, and nothing else.
// AMD's SYSRET goes to any address, and the fetch there faults. (The second one is what the TLB marks its free entries with.)
static void test_fetch_not_canonical(void **state)
{
    static const u64 targets[] = {NONCANONICAL, 0x8000000000000000ull, 0xffff7fffffffffff, 0x4000000000001000};
    (void)state;
    use_model("EPYC");
    for (unsigned i = 0; i < ARRAY_LEN(targets); i++) {
        syscall_state(LONG0);
        c->gpr[X86_RCX] = targets[i];
        c->gpr[X86_R11] = X86_FL_RSVD1;
        expect("sysretq", RUN("\x48\x0f\x07"), NONE);
        testvm_run(vm, 1);
        assert_int_equal(c->event.type, CPU_EVENT_EXCEPTION);
        expect("fetch", c->event.vector, GP);
        assert_int_equal(c->event.error, 0);
        assert_true(c->rip == targets[i]);
    }
}

// AMD's processors also want an offset within FS or GS to be canonical, to its last byte.
static void test_offset_not_canonical(void **state)
{
    static const struct {
        u64 offset;
        int amd;
    } k[] = {{NONCANONICAL - 4, NONE}, {NONCANONICAL - 3, GP}, {NONCANONICAL, GP}, {0x1000, NONE}};
    (void)state;
    for (unsigned i = 0; i < 2 * ARRAY_LEN(k); i++) {
        use_model(i & 1 ? "EPYC" : "Haswell");
        enter(LONG0);
        c->seg[X86_FS].base = 0x2000 - k[i / 2].offset;
        c->gpr[X86_RDX] = k[i / 2].offset;
        expect("mov eax, fs:[rdx]", RUN("\x64\x8b\x02"), i & 1 ? k[i / 2].amd : NONE);
    }
}

static void test_branch_step(void **state)
{
    (void)state;
    static const struct {
        const char *code;
        u8 len;
        int vector;
    } k[] = {{CODE_OF("\x90"), NONE},
             {CODE_OF("\x74\x10"), NONE},
             {CODE_OF("\x75\x10"), DB},
             {CODE_OF("\xeb\xfe"), DB},
             {CODE_OF("\xf3\xa4"), NONE}};
    use_model("Haswell");
    for (size_t i = 0; i < ARRAY_LEN(k); i++) {
        enter(PROT0);
        c->rflags |= X86_FL_TF;
        c->msr.debugctl = 2;
        c->gpr[X86_RCX] = 5;
        expect("BTF", run(k[i].code, k[i].len), k[i].vector);
    }
}

static void test_sysret(void **state)
{
    (void)state;
    for (unsigned amd = 0; amd < 2; amd++) {
        use_model(amd ? "EPYC" : "Haswell");
        u32 ss_attr = amd ? 0x40f3 : 0xc0f3;
        syscall_state(LONG0);
        c->seg[X86_SS].attr = 0x4093;
        c->gpr[X86_RCX] = 0x7ffffffff000;
        c->gpr[X86_R11] = ~0ull & ~(u64)X86_FL_TF;
        expect("sysretq", RUN("\x48\x0f\x07"), NONE);
        assert_int_equal(c->rip, 0x7ffffffff000);
        assert_int_equal(c->rflags, (X86_FL_ALL | X86_FL_RSVD1) & ~(X86_FL_RF | X86_FL_VM | X86_FL_TF));
        expect_segs(0x43, 0xa0fb, 0x3b, ss_attr);
        syscall_state(LONG0);
        c->seg[X86_SS].attr = 0x4093;
        c->gpr[X86_RCX] = 0x1234500002000;
        expect("sysretl", RUN("\x0f\x07"), NONE);
        assert_int_equal(c->rip, 0x500002000 & 0xffffffff);
        expect_segs(0x33, 0xc0fb, 0x3b, ss_attr);
        syscall_state(LONG0);
        c->gpr[X86_RCX] = NONCANONICAL;
        expect("not canonical", RUN("\x48\x0f\x07"), amd ? NONE : GP);
        assert_int_equal(c->cpl, amd ? 3 : 0);
        syscall_state(LONG3);
        expect("at CPL 3", RUN("\x48\x0f\x07"), GP);
        syscall_state(PROT0);
        c->gpr[X86_RCX] = 0x3000;
        c->rflags = X86_FL_RSVD1 | X86_FL_ZF;
        expect("protected mode", RUN("\x0f\x07"), amd ? NONE : UD);
        if (amd) {
            assert_int_equal(c->rip, 0x3000);
            assert_int_equal(c->rflags, X86_FL_RSVD1 | X86_FL_ZF | X86_FL_IF);
        }
    }
}

static void test_sysenter(void **state)
{
    (void)state;
    for (unsigned amd = 0; amd < 2; amd++) {
        use_model(amd ? "EPYC" : "Haswell");
        syscall_state(LONG3);
        expect("64-bit mode", RUN("\x0f\x34"), amd ? UD : NONE);
        if (!amd) {
            assert_int_equal(c->rip, 0xffff800000006000);
            assert_int_equal(c->gpr[X86_RSP], 0xffff800000005000);
            assert_int_equal(c->rflags, X86_FL_RSVD1 | X86_FL_CF);
            expect_segs(0x10, 0xa09b, 0x18, 0xc093);
        }
        static const enum mode legacy[] = {PROT3, V86};
        for (unsigned i = 0; i < 2; i++) {
            syscall_state(legacy[i]);
            c->msr.sysenter_eip = 0x6000;
            c->msr.sysenter_esp = 0x5000;
            expect("sysenter", RUN("\x0f\x34"), NONE);
            assert_int_equal(c->rip, 0x6000);
            assert_int_equal(c->gpr[X86_RSP], 0x5000);
            expect_segs(0x10, 0xc09b, 0x18, 0xc093);
        }
        syscall_state(PROT3);
        c->msr.sysenter_cs = 3;
        expect("null CS", RUN("\x0f\x34"), GP);
        syscall_state(REAL);
        expect("real mode", RUN("\x0f\x34"), GP);
    }
}

static void test_sysexit(void **state)
{
    (void)state;
    use_model("Haswell");
    syscall_state(LONG0);
    c->gpr[X86_RCX] = 0x7ffffffe0000;
    c->gpr[X86_RDX] = 0x400000;
    expect("sysexitq", RUN("\x48\x0f\x35"), NONE);
    assert_int_equal(c->rip, 0x400000);
    assert_int_equal(c->gpr[X86_RSP], 0x7ffffffe0000);
    expect_segs(0x33, 0xa0fb, 0x3b, 0xc0f3);
    syscall_state(LONG0);
    expect("sysexit", RUN("\x0f\x35"), NONE);
    expect_segs(0x23, 0xc0fb, 0x2b, 0xc0f3);
    syscall_state(LONG0);
    c->gpr[X86_RCX] = NONCANONICAL;
    expect("stack not canonical", RUN("\x48\x0f\x35"), GP);
    syscall_state(LONG3);
    expect("at CPL 3", RUN("\x48\x0f\x35"), GP);
    syscall_state(V86);
    expect("v8086", RUN("\x0f\x35"), GP);
    use_model("EPYC");
    syscall_state(LONG0);
    expect("AMD, long mode", RUN("\x0f\x35"), UD);
    syscall_state(PROT0);
    expect("AMD, protected mode", RUN("\x0f\x35"), NONE);
    use_model("pentium");
    enter(PROT0);
    expect("before SEP", RUN("\x0f\x34"), UD);
}

// --- privilege and features -----------------------------------------------------------------------------------------------------

// One instruction at CPL 0 and CPL 3 of 64-bit mode, in v8086 and in real mode, on a model that has everything.
struct privilege_case {
    const char *name, *code;
    u8 len;
    int long0, long3, v86, real;
};

static const struct privilege_case privilege_cases[] = {
    {"hlt", CODE_OF("\xf4"), NONE, GP, GP, NONE},
    {"invd", CODE_OF("\x0f\x08"), NONE, GP, GP, NONE},
    {"wbinvd", CODE_OF("\x0f\x09"), NONE, GP, GP, NONE},
    {"wbnoinvd", CODE_OF("\xf3\x0f\x09"), NONE, GP, GP, NONE},
    {"invlpg", CODE_OF("\x0f\x01\x3f"), NONE, GP, GP, NONE},
    {"rdtsc", CODE_OF("\x0f\x31"), NONE, NONE, NONE, NONE},
    {"rdtscp", CODE_OF("\x0f\x01\xf9"), NONE, NONE, NONE, NONE},
    {"rdpid", CODE_OF("\xf3\x0f\xc7\xf8"), NONE, NONE, NONE, NONE},
    {"rdpmc", CODE_OF("\x0f\x33"), NONE, GP, GP, NONE},
    {"rdmsr", CODE_OF("\x0f\x32"), NONE, GP, GP, NONE},
    {"wrmsr", CODE_OF("\x0f\x30"), NONE, GP, GP, NONE},
    {"cpuid", CODE_OF("\x0f\xa2"), NONE, NONE, NONE, NONE},
    {"swapgs", CODE_OF("\x0f\x01\xf8"), NONE, GP, UD, UD},
    {"clac", CODE_OF("\x0f\x01\xca"), NONE, UD, UD, NONE},
    {"stac", CODE_OF("\x0f\x01\xcb"), NONE, UD, UD, NONE},
    {"xgetbv", CODE_OF("\x0f\x01\xd0"), UD, UD, UD, UD},
    {"xsetbv", CODE_OF("\x0f\x01\xd1"), UD, UD, UD, UD},
    {"rdfsbase", CODE_OF("\xf3\x0f\xae\xc0"), UD, UD, UD, UD},
    {"monitor", CODE_OF("\x0f\x01\xc8"), UD, UD, UD, UD},
    {"mwait", CODE_OF("\x0f\x01\xc9"), UD, UD, UD, UD},
    {"vmcall", CODE_OF("\x0f\x01\xc1"), NONE, NONE, NONE, NONE},
    {"vmmcall", CODE_OF("\x0f\x01\xd9"), NONE, NONE, NONE, NONE},
    {"vmrun", CODE_OF("\x0f\x01\xd8"), UD, UD, UD, UD},
    {"vmxon", CODE_OF("\xf3\x0f\xc7\x37"), UD, UD, UD, UD},
    {"vmread", CODE_OF("\x0f\x78\xc0"), UD, UD, UD, UD},
    {"getsec", CODE_OF("\x0f\x37"), UD, UD, UD, UD},
    {"rsm", CODE_OF("\x0f\xaa"), UD, UD, UD, UD},
};

static void test_privilege(void **state)
{
    (void)state;
    use_model("max");
    for (size_t i = 0; i < ARRAY_LEN(privilege_cases); i++) {
        const struct privilege_case *k = &privilege_cases[i];
        const struct {
            enum mode mode;
            int vector;
        } at[] = {{LONG0, k->long0}, {LONG3, k->long3}, {V86, k->v86}, {REAL, k->real}};
        for (unsigned j = 0; j < 4; j++) {
            enter(at[j].mode);
            expect(k->name, run(k->code, k->len), at[j].vector);
        }
    }
}

// Calls to the hypervisor as KVM answers them.
static void test_hypercalls(void **state)
{
    static const char *const code[] = {"\x0f\x01\xc1", "\x0f\x01\xd9"};
    static const struct {
        enum mode mode;
        u64 number, result;
    } calls[] = {
        {LONG0, 10, (u64)-1000},   {LONG0, 1ull << 32 | 1, (u64)-1000}, {LONG0, 1, 0},     {LONG3, 1, (u64)-1},
        {COMPAT0, 10, (u32)-1000}, {COMPAT0, 1ull << 32 | 1, 0},        {V86, 1, (u32)-1}, {REAL, 2, (u32)-1000},
    };

    (void)state;
    use_model("max");
    for (size_t i = 0; i < ARRAY_LEN(calls) * 2; i++) {
        enter(calls[i / 2].mode);
        c->gpr[X86_RAX] = calls[i / 2].number;
        expect("hypercall", run(code[i & 1], 3), NONE);
        assert_int_equal(c->gpr[X86_RAX], calls[i / 2].result);
    }
    for (unsigned i = 0; i < 4; i++) {
        use_model(i < 2 ? "max,kvm=off" : "max,-hypervisor");
        enter(LONG0);
        expect("no hypervisor", run(code[i & 1], 3), UD);
    }
}

static void test_tsd_and_pce(void **state)
{
    (void)state;
    use_model("Haswell");
    enter(LONG3);
    c->cr4 |= X86_CR4_TSD;
    expect("rdtsc with TSD", RUN("\x0f\x31"), GP);
    expect("rdtscp with TSD", RUN("\x0f\x01\xf9"), GP);
    enter(LONG3);
    c->cr4 |= X86_CR4_PCE;
    expect("rdpmc with PCE", RUN("\x0f\x33"), NONE);
    enter(LONG0);
    c->gpr[X86_RCX] = 2;
    expect("no such counter", RUN("\x0f\x33"), GP);
}

static void test_halt(void **state)
{
    (void)state;
    use_model("Haswell");
    enter(LONG0);
    vm->ram[CODE] = 0xf4;
    struct vm_exit e = testvm_run(vm, 10);
    assert_int_equal(e.reason, VM_EXIT_HALT);
    assert_int_equal(c->activity, CPU_HALTED);
    assert_int_equal(c->rip, CODE + 1);
}

static void test_fsgsbase(void **state)
{
    (void)state;
    use_model("Haswell");
    enter(LONG3);
    c->cr4 |= X86_CR4_FSGSBASE;
    c->gpr[X86_RAX] = 0x7fff12345678;
    expect("wrfsbase", RUN("\xf3\x48\x0f\xae\xd0"), NONE);
    assert_int_equal(c->seg[X86_FS].base, 0x7fff12345678);
    expect("wrgsbase eax", RUN("\xf3\x0f\xae\xd8"), NONE);
    assert_int_equal(c->seg[X86_GS].base, 0x12345678);
    c->gpr[X86_RAX] = ~0ull;
    expect("rdfsbase eax", RUN("\xf3\x0f\xae\xc0"), NONE);
    assert_int_equal(c->gpr[X86_RAX], 0x12345678);
    c->gpr[X86_RAX] = NONCANONICAL;
    expect("wrfsbase", RUN("\xf3\x48\x0f\xae\xd0"), GP);
    enter(COMPAT3);
    c->cr4 |= X86_CR4_FSGSBASE;
    expect("compatibility mode", RUN("\xf3\x0f\xae\xd0"), UD);
    enter(LONG0);
    c->seg[X86_GS].base = 1;
    c->msr.kernel_gs_base = 2;
    expect("swapgs", RUN("\x0f\x01\xf8"), NONE);
    assert_int_equal(c->seg[X86_GS].base, 2);
    assert_int_equal(c->msr.kernel_gs_base, 1);
}

static void test_xcr0(void **state)
{
    (void)state;
    static const struct {
        u64 index, val;
        int vector;
    } k[] = {{0, 1, NONE}, {0, 3, NONE}, {0, 7, NONE}, {0, 0, GP}, {0, 2, GP}, {0, 5, GP}, {0, 0xf, GP}, {1, 1, GP}};
    use_model("Skylake-Client");
    for (size_t i = 0; i < ARRAY_LEN(k); i++) {
        enter(LONG0);
        c->cr4 |= X86_CR4_OSXSAVE;
        c->gpr[X86_RCX] = k[i].index;
        c->gpr[X86_RAX] = k[i].val;
        expect("xsetbv", RUN("\x0f\x01\xd1"), k[i].vector);
        assert_int_equal(c->xcr0, k[i].vector == NONE ? k[i].val : 1);
    }
    enter(LONG3);
    c->cr4 |= X86_CR4_OSXSAVE;
    expect("xsetbv at CPL 3", RUN("\x0f\x01\xd1"), GP);
    enter(LONG3);
    c->cr4 |= X86_CR4_OSXSAVE;
    c->xcr0 = 7;
    memset(&c->xs, 0, 512);
    c->xs.fcw = X86_FCW_DEFAULT;
    c->xs.mxcsr = X86_MXCSR_DEFAULT;
    c->xs.ymmh[3][2] = 1;
    c->gpr[X86_RCX] = 1;
    expect("xgetbv 1", RUN("\x0f\x01\xd0"), NONE);
    assert_int_equal(c->gpr[X86_RAX], 4);
    c->xs.mxcsr |= X86_MXCSR_FTZ;
    c->fds = 8;
    c->gpr[X86_RCX] = 1;
    expect("xgetbv 1", RUN("\x0f\x01\xd0"), NONE);
    assert_int_equal(c->gpr[X86_RAX], 7);
    use_model("Haswell");
    enter(LONG3);
    c->cr4 |= X86_CR4_OSXSAVE;
    c->gpr[X86_RCX] = 1;
    expect("xgetbv 1 before XGETBV1", RUN("\x0f\x01\xd0"), GP);
}

static void test_invpcid(void **state)
{
    (void)state;
    static const struct {
        u64 type, pcid, address;
        bool pcide;
        int vector;
    } k[] = {
        {0, 0, 0x1000, false, NONE}, {0, 5, 0x1000, true, NONE},       {0, 5, 0x1000, false, GP},
        {1, 5, 0, false, GP},        {1, 5, NONCANONICAL, true, NONE}, {0, 5, NONCANONICAL, true, GP},
        {2, 0, 0, false, NONE},      {3, 5, 0, false, NONE},           {4, 0, 0, false, GP},
        {2, 0x1000, 0, true, GP},    {1ull << 32, 0, 0, true, GP},
    };
    use_model("Haswell");
    for (size_t i = 0; i < ARRAY_LEN(k); i++) {
        enter(LONG0);
        if (k[i].pcide)
            c->cr4 |= X86_CR4_PCIDE;
        put64(0x3000, k[i].pcid);
        put64(0x3008, k[i].address);
        c->gpr[X86_RAX] = k[i].type;
        c->gpr[X86_RDI] = 0x3000;
        int vector = RUN("\x66\x0f\x38\x82\x07");
        if (vector != k[i].vector)
            fail_msg("case %zu: exception %d, not %d", i, vector, k[i].vector);
    }
    enter(V86);
    expect("v8086", RUN("\x67\x66\x0f\x38\x82\x07"), GP);
    enter(LONG3);
    expect("at CPL 3", RUN("\x66\x0f\x38\x82\x07"), GP);
    use_model("Haswell,-invpcid");
    enter(LONG0);
    expect("not offered", RUN("\x66\x0f\x38\x82\x07"), UD);
}

// INVLPG drops the translation, whatever the segment's limit says.
static void test_invlpg(void **state)
{
    (void)state;
    use_model("Haswell");
    enter(LONG0);
    c->gpr[X86_RDI] = 0x3000;
    expect("mov rax, [rdi]", RUN("\x48\x8b\x07"), NONE);
    assert_true(tlb_read(&vm->v->tlb, TLB_SUPER, 0x3000, 8) != 0);
    expect("invlpg", RUN("\x0f\x01\x3f"), NONE);
    assert_true(tlb_read(&vm->v->tlb, TLB_SUPER, 0x3000, 8) == 0);
    c->gpr[X86_RDI] = NONCANONICAL;
    expect("invlpg, not canonical", RUN("\x0f\x01\x3f"), NONE);
    expect("invlpg of a register", RUN("\x0f\x01\xff"),
           UD); // nothing has this encoding in 64-bit mode
}

static void test_rdrand(void **state)
{
    (void)state;
    use_model("Haswell");
    enter(LONG3);
    u64 host[HOST_FEATURE_WORDS];
    host_features(host);
    if (!(host[ISA_FEAT_RDRAND / 64] >> ISA_FEAT_RDRAND % 64 & 1))
        skip();
    c->rflags |= X86_FL_STATUS;
    c->gpr[X86_RAX] = ~0ull;
    expect("rdrand ax", RUN("\x66\x0f\xc7\xf0"), NONE);
    assert_int_equal(c->gpr[X86_RAX] >> 16, 0xffffffffffff);
    assert_int_equal(c->rflags & X86_FL_STATUS & ~X86_FL_CF, 0);
    u64 seen = 0;
    for (unsigned i = 0; i < 8; i++) {
        expect("rdrand rax", RUN("\x48\x0f\xc7\xf0"), NONE);
        seen |= c->gpr[X86_RAX];
    }
    assert_true(seen >> 32 != 0);
}

static void test_clzero(void **state)
{
    (void)state;
    use_model("EPYC");
    enter(LONG3);
    memset(vm->ram + 0x3000, 0xff, 192);
    c->gpr[X86_RAX] = 0x307f;
    expect("clzero", RUN("\x0f\x01\xfc"), NONE);
    assert_int_equal(vm->ram[0x303f], 0xff);
    assert_int_equal(vm->ram[0x3040], 0);
    assert_int_equal(vm->ram[0x307f], 0);
    assert_int_equal(vm->ram[0x3080], 0xff);
}

static void test_msr_instructions(void **state)
{
    (void)state;
    use_model("EPYC");
    enter(LONG0);
    c->gpr[X86_RCX] = 0xffffffff00000000 | X86_MSR_KERNEL_GS_BASE;
    c->gpr[X86_RAX] = 0xdeadbeef12345678;
    c->gpr[X86_RDX] = 0xdeadbeefffffffff;
    expect("wrmsr", RUN("\x0f\x30"), NONE);
    assert_int_equal(c->msr.kernel_gs_base, 0xffffffff12345678);
    expect("rdmsr", RUN("\x0f\x32"), NONE);
    assert_int_equal(c->gpr[X86_RAX], 0x12345678);
    assert_int_equal(c->gpr[X86_RDX], 0xffffffff);
    c->gpr[X86_RCX] = 0x12345;
    expect("rdmsr, unknown", RUN("\x0f\x32"), GP);
    use_model("486");
    enter(PROT0);
    expect("rdmsr on a 486", RUN("\x0f\x32"), UD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cr_writes),
        cmocka_unit_test(test_long_mode_switch),
        cmocka_unit_test(test_pcid),
        cmocka_unit_test(test_cr_reads),
        cmocka_unit_test(test_legacy_cr8),
        cmocka_unit_test(test_clts),
        cmocka_unit_test(test_dr_writes),
        cmocka_unit_test(test_syscall),
        cmocka_unit_test(test_syscall_trap_flag),
        cmocka_unit_test(test_sysret),
        cmocka_unit_test(test_fetch_not_canonical),
        cmocka_unit_test(test_offset_not_canonical),
        cmocka_unit_test(test_branch_step),
        cmocka_unit_test(test_sysenter),
        cmocka_unit_test(test_sysexit),
        cmocka_unit_test(test_privilege),
        cmocka_unit_test(test_hypercalls),
        cmocka_unit_test(test_tsd_and_pce),
        cmocka_unit_test(test_halt),
        cmocka_unit_test(test_fsgsbase),
        cmocka_unit_test(test_xcr0),
        cmocka_unit_test(test_invpcid),
        cmocka_unit_test(test_invlpg),
        cmocka_unit_test(test_rdrand),
        cmocka_unit_test(test_clzero),
        cmocka_unit_test(test_msr_instructions),
    };
    return cmocka_run_group_tests(tests, NULL, tear_down);
}
