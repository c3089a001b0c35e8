// Hostile processor states: any mode, any registers that cpu_check() allows, and any memory, page and descriptor tables
// included. However the guest misbehaves, run() comes back and leaves a state that cpu_check() allows.
//
// An input is a sequence of small fields, zero where it has ended: what kind of world to start from, then bytes to change in
// the processor's state, then in memory. The world is a sane one, so that changes of few bytes reach far. With FUZZ_LOG in the
// environment every instruction is logged.
#include "lib/testvm.h"

#include "core/cpuid.h"
#include "host/features.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

#define RAM 0x20000u
#define PML4 0x1000u
#define PDPT 0x2000u
#define PD 0x3000u
#define PT 0x4000u // identity, in 8-byte entries ...
#define PD32 0x5000u
#define PT32 0x6000u // ... and in 4-byte entries
#define PDPT_PAE 0x7000u
#define GDT 0x8000u
#define IDT 0x9000u
#define IDT64 0xa000u
#define TSS 0xb000u
#define TSS_NEXT 0xb800u
#define CODE 0x10000u
#define HANDLERS 0x11000u // 16 bytes for each vector
#define STACKS 0x14000u   // a page for each level

enum {
    SEL_CODE32 = 0x08, // one per level each: level n has RPL n and is n slots further
    SEL_DATA32 = 0x28,
    SEL_CODE64 = 0x48,
    SEL_CODE16 = 0x68,
    SEL_TSS = 0x88, // two slots
    SEL_TSS_NEXT = 0x98,
    SEL_CALL32 = 0xa8,
    SEL_CALL64 = 0xb0, // two slots
    SEL_TASK = 0xc0,
    SEL_LDT = 0xc8, // two slots: the GDT once more
};

enum world { REAL, PROT16, PROT32, PROT32_PAGED, PAE, V86, LONG64, COMPAT, WORLD_COUNT };

static u8 pristine[RAM];
static const char *const model_names[] = {"Haswell", "EPYC", "486", "max"};
static struct testvm *vms[ARRAY_LEN(model_names)];
static struct cpu_model models[ARRAY_LEN(model_names)];

// --- input ----------------------------------------------------------------------------------------------------------------

struct input {
    const u8 *at, *end;
};

static u64 take(struct input *in, unsigned bytes)
{
    u64 v = 0;
    for (unsigned i = 0; i < bytes; i++)
        v |= (u64)(in->at < in->end ? *in->at++ : 0) << 8 * i;
    return v;
}

// --- the world ------------------------------------------------------------------------------------------------------------

static void put(u32 at, unsigned size, u64 v)
{
    memcpy(pristine + at, &v, size);
}

static u64 desc(u32 base, u32 limit, u32 attr)
{
    return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)(attr & 0xf0ff) << 40 | (u64)(limit & 0xf0000) << 32 |
           (u64)(base & 0xff000000) << 32;
}

static u64 gate(u16 sel, u32 off, u8 access, u8 low)
{
    return (off & 0xffff) | (u64)sel << 16 | (u64)low << 32 | (u64)access << 40 | (u64)(off & 0xffff0000) << 32;
}

static void build_pages(void)
{
    put(PML4, 8, PDPT | 7);
    put(PDPT, 8, PD | 7);
    put(PD, 8, PT | 7);
    put(PD32, 4, PT32 | 7);
    put(PDPT_PAE, 8, PD | 1);
    for (u32 i = 0; i < RAM / 4096; i++) {
        put(PT + i * 8, 8, i << 12 | 7);
        put(PT32 + i * 4, 4, i << 12 | 7);
    }
}

static void build_descriptors(void)
{
    for (u32 n = 0; n < 4; n++) {
        put(GDT + SEL_CODE32 + n * 8, 8, desc(0, 0xfffff, 0xc09b | n << 5));
        put(GDT + SEL_DATA32 + n * 8, 8, desc(0, 0xfffff, 0xc093 | n << 5));
        put(GDT + SEL_CODE64 + n * 8, 8, desc(0, 0xfffff, 0xa09b | n << 5));
        put(GDT + SEL_CODE16 + n * 8, 8, desc(0, 0xffff, 0x009b | n << 5));
        put(TSS + 4 + n * 8, 8, STACKS + (n + 1) * 0x1000 - 16);
        put(TSS_NEXT + 4 + n * 8, 8, STACKS + (n + 1) * 0x1000 - 16);
    }
    put(GDT + SEL_TSS, 8, desc(TSS, 0x167, 0x8b));
    put(GDT + SEL_TSS_NEXT, 8, desc(TSS_NEXT, 0x167, 0xe9));
    put(GDT + SEL_CALL32, 8, gate(SEL_CODE32, HANDLERS, 0xec, 2));
    put(GDT + SEL_CALL64, 8, gate(SEL_CODE64, HANDLERS, 0xec, 0));
    put(GDT + SEL_TASK, 8, gate(SEL_TSS_NEXT, 0, 0xe5, 0));
    put(GDT + SEL_LDT, 8, desc(GDT, 0xff, 0x82));
    put(TSS + 102, 2, 0x88);
    put(TSS_NEXT + 0x1c, 4, PD32);
    put(TSS_NEXT + 0x20, 4, HANDLERS);
    put(TSS_NEXT + 0x24, 4, X86_FL_RSVD1);
    put(TSS_NEXT + 0x4c, 4, SEL_CODE32);
    put(TSS_NEXT + 0x50, 4, SEL_DATA32);
}

