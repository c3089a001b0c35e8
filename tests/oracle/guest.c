// The engine side: a machine in 64-bit mode whose user code sees what it sees under Linux.
//
// Physical memory: page tables, GDT, IDT, TSS, LDT, a HLT for each vector, a ring-0 stack, and the arena. Supervisor memory is
// mapped in the upper half, as a kernel's is. A case is run for one instruction; when an exception becomes pending it is
// delivered through the IDT to the vector's HLT, and the frame on the ring-0 stack gives what a signal frame gives on the host.
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "core/cpuid.h"
#include "lib/testvm.h"
#include "oracle/layout.h"
#include "oracle/oracle.h"

enum {
    PHYS_PML4 = 0x1000,
    PHYS_PDPT = 0x2000,
    PHYS_PD = 0x3000,
    PHYS_PT = 0x4000,
    PHYS_KPDPT = 0x5000,
    PHYS_KPD = 0x6000,
    PHYS_KPT = 0x7000,
    PHYS_GDT = 0x8000,
    PHYS_IDT = 0x9000,
    PHYS_HANDLERS = 0xa000, // 16 bytes for each vector
    PHYS_TSS = 0xb000,
    PHYS_LDT = 0xc000,
    PHYS_STACK = 0xd000,
    PHYS_STACK_TOP = 0xf000,
    PHYS_ARENA = 0x10000,
    PHYS_SIZE = 0x200000
};

#define KERNEL 0xffff800000000000ull // linear address of physical 0 in the supervisor's half
#define GDT_LIMIT 0x7f

struct orc_guest {
    struct testvm *t;
    struct cpu base; // the state before each case, but for what the case says
    bool modified;   // the last sequence changed its code
    bool runs_on;    // past single instructions
    bool uncounted;  // without a budget: engines may do something else when they need not count
    struct cpu_model model;
};

static void put64(struct testvm *t, u64 at, u64 val)
{
    memcpy(t->ram + at, &val, 8);
}

static u64 get64(struct testvm *t, u64 at)
{
    u64 v;
    memcpy(&v, t->ram + at, 8);
    return v;
}

static void build_tables(struct testvm *t)
{
    const u64 table = X86_PTE_P | X86_PTE_W | X86_PTE_U | X86_PTE_A;
    put64(t, PHYS_PML4, PHYS_PDPT | table);
    put64(t, PHYS_PDPT, PHYS_PD | table);
    put64(t, PHYS_PD + (ORC_ARENA >> 21) * 8, PHYS_PT | table);
    static const u64 prot[] = {0, X86_PTE_P | X86_PTE_U | X86_PTE_NX, X86_PTE_P | X86_PTE_U | X86_PTE_W | X86_PTE_NX,
                               X86_PTE_P | X86_PTE_U, X86_PTE_P | X86_PTE_U | X86_PTE_W};
    for (unsigned i = 0; i < ORC_PAGES; i++)
        if (orc_page_kind[i] != ORC_ABSENT)
            put64(t, PHYS_PT + i * 8, (PHYS_ARENA + i * 4096) | prot[orc_page_kind[i]]);
    put64(t, PHYS_PML4 + 256 * 8, PHYS_KPDPT | X86_PTE_P | X86_PTE_W);
    put64(t, PHYS_KPDPT, PHYS_KPD | X86_PTE_P | X86_PTE_W);
    put64(t, PHYS_KPD, PHYS_KPT | X86_PTE_P | X86_PTE_W);
    for (unsigned i = 1; i < PHYS_ARENA / 4096; i++)
        put64(t, PHYS_KPT + i * 8, i * 4096 | X86_PTE_P | X86_PTE_W);
}

static u64 descriptor(u32 base, u32 limit, u32 attr)
{
    return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)(attr & 0xf0ff) << 40 |
           (u64)(limit >> 16 & 15) << 48 | (u64)(base >> 24) << 56;
}

