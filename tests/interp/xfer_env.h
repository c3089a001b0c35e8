// A machine for tests of segments, gates, interrupts and tasks: one flat protected-mode world with a descriptor of every
// kind, and checks that a fault left registers and memory as they were.
//
// A test puts the processor at a level, runs one instruction (or delivers one event) and looks at what became of it.
#ifndef POGO_TESTS_XFER_ENV_H
#define POGO_TESTS_XFER_ENV_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/interp/interp.h"
#include "lib/testvm.h"

// --- memory map -----------------------------------------------------------------------------------------------------------

#define RAM_SIZE 0x100000u
#define GDT 0x1000u
#define LDT 0x1800u
#define IDT 0x2000u
#define TSS 0x3000u      // the current task
#define TSS_B 0x4000u    // another 32-bit task
#define TSS_16 0x5000u   // a 16-bit task
#define CODE 0x10000u    // instructions under test
#define HANDLER 0x11000u // where gates lead
#define STACK0 0x20800u
#define STACK1 0x21800u
#define STACK3 0x23800u
#define STACK_B 0x24800u
#define IST1 0x25808u // misaligned on purpose
#define TABLES 0x80000u
#define GDT_LIMIT 0x1ffu

// --- selectors ------------------------------------------------------------------------------------------------------------

enum {
    CODE0 = 0x08,
    DATA0 = 0x10,
    CODE3 = 0x18,
    DATA3 = 0x20,
    CONF0 = 0x28, // conforming, DPL 0
    CODE0_NP = 0x30,
    DATA0_NP = 0x38,
    EXEC3 = 0x40, // execute-only, DPL 3
    RODATA0 = 0x48,
    TR_MAIN = 0x50,
    TR_B = 0x58,
    TR_16 = 0x60,
    GATE3 = 0x68, // 32-bit call gate, DPL 3, to CODE0
    GATE0 = 0x70,
    GATE3_NP = 0x78,
    TASKGATE3 = 0x80,
    LDT_SEL = 0x88,
    CODE64 = 0x90,
    CODE_LD = 0x98, // L and D set
    CODE16 = 0xa0,
    DATA16 = 0xa8,
    DOWN3 = 0xb0, // expand-down
    CODE1 = 0xb8,
    DATA1 = 0xc0,
    CONF3 = 0xc8,
    GATE16 = 0xd0, // 16-bit call gate, DPL 3, 2 parameters
    TASKGATE0 = 0xd8,
    DATA3_NP = 0xe0,
    GATE_NULL = 0xe8,
    GATE_DATA = 0xf0,
    GATE_CODE1 = 0xf8,
    SMALL0 = 0x100, // code with limit 0xfff
    TR_SHORT = 0x108,
    TR_NP = 0x110,
    GATE_FAR = 0x118,    // beyond the limit of SMALL0
    GATE_PARAM = 0x120,  // 32-bit, 3 parameters
    STACK_SMALL = 0x128, // stack with limit 0x1f at STACK0
    CODE64_3 = 0x130,
    GATE_CONF = 0x138,
    GATE64 = 0x140, // two slots
    GATE64_BAD = 0x150,
    OUTSIDE = 0x200,
};

struct env {
    struct testvm *t;
    struct interp *x;
    struct cpu *c;
    struct cpu before;
    u8 *ram_before;
};

static inline void put(struct env *e, u32 a, unsigned size, u64 val)
{
    memcpy(e->t->ram + a, &val, size);
}

static inline u64 get(struct env *e, u32 a, unsigned size)
{
    u64 val = 0;
    memcpy(&val, e->t->ram + a, size);
    return val;
}

static inline u64 make_desc(u32 base, u32 limit, u32 attr)
{
    return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)(attr & 0xf0ff) << 40 | (u64)(limit & 0xf0000) << 32 |
           (u64)(base & 0xff000000) << 32;
}

static inline u64 make_gate(u16 sel, u32 off, u8 access, u8 params)
{
    return (off & 0xffff) | (u64)sel << 16 | (u64)params << 32 | (u64)access << 40 | (u64)(off & 0xffff0000) << 32;
}