static void build_handlers(void)
{
    static const u8 with_error[] = {0x83, 0xc4, 0x04, 0xcf}, plain[] = {0xcf},
                    with_error64[] = {0x48, 0x83, 0xc4, 8, 0x48, 0xcf};
    for (u32 v = 0; v < 256; v++) {
        bool error = v == 8 || (v >= 10 && v <= 14) || v == 17;
        u32 at = HANDLERS + v * 16;
        put(v * 4, 4, (HANDLERS >> 4) << 16 | v * 16);
        put(IDT + v * 8, 8, gate(SEL_CODE32, at, v & 1 ? 0xee : 0xef, 0));
        put(IDT64 + v * 16, 8, gate(SEL_CODE64, at + 8, v & 1 ? 0xee : 0xef, v == 8 ? 1 : 0));
        memcpy(pristine + at, error ? with_error : plain, error ? sizeof with_error : sizeof plain);
        memcpy(pristine + at + 8, error ? with_error64 : with_error64 + 4, error ? sizeof with_error64 : 2);
    }
    put(IDT + 9 * 8, 8, gate(SEL_TSS_NEXT, 0, 0xe5, 0));
}

static int ack(void *intc)
{
    return *(u8 *)intc;
}

static u8 interrupt_vector;

static void setup(void)
{
    u64 features[HOST_FEATURE_WORDS];
    char err[200];
    host_features(features);
    for (unsigned i = 0; i < ARRAY_LEN(vms); i++) {
        const char *why = cpu_model_parse(model_names[i], features, &models[i], err, sizeof err);
        if (why)
            testvm_die(why);
        vms[i] = testvm_create(testvm_engine(), RAM, &models[i]);
        vms[i]->host.log_mask = getenv("FUZZ_LOG") ? ~0u : 0;
        vms[i]->v->intc = (struct vcpu_intc){.ack = ack, .intc = &interrupt_vector};
    }
    build_pages();
    build_descriptors();
    build_handlers();
}

// --- the processor --------------------------------------------------------------------------------------------------------

static void load_seg(struct cpu *c, unsigned seg, u16 sel)
{
    u64 d;
    memcpy(&d, pristine + GDT + (sel & 0xfff8), 8);
    u32 attr = (u32)(d >> 40) & 0xf0ff, limit = (u32)(d & 0xffff) | ((u32)(d >> 32) & 0xf0000);
    c->seg[seg] = (struct x86_seg){.sel = sel,
                                   .attr = attr,
                                   .limit = attr & X86_SEG_G ? limit << 12 | 0xfff : limit,
                                   .base = (d >> 16 & 0xffffff) | (d >> 32 & 0xff000000)};
}

static void segments(struct cpu *c, u16 code, unsigned cpl)
{
    for (unsigned s = 0; s < 6; s++)
        load_seg(c, s, (u16)((s == X86_CS ? code : SEL_DATA32) + cpl * 8 + cpl));
    load_seg(c, X86_TR, SEL_TSS);
    load_seg(c, X86_LDTR, SEL_LDT);
    c->cpl = (u8)cpl;
}

static void real_segments(struct cpu *c, u32 attr)
{
    for (unsigned s = 0; s < 6; s++)
        c->seg[s] = (struct x86_seg){.sel = 0x1000, .attr = attr, .limit = 0xffff, .base = 0x10000};
}

static void enter(struct cpu *c, enum world w, unsigned cpl)
{
    static const u16 code[] = {
        [PROT16] = SEL_CODE16, [PROT32] = SEL_CODE32, [PROT32_PAGED] = SEL_CODE32, [PAE] = SEL_CODE32,
        [V86] = SEL_CODE32,    [LONG64] = SEL_CODE64, [COMPAT] = SEL_CODE32};
    cpu_reset(c, true);
    c->gdtr = (struct x86_dtable){GDT, 0xff};
    c->idtr = (struct x86_dtable){w == REAL ? 0 : IDT, 0x7ff};
    c->rip = CODE;
    c->cr4 = X86_CR4_OSFXSR | X86_CR4_OSXSAVE | X86_CR4_OSXMMEXCPT | X86_CR4_DE | X86_CR4_PSE;
    c->xcr0 = 7;
    c->cr0 = X86_CR0_ET | X86_CR0_NE | (w == REAL ? 0 : X86_CR0_PE | X86_CR0_AM);
    if (w == REAL) {
        real_segments(c, 0x93);
        c->rip = 0;
        return;
    }
    segments(c, code[w], w == V86 ? 3 : cpl);
    if (w == V86) {
        c->rflags |= X86_FL_VM;
        real_segments(c, 0xf3);
        c->rip = 0;
    }
    c->cr3 = w >= LONG64 ? PML4 : w == PAE ? PDPT_PAE : PD32;
    if (w >= PROT32_PAGED)
        c->cr0 |= X86_CR0_PG | X86_CR0_WP;
    if (w == PAE || w >= LONG64)
        c->cr4 |= X86_CR4_PAE;
    c->pdpte[0] = PD | 1;
    if (w >= LONG64) {
        c->msr.efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE | X86_EFER_NXE;
        c->idtr = (struct x86_dtable){IDT64, 0xfff};
    }
}