static u64 ldt_descriptor(unsigned i)
{
    const struct orc_ldt_desc *l = &orc_ldt[i];
    u32 attr = X86_SEG_S | 3u << X86_SEG_DPL_SHIFT | X86_SEG_A;
    attr |= l->code ? X86_SEG_CODE : 0;
    attr |= l->expdown_or_conforming ? X86_SEG_E : 0;
    attr |= l->read_or_write ? X86_SEG_W : 0;
    attr |= l->present ? X86_SEG_P : 0;
    attr |= l->seg_32bit ? X86_SEG_DB : 0;
    attr |= l->pages ? X86_SEG_G : 0;
    return descriptor(l->base, l->limit, attr);
}

// The host kernel's GDT as far as user code can tell.
static void build_segments(struct testvm *t)
{
    const u32 flat = X86_SEG_S | X86_SEG_P | X86_SEG_G | X86_SEG_A, user = 3u << X86_SEG_DPL_SHIFT;
    const u32 code = X86_SEG_CODE | X86_SEG_R;
    put64(t, PHYS_GDT + 0x08, descriptor(0, 0xfffff, flat | code | X86_SEG_DB));
    put64(t, PHYS_GDT + 0x10, descriptor(0, 0xfffff, flat | code | X86_SEG_L));
    put64(t, PHYS_GDT + 0x18, descriptor(0, 0xfffff, flat | X86_SEG_W | X86_SEG_DB));
    put64(t, PHYS_GDT + 0x20, descriptor(0, 0xfffff, flat | code | user | X86_SEG_DB));
    put64(t, PHYS_GDT + 0x28, descriptor(0, 0xfffff, flat | user | X86_SEG_W | X86_SEG_DB));
    put64(t, PHYS_GDT + 0x30, descriptor(0, 0xfffff, flat | code | user | X86_SEG_L));
    u64 tss = KERNEL + PHYS_TSS, ldt = KERNEL + PHYS_LDT;
    put64(t, PHYS_GDT + 0x40, descriptor((u32)tss, 0x67, X86_SEG_P | X86_SYS_TSS_BUSY));
    put64(t, PHYS_GDT + 0x48, tss >> 32);
    put64(t, PHYS_GDT + 0x50, descriptor((u32)ldt, ORC_LDT_COUNT * 8 - 1, X86_SEG_P | X86_SYS_LDT));
    put64(t, PHYS_GDT + 0x58, ldt >> 32);
    put64(t, PHYS_GDT + ORC_SEL_CPU,
          descriptor(0, ORC_CPU_LIMIT, X86_SEG_S | X86_SEG_P | user | X86_SEG_E | X86_SEG_A | X86_SEG_DB));
    for (unsigned i = 0; i < ORC_LDT_COUNT; i++)
        put64(t, PHYS_LDT + i * 8, ldt_descriptor(i));
    put64(t, PHYS_TSS + 4, KERNEL + PHYS_STACK_TOP);
    t->ram[PHYS_TSS + 0x66] = 0x68; // no I/O bitmap: its base is past the limit
    for (unsigned v = 0; v < 256; v++) {
        u64 h = KERNEL + PHYS_HANDLERS + v * 16;
        u64 dpl = v == X86_EXC_BP || v == X86_EXC_OF ? 3 : 0;
        put64(t, PHYS_IDT + v * 16,
              (h & 0xffff) | 0x10 << 16 | (0x80 | dpl << 5 | X86_SYS_INT) << 40 | (h >> 16 & 0xffff) << 48);
        put64(t, PHYS_IDT + v * 16 + 8, h >> 32);
        t->ram[PHYS_HANDLERS + v * 16] = 0xf4; // HLT
    }
}

// --- processor model: what the host has --------------------------------------------------------------------------------