static inline void set_desc(struct env *e, u16 sel, u32 base, u32 limit, u32 attr)
{
    put(e, GDT + (sel & 0xfff8u), 8, make_desc(base, limit, attr));
}

static inline void set_gate(struct env *e, u16 sel, u16 target, u32 off, u8 access, u8 params)
{
    put(e, GDT + sel, 8, make_gate(target, off, access, params));
}

static inline void set_idt(struct env *e, u8 vector, u16 target, u32 off, u8 access)
{
    put(e, IDT + vector * 8u, 8, make_gate(target, off, access, 0));
}

static inline void set_idt64(struct env *e, u8 vector, u16 target, u64 off, u8 access, u8 ist)
{
    put(e, IDT + vector * 16u, 8, make_gate(target, (u32)off, access, ist));
    put(e, IDT + vector * 16u + 8, 8, off >> 32);
}

#define FLAT 0xfffffu
#define G32 0xc000u // page granular, 32-bit

static inline void fill_gdt(struct env *e)
{
    set_desc(e, CODE0, 0, FLAT, G32 | 0x9b);
    set_desc(e, DATA0, 0, FLAT, G32 | 0x93);
    set_desc(e, CODE3, 0, FLAT, G32 | 0xfb);
    set_desc(e, DATA3, 0, FLAT, G32 | 0xf3);
    set_desc(e, CONF0, 0, FLAT, G32 | 0x9f);
    set_desc(e, CODE0_NP, 0, FLAT, G32 | 0x1b);
    set_desc(e, DATA0_NP, 0, FLAT, G32 | 0x13);
    set_desc(e, EXEC3, 0, FLAT, G32 | 0xf9);
    set_desc(e, RODATA0, 0, FLAT, G32 | 0x91);
    set_desc(e, TR_MAIN, TSS, 0x67, 0x8b);
    set_desc(e, TR_B, TSS_B, 0x67, 0xe9);
    set_desc(e, TR_16, TSS_16, 0x2b, 0x81);
    set_gate(e, GATE3, CODE0, HANDLER, 0xec, 0);
    set_gate(e, GATE0, CODE0, HANDLER, 0x8c, 0);
    set_gate(e, GATE3_NP, CODE0, HANDLER, 0x6c, 0);
    set_gate(e, TASKGATE3, TR_B, 0, 0xe5, 0);
    set_desc(e, LDT_SEL, LDT, 0x3f, 0x82);
    set_desc(e, CODE64, 0, FLAT, 0xa09b);
    set_desc(e, CODE_LD, 0, FLAT, 0xe09b);
    set_desc(e, CODE16, 0, 0xffff, 0x9b);
    set_desc(e, DATA16, 0, 0xffff, 0x93);
    set_desc(e, DOWN3, 0, 0xfff, G32 | 0xf7);
    set_desc(e, CODE1, 0, FLAT, G32 | 0xbb);
    set_desc(e, DATA1, 0, FLAT, G32 | 0xb3);
    set_desc(e, CONF3, 0, FLAT, G32 | 0xff);
    set_gate(e, GATE16, CODE0, 0x1000, 0xe4, 2);
    set_gate(e, TASKGATE0, TR_B, 0, 0x85, 0);
    set_desc(e, DATA3_NP, 0, FLAT, G32 | 0x73);
    set_gate(e, GATE_NULL, 0, HANDLER, 0xec, 0);
    set_gate(e, GATE_DATA, DATA0, HANDLER, 0xec, 0);
    set_gate(e, GATE_CODE1, CODE1, HANDLER, 0xec, 0);
    set_desc(e, SMALL0, 0, 0xfff, 0x409b);
    set_desc(e, TR_SHORT, TSS_B, 0x66, 0x89);
    set_desc(e, TR_NP, TSS_B, 0x67, 0x09);
    set_gate(e, GATE_FAR, SMALL0, 0x1000, 0xec, 0);
    set_gate(e, GATE_PARAM, CODE0, HANDLER, 0xec, 3);
    set_desc(e, STACK_SMALL, STACK0, 0x1f, 0x4093);
    set_desc(e, CODE64_3, 0, FLAT, 0xa0fb);
    set_gate(e, GATE_CONF, CONF0, HANDLER, 0xec, 0);
    set_gate(e, GATE64, CODE64, HANDLER, 0xec, 0);
    set_gate(e, GATE64_BAD, CODE0, HANDLER, 0xec, 0);
    put(e, LDT + 8, 8, make_desc(0, FLAT, G32 | 0xf3)); // selector 0x0f: data, DPL 3
}