// Change bytes anywhere in the state, then mend what cpu_check() would object to.
static void change_state(struct input *in, struct cpu *c)
{
    for (unsigned n = take(in, 1) & 31; n; n--) {
        u64 at = take(in, 2) % offsetof(struct cpu, xs);
        unsigned len = 1u << (take(in, 1) & 3);
        u64 val = take(in, len);
        memcpy((u8 *)c + at, &val, len); // may reach into xs
    }
    c->rflags = (c->rflags & X86_FL_ALL) | X86_FL_RSVD1;
    c->cr0 &= c->cr0 & X86_CR0_PE ? ~0ull : ~(u64)X86_CR0_PG;
    if (!(c->cr0 & X86_CR0_PE))
        c->rflags &= ~(u64)X86_FL_VM;
    c->msr.efer &= ~(u64)X86_EFER_LMA;
    if (c->cr0 & X86_CR0_PG && c->msr.efer & X86_EFER_LME) {
        c->msr.efer |= X86_EFER_LMA;
        c->cr4 |= X86_CR4_PAE;
        c->rflags &= ~(u64)X86_FL_VM;
    }
    c->cpl = cpu_real_mode(c) ? 0 : cpu_v8086(c) ? 3 : X86_SEG_DPL(c->seg[X86_SS].attr);
    c->seg[X86_SS].attr = (c->seg[X86_SS].attr & ~(3u << X86_SEG_DPL_SHIFT)) | (u32)c->cpl << X86_SEG_DPL_SHIFT;
    c->activity = 0;
    c->nmi_blocked = *(u8 *)&c->nmi_blocked & 1;
    c->nmi_pending = *(u8 *)&c->nmi_pending & 1;
    c->event.has_error = *(u8 *)&c->event.has_error & 1;
    c->event.type %= CPU_EVENT_SOFT_EXC + 1;
    c->a20_mask = c->a20_mask & 1 << 20 ? ~0ull : ~(1ull << 20);
}

static void change_registers(struct input *in, struct cpu *c)
{
    for (unsigned r = 0; r < 16; r++) {
        unsigned kind = take(in, 1);
        c->gpr[r] = kind & 1 ? take(in, 8) : (u64)kind << 9;
    }
    c->rflags |= take(in, 3) & ~(u64)X86_FL_VM & X86_FL_ALL;
    u8 *xs = (u8 *)&c->xs;
    for (unsigned n = take(in, 1) & 7; n; n--) {
        unsigned at = (unsigned)take(in, 2) % (sizeof c->xs - 8);
        u64 val = take(in, 8);
        memcpy(xs + at, &val, 8);
    }
}

static void change_memory(struct input *in, u8 *ram)
{
    for (unsigned i = 0, n = take(in, 1) & 63; i < n; i++)
        ram[CODE + i] = (u8)take(in, 1);
    while (in->at < in->end) {
        u32 at = take(in, 3) % RAM;
        for (unsigned n = take(in, 1) & 31; n; n--)
            ram[at++ % RAM] = (u8)take(in, 1);
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    struct input in = {data, data + size};
    if (!vms[0])
        setup();
    u8 world = (u8)take(&in, 1);
    struct testvm *t = vms[world / WORLD_COUNT % ARRAY_LEN(vms)];
    struct vcpu *v = t->v;
    enter(&v->cpu, world % WORLD_COUNT, take(&in, 1) & 3);
    interrupt_vector = (u8)take(&in, 1);
    u32 request = (u32)take(&in, 1);
    u64 budget = take(&in, 1);
    memcpy(t->ram, pristine, RAM);
    change_registers(&in, &v->cpu);
    change_state(&in, &v->cpu);
    v->cpu.xs.mxcsr &= X86_MXCSR_VALID;
    change_memory(&in, t->ram);
    if (cpu_check(&v->cpu))
        return 0;
    mmu_state_changed(v);
    atomic_store(&v->request, request);
    for (unsigned i = 0; i < 2; i++) {
        u64 before = v->insns;
        struct vm_exit e = testvm_run(t, budget);
        const char *broken = cpu_check(&v->cpu);
        if (broken || e.reason >= VM_EXIT_COUNT || v->insns - before > budget) {
            fprintf(stderr, "after run %u: exit %d, %s\n", i, e.reason, broken ? broken : "too many instructions");
            abort();
        }
    }
    return 0;
}