static void build_model(struct cpu_model *m)
{
    m->name = "oracle";
    u32 a, b, c, d;
    __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(0), "c"(0));
    memcpy(m->vendor, &b, 4);
    memcpy(m->vendor + 4, &d, 4);
    memcpy(m->vendor + 8, &c, 4);
    m->maxphyaddr = 48;
    m->linear_bits = 48;
    m->tsc_hz = 1000000000;
    for (unsigned f = 0; f < ISA_FEAT_COUNT; f++) {
        const struct isa_feature_info *i = &isa_features[f];
        bool on = f == ISA_FEAT_NONE;
        if (!on) {
            u32 max;
            __asm__("cpuid" : "=a"(max), "=b"(b), "=c"(c), "=d"(d) : "a"(i->leaf & 0x80000000u), "c"(0));
            if (i->leaf > max)
                continue;
            u32 r[4];
            __asm__("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(i->leaf), "c"(i->subleaf));
            on = r[i->reg] >> i->bit & 1;
        }
        if (on)
            m->features[f / 64] |= 1ull << (f % 64);
    }
}

// --- running ------------------------------------------------------------------------------------------------------------

static void base_state(struct orc_guest *g)
{
    struct vcpu *v = g->t->v;
    struct cpu *c = &v->cpu;
    c->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM | X86_CR0_PG;
    c->cr3 = PHYS_PML4;
    c->cr4 = X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PSE | X86_CR4_DE | X86_CR4_MCE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT |
             X86_CR4_OSXSAVE | X86_CR4_FSGSBASE | X86_CR4_UMIP | X86_CR4_SMEP | X86_CR4_SMAP;
    c->xcr0 = X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX;
    c->msr.efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
    c->gdtr = (struct x86_dtable){KERNEL + PHYS_GDT, GDT_LIMIT};
    c->idtr = (struct x86_dtable){KERNEL + PHYS_IDT, 0xfff};
    c->seg[X86_LDTR] = (struct x86_seg){0x50, X86_SEG_P | X86_SYS_LDT, ORC_LDT_COUNT * 8 - 1, KERNEL + PHYS_LDT};
    c->seg[X86_TR] = (struct x86_seg){0x40, X86_SEG_P | X86_SYS_TSS_BUSY, 0x67, KERNEL + PHYS_TSS};
    c->cpl = 3;
    c->cr2 = 0;
    c->fcs = c->fds = 0;
    tlb_flush_all(&v->tlb);
    g->base = *c;
}

static void load_segment(struct orc_guest *g, struct x86_seg *s, u16 sel)
{
    u64 d = 0;
    if (sel & X86_SEL_TI)
        d = get64(g->t, PHYS_LDT + (sel & ~7u));
    else if (sel & ~7u)
        d = get64(g->t, PHYS_GDT + (sel & ~7u));
    *s = (struct x86_seg){.sel = sel, .attr = X86_SEG_UNUSABLE};
    if (!d)
        return;
    s->attr = d >> 40 & 0xf0ff;
    s->limit = (u32)(d & 0xffff) | (u32)(d >> 32 & 0xf0000);
    if (s->attr & X86_SEG_G)
        s->limit = s->limit << 12 | 0xfff;
    s->base = (d >> 16 & 0xffffff) | (d >> 56) << 24;
}

static void load_case(struct orc_guest *g, const struct orc_case *k)
{
    struct cpu *c = &g->t->v->cpu;
    size_t plain = offsetof(struct cpu, xs);
    memcpy(c, &g->base, plain);
    memcpy(c->gpr, k->in.gpr, sizeof c->gpr);
    c->rip = k->in.rip;
    c->rflags = k->in.rflags;
    c->xs = k->in.xs;
    for (unsigned i = X86_ES; i <= X86_GS; i++)
        load_segment(g, &c->seg[i], k->in.sel[i]);
    if (k->mode == ISA_MODE_64) {
        c->seg[X86_FS].base = k->in.fs_base;
        c->seg[X86_GS].base = k->in.gs_base;
    }
}