static inline void fill_tss(struct env *e)
{
    put(e, TSS + 4, 4, STACK0);
    put(e, TSS + 8, 4, DATA0);
    put(e, TSS + 12, 4, STACK1);
    put(e, TSS + 16, 4, DATA1 | 1);
    put(e, TSS + 102, 2, 0x68);
}

static inline void load_cache(struct env *e, unsigned seg, u16 sel)
{
    u64 raw = get(e, GDT + (sel & 0xfff8u), 8);
    u32 attr = (u32)(raw >> 40) & 0xf0ff;
    u32 limit = (u32)(raw & 0xffff) | ((u32)(raw >> 32) & 0xf0000);
    e->c->seg[seg] = (struct x86_seg){
        .sel = sel,
        .attr = attr,
        .limit = attr & X86_SEG_G ? limit << 12 | 0xfff : limit,
        .base = ((raw >> 16) & 0xffffff) | ((raw >> 32) & 0xff000000u),
    };
}

// Level 0..3 of flat 32-bit code.
static inline void at_level(struct env *e, unsigned cpl)
{
    static const u16 code[] = {CODE0, CODE1, 0, CODE3}, data[] = {DATA0, DATA1, 0, DATA3};
    static const u32 stack[] = {STACK0, STACK1, 0, STACK3};
    struct cpu *c = e->c;
    load_cache(e, X86_CS, (u16)(code[cpl] | cpl));
    for (unsigned s = 0; s < 6; s++) {
        if (s != X86_CS)
            load_cache(e, s, (u16)(data[cpl] | cpl));
    }
    c->cpl = (u8)cpl;
    c->gpr[X86_RSP] = stack[cpl];
    c->rip = CODE;
}

static inline void common_state(struct env *e)
{
    struct cpu *c = e->c;
    c->gdtr = (struct x86_dtable){GDT, GDT_LIMIT};
    c->idtr = (struct x86_dtable){IDT, 0x7ff};
    c->rflags = X86_FL_RSVD1;
    load_cache(e, X86_TR, TR_MAIN);
    c->seg[X86_LDTR] = (struct x86_seg){.attr = X86_SEG_UNUSABLE};
    c->event.type = CPU_EVENT_NONE;
    c->activity = CPU_RUNNING;
}

static const char *env_engine = "interp"; // of the machines that are made; env.x is for this one only

static inline struct env *env_new(void)
{
    struct env *e = aligned_alloc(_Alignof(struct env), sizeof *e);
    memset(e, 0, sizeof *e);
    e->t = testvm_create(env_engine, RAM_SIZE, NULL);
    e->ram_before = malloc(RAM_SIZE);
    e->x = e->t->v->engine_state;
    e->c = &e->t->v->cpu;
    return e;
}

static inline int env_protected(void **state)
{
    struct env *e = *state = env_new();
    fill_gdt(e);
    fill_tss(e);
    e->c->cr0 = X86_CR0_PE | X86_CR0_ET;
    common_state(e);
    at_level(e, 0);
    mmu_state_changed(e->t->v);
    return 0;
}

static inline int env_free(void **state)
{
    struct env *e = *state;
    testvm_destroy(e->t);
    free(e->ram_before);
    free(e);
    return 0;
}