static bool has_error_code(unsigned vector)
{
    return vector == X86_EXC_DF || (vector >= X86_EXC_TS && vector <= X86_EXC_PF) || vector == X86_EXC_AC;
}

// In the supervisor's HLT for a vector: take the interrupted state out of the frame.
static void read_frame(struct orc_guest *g, struct orc_result *r)
{
    struct cpu *c = &g->t->v->cpu;
    r->vector = (u8)((c->rip - (KERNEL + PHYS_HANDLERS)) / 16);
    u64 sp = c->gpr[X86_RSP] - KERNEL;
    if (has_error_code(r->vector)) {
        r->error = (u32)get64(g->t, sp);
        sp += 8;
    }
    if (r->vector == X86_EXC_PF)
        r->cr2 = c->cr2;
    r->out.rip = get64(g->t, sp);
    r->out.sel[X86_CS] = (u16)get64(g->t, sp + 8);
    r->out.rflags = get64(g->t, sp + 16);
    r->out.gpr[X86_RSP] = get64(g->t, sp + 24);
    r->out.sel[X86_SS] = (u16)get64(g->t, sp + 32);
}

static void read_state(struct orc_guest *g, struct orc_result *r)
{
    const struct cpu *c = &g->t->v->cpu;
    memcpy(r->out.gpr, c->gpr, sizeof r->out.gpr);
    r->out.rip = c->rip;
    r->out.rflags = c->rflags;
    r->out.xs = c->xs;
    for (unsigned i = X86_ES; i <= X86_GS; i++)
        r->out.sel[i] = c->seg[i].sel;
    r->out.fs_base = c->seg[X86_FS].base;
    r->out.gs_base = c->seg[X86_GS].base;
    r->fcs = c->fcs;
    r->fds = c->fds;
    r->vector = ORC_NO_VECTOR;
    r->error = 0;
    r->cr2 = 0;
    if (c->cpl == 0)
        read_frame(g, r);
}

#define MAX_STEPS 20000 // iterations of one REP instruction

static void run_stepped(struct orc_guest *g, const struct orc_case *k, struct orc_result *r)
{
    struct vcpu *v = g->t->v;
    u8 *arena = g->t->ram + PHYS_ARENA;
    orc_place(arena, k, true);
    v->engine->invalidate(v, PHYS_ARENA, ORC_ARENA_SIZE);
    load_case(g, k);
    r->nlines = 0;
    r->overflow = 0;
    r->hang = 0;
    v->engine->push_state(v);
    struct vm_exit e = {0};
    // A REP instruction may come back after any number of iterations with RIP still on it.
    for (unsigned i = 0; i < MAX_STEPS; i++) {
        u64 count = v->cpu.gpr[X86_RCX];
        e = v->engine->run(v, 1);
        v->engine->pull_state(v);
        if (v->cpu.rip != k->in.rip || v->cpu.event.type != CPU_EVENT_NONE || v->cpu.gpr[X86_RCX] == count)
            break;
    }
    if (v->cpu.event.type != CPU_EVENT_NONE) {
        e = v->engine->run(v, 1);
        v->engine->pull_state(v);
    }
    if (e.reason == VM_EXIT_SHUTDOWN || e.reason == VM_EXIT_ERROR)
        r->hang = 3;
    read_state(g, r);
    orc_place(arena, k, false);
    orc_collect(arena, r);
}

// --- running on ---------------------------------------------------------------------------------------------------------

// A sequence ends at the jump to its exit, which leads nowhere here: in 64-bit mode the jump itself faults, in the others it
// arrives in the exits' 64-bit code segment and faults there.
static bool at_exit(const struct orc_case *k, struct orc_result *r)
{
    for (unsigned i = 0; i < k->nland && r->vector == X86_EXC_PF; i++) {
        u64 end = ORC_ARENA - orc_code_base(k) + k->land[i];
        bool there = k->mode == ISA_MODE_64 ? r->out.rip == end && r->cr2 == CTX + CTX_EXIT + 8 * i
                                            : r->out.rip == THUNKS + THUNK_SIZE * i;
        if (!there)
            continue;
        orc_completed(r, end);
        r->out.sel[X86_CS] = k->in.sel[X86_CS];
        return true;
    }
    return false;
}