// Identity map of the first 2 MiB in one large page, user-accessible, and 64-bit code at level 0.
static inline int env_long(void **state)
{
    env_protected(state);
    struct env *e = *state;
    struct cpu *c = e->c;
    put(e, TABLES, 8, (TABLES + 0x1000) | 7);
    put(e, TABLES + 0x1000, 8, (TABLES + 0x2000) | 7);
    put(e, TABLES + 0x2000, 8, 0x87 | X86_PTE_A | X86_PTE_D);
    put(e, TSS + 4, 8, STACK0);
    put(e, TSS + 12, 8, STACK1);
    put(e, TSS + 36, 8, IST1);
    put(e, GDT + GATE64 + 8, 8, 0);
    c->cr3 = TABLES;
    c->cr4 = X86_CR4_PAE;
    c->msr.efer = X86_EFER_LME | X86_EFER_LMA;
    c->cr0 |= X86_CR0_PG | X86_CR0_WP;
    c->idtr.limit = 0xfff;
    load_cache(e, X86_CS, CODE64);
    mmu_state_changed(e->t->v);
    return 0;
}

// --- running --------------------------------------------------------------------------------------------------------------

static inline void snapshot(struct env *e)
{
    e->before = *e->c;
    memcpy(e->ram_before, e->t->ram, RAM_SIZE);
}

// Run the one instruction in `bytes` at CS:RIP.
static inline void run_bytes(struct env *e, const char *bytes, unsigned n)
{
    u64 at = e->c->rip + (cpu_64bit(e->c) ? 0 : e->c->seg[X86_CS].base);
    memset(e->t->ram + at, 0x90, 16);
    memcpy(e->t->ram + at, bytes, n);
    snapshot(e);
    testvm_run(e->t, 1);
}
#define RUN(e, s) run_bytes(e, s, sizeof(s) - 1)

static inline void same_memory(struct env *e)
{
    // Page tables may get accessed bits; everything else is as it was.
    assert_memory_equal(e->ram_before, e->t->ram, TABLES);
}

static inline void same_registers(struct env *e)
{
    struct cpu now = *e->c;
    now.event = e->before.event;
    now.cr2 = e->before.cr2;
    now.nmi_blocked = e->before.nmi_blocked;
    assert_memory_equal(&now, &e->before, sizeof now);
}

static inline void check_event(const struct cpu_event *ev, unsigned vector, long error)
{
    assert_int_equal(ev->type, CPU_EVENT_EXCEPTION);
    assert_int_equal(ev->vector, vector);
    assert_int_equal(ev->has_error, error >= 0);
    if (error >= 0)
        assert_int_equal(ev->error, error);
}

// The instruction faulted and changed nothing. error < 0: none.
static inline void expect_fault(struct env *e, unsigned vector, long error)
{
    check_event(&e->c->event, vector, error);
    same_registers(e);
    same_memory(e);
    e->c->event.type = CPU_EVENT_NONE;
}

static inline void expect_ok(struct env *e)
{
    assert_int_equal(e->c->event.type, CPU_EVENT_NONE);
    const char *broken = cpu_check(e->c);
    if (broken)
        print_message("broken invariant: %s\n", broken);
    assert_null(broken);
}

// Deliver an event outside the run loop: true when it went through, else the fault is in x->raised.
static inline bool deliver(struct env *e, struct cpu_event ev)
{
    struct interp *x = e->x;
    snapshot(e);
    interp_mode_changed(x);
    x->restart_rsp = e->c->gpr[X86_RSP];
    x->delivering = false;
    bool ok = false;
    if (!setjmp(x->fault)) {
        interp_deliver(x, &ev);
        ok = true;
    }
    e->c->gpr[X86_RSP] = ok ? e->c->gpr[X86_RSP] : x->restart_rsp;
    return ok;
}

static inline void expect_delivery_fault(struct env *e, unsigned vector, long error)
{
    check_event(&e->x->raised, vector, error);
    same_registers(e);
    same_memory(e);
}

static inline struct cpu_event exception(unsigned vector, long error)
{
    return (struct cpu_event){.type = CPU_EVENT_EXCEPTION,
                              .vector = (u8)vector,
                              .has_error = error >= 0,
                              .error = error >= 0 ? (u32)error : 0};
}

static inline struct cpu_event external(unsigned vector)
{
    return (struct cpu_event){.type = CPU_EVENT_EXTERNAL, .vector = (u8)vector};
}

#endif