// Stopped where an exception of user code leads. (A sequence that makes a SYSCALL of itself is in the kernel, too.)
static bool stands_in_handler(const struct orc_guest *g)
{
    const struct cpu *c = &g->t->v->cpu;
    return c->cpl == 0 && c->rip - (KERNEL + PHYS_HANDLERS) < 4096 &&
           c->gpr[X86_RSP] - (KERNEL + PHYS_STACK) <= PHYS_STACK_TOP - PHYS_STACK - 40;
}

// Whether the code is as it was laid down.
static bool code_is_intact(const struct orc_guest *g, const struct orc_case *k)
{
    return !memcmp(g->t->ram + PHYS_ARENA + k->code_off, k->code, k->len);
}

// What runs without a budget may never come to an end. A timer looks whether the same run is still there.
#define TICK_US 200000
#define PATIENCE 5 // ticks

static struct vcpu *watched;
static volatile sig_atomic_t ticks;

static void on_tick(int sig)
{
    (void)sig;
    if (++ticks >= PATIENCE && watched)
        watched->engine->kick(watched);
}

static void watch(struct vcpu *v)
{
    if (!watched) {
        struct sigaction sa = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
        struct itimerval t = {{0, TICK_US}, {0, TICK_US}};
        sigaction(SIGALRM, &sa, NULL);
        setitimer(ITIMER_REAL, &t, NULL);
    }
    watched = v;
    ticks = 0;
}

void orc_guest_run_sequence(struct orc_guest *g, const struct orc_case *k, bool fresh, u64 slices, struct orc_result *r)
{
    struct vcpu *v = g->t->v;
    struct orc_rng rng = {slices};
    u8 *arena = g->t->ram + PHYS_ARENA;
    orc_place(arena, k, true);
    if (fresh || g->modified)
        v->engine->invalidate(v, PHYS_ARENA, ORC_ARENA_SIZE);
    load_case(g, k);
    r->nlines = 0;
    r->overflow = 0;
    r->hang = 4;
    v->engine->push_state(v);
    u64 end = v->insns + ORC_SEQUENCE_STEPS;
    if (g->uncounted)
        watch(v);
    for (unsigned i = 0; i < ORC_SEQUENCE_STEPS && (g->uncounted || v->insns < end); i++) {
        u64 budget = g->uncounted ? ENGINE_NO_BUDGET : slices ? 1 + orc_below(&rng, 6) : end - v->insns;
        struct vm_exit e = v->engine->run(v, budget);
        if (g->uncounted && ticks >= PATIENCE)
            break;
        if (e.reason == VM_EXIT_HALT)
            r->hang = 0;
        if (e.reason == VM_EXIT_SHUTDOWN || e.reason == VM_EXIT_ERROR)
            r->hang = 3;
        if (r->hang != 4)
            break;
    }
    v->engine->pull_state(v);
    if (r->hang || !stands_in_handler(g)) {
        r->hang = r->hang ? r->hang : 3;
    } else {
        read_state(g, r);
        if (!at_exit(k, r) && !(k->flags & ORC_F_SEQUENCE))
            orc_normalise(k, r, (const u64[2]){0, 0});
    }
    r->x87_pointers = ORC_X87_XSAVE;
    g->modified = !code_is_intact(g, k);
    orc_place(arena, k, false);
    orc_collect(arena, r);
}

void orc_guest_run(struct orc_guest *g, const struct orc_case *k, struct orc_result *r)
{
    if (g->runs_on && !orc_jumps(&k->insn))
        orc_guest_run_sequence(g, k, true, 0, r);
    else
        run_stepped(g, k, r);
}

void orc_guest_begin(struct orc_guest *g, const struct orc_case *k)
{
    struct vcpu *v = g->t->v;
    memcpy(g->t->ram + PHYS_ARENA, orc_pristine, ORC_ARENA_SIZE);
    orc_place(g->t->ram + PHYS_ARENA, k, true);
    v->engine->invalidate(v, PHYS_ARENA, ORC_ARENA_SIZE);
    load_case(g, k);
    v->engine->push_state(v);
    g->modified = true;
}

void orc_guest_write(struct orc_guest *g, u32 off, const u8 *bytes, unsigned len)
{
    memcpy(g->t->ram + PHYS_ARENA + off, bytes, len);
    g->t->v->engine->invalidate(g->t->v, PHYS_ARENA + off, len);
}

bool orc_guest_step(struct orc_guest *g)
{
    struct vcpu *v = g->t->v;
    struct vm_exit e = v->engine->run(v, 1);
    v->engine->pull_state(v);
    return v->cpu.event.type == CPU_EVENT_NONE && v->cpu.cpl == 3 && e.reason == VM_EXIT_BUDGET;
}

bool orc_guest_run_to(struct orc_guest *g, u64 rip, unsigned steps)
{
    for (unsigned i = 0; i < steps; i++) {
        if (!orc_guest_step(g))
            return false;
        if (g->t->v->cpu.rip == rip)
            return true;
    }
    return false;
}

void orc_guest_jump(struct orc_guest *g, u64 rip)
{
    g->t->v->cpu.rip = rip;
    g->t->v->engine->push_state(g->t->v);
}

const u8 *orc_guest_arena(const struct orc_guest *g)
{
    return g->t->ram + PHYS_ARENA;
}

const struct cpu *orc_guest_cpu(const struct orc_guest *g)
{
    return &g->t->v->cpu;
}

void orc_guest_save(const struct orc_guest *g, struct orc_snapshot *s)
{
    s->cpu = g->t->v->cpu;
    memcpy(s->arena, g->t->ram + PHYS_ARENA, ORC_ARENA_SIZE);
}

void orc_guest_restore(struct orc_guest *g, const struct orc_snapshot *s)
{
    struct vcpu *v = g->t->v;
    v->cpu = s->cpu;
    memcpy(g->t->ram + PHYS_ARENA, s->arena, ORC_ARENA_SIZE);
    v->engine->invalidate(v, PHYS_ARENA, ORC_ARENA_SIZE);
    v->engine->push_state(v);
}

void orc_guest_tune(u64 seed)
{
    struct orc_rng r = {seed};
    testvm_tuning = (struct engine_tuning){0};
    if (!seed)
        return;
    testvm_tuning.block = orc_chance(&r, 50) ? 1 + orc_below(&r, 6) : orc_chance(&r, 50) ? 1 + orc_below(&r, 64) : 0;
    testvm_tuning.off = orc_chance(&r, 60) ? orc_rnd(&r) & orc_rnd(&r) : 0;
    testvm_tuning.memory = orc_chance(&r, 50) ? 1 << 20 : 0;
}

void orc_guest_uncounted(struct orc_guest *g)
{
    g->uncounted = true;
}

struct orc_guest *orc_guest_create(const struct engine_ops *ops, const char **why)
{
    struct orc_guest *g = aligned_alloc(64, (sizeof *g + 63) & ~63ull);
    if (!g) {
        *why = "out of memory";
        return NULL;
    }
    memset(g, 0, sizeof *g);
    g->runs_on = strcmp(ops->name, "interp") != 0;
    build_model(&g->model);
    g->t = testvm_create(ops->name, PHYS_SIZE, &g->model);
    memcpy(g->t->ram + PHYS_ARENA, orc_pristine, ORC_ARENA_SIZE);
    build_tables(g->t);
    build_segments(g->t);
    base_state(g);
    return g;
}

void orc_guest_destroy(struct orc_guest *g)
{
    testvm_destroy(g->t);
    free(g);
}
