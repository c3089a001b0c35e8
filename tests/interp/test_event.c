// Delivery of interrupts and exceptions, INT n, INT3, INTO and INT1: gates and their checks in protected mode, v8086 mode with and
// without VME, real mode, and long mode with IST. Error codes carry EXT where hardware events are delivered.
#include "xfer_env.h"

// --- protected mode -------------------------------------------------------------------------------------------------------

struct gate_case {
    u8 cpl;
    u16 target;
    u8 access;
    int vector; // -1: delivered
    u16 error;  // without EXT; IDT means the gate's own error code
    bool soft_only;
};

#define IDT_ERR (0x30 * 8 + 2)

static const struct gate_case gates[] = {
    {0, CODE0, 0xee, -1, 0, 0},
    {0, CODE0, 0xef, -1, 0, 0},
    {0, CODE0, 0xe6, -1, 0, 0},
    {0, CODE0, 0x8e, -1, 0, 0},
    {3, CODE0, 0xee, -1, 0, 0},
    {3, CODE0, 0x8e, X86_EXC_GP, IDT_ERR, 1}, // DPL 0
    {0, CODE0, 0x0e, X86_EXC_NP, IDT_ERR, 0},
    {0, CODE0, 0x8c, X86_EXC_GP, IDT_ERR, 0}, // a call gate
    {0, CODE0, 0x9e, X86_EXC_GP, IDT_ERR, 0}, // S set
    {0, CODE0, 0x00, X86_EXC_GP, IDT_ERR, 0},
    {0, 0, 0xee, X86_EXC_GP, 0, 0},
    {0, OUTSIDE, 0xee, X86_EXC_GP, OUTSIDE, 0},
    {0, DATA0, 0xee, X86_EXC_GP, DATA0, 0},
    {0, CODE3, 0xee, X86_EXC_GP, CODE3, 0},
    {0, CODE0_NP, 0xee, X86_EXC_NP, CODE0_NP, 0},
    {0, SMALL0, 0xee, X86_EXC_GP, 0, 0},
    {3, CONF0, 0xee, -1, 0, 0},
    {0, TR_MAIN, 0xe5, X86_EXC_GP, TR_MAIN, 0}, // task gate to a busy TSS
    {0, CODE0, 0xe5, X86_EXC_GP, CODE0, 0},
    {0, TR_NP, 0xe5, X86_EXC_NP, TR_NP, 0},
    {0, TR_B | 4, 0xe5, X86_EXC_GP, TR_B | 4, 0},
    {0, TR_SHORT, 0xe5, X86_EXC_TS, TR_SHORT, 0},
};

static void test_gates(void **state)
{
    struct env *e = *state;
    for (unsigned i = 0; i < ARRAY_LEN(gates); i++) {
        const struct gate_case *g = &gates[i];
        set_idt(e, 0x30, g->target, HANDLER, g->access);
        at_level(e, g->cpl);
        e->c->rflags = X86_FL_RSVD1 | X86_FL_IF;
        RUN(e, "\xcd\x30");
        if (g->vector >= 0)
            expect_fault(e, (unsigned)g->vector, g->error);
        else
            expect_ok(e);
        at_level(e, g->cpl);
        e->c->rflags = X86_FL_RSVD1 | X86_FL_IF;
        bool ok = deliver(e, external(0x30));
        assert_int_equal(ok, g->vector < 0 || g->soft_only);
        if (!ok)
            expect_delivery_fault(e, (unsigned)g->vector, g->error | 1);
    }
}

static void test_idt_limit(void **state)
{
    struct env *e = *state;
    set_idt(e, 0x30, CODE0, HANDLER, 0xee);
    e->c->idtr.limit = 0x30 * 8 + 7;
    RUN(e, "\xcd\x30");
    expect_ok(e);
    at_level(e, 0);
    e->c->idtr.limit = 0x30 * 8 + 6;
    RUN(e, "\xcd\x30");
    expect_fault(e, X86_EXC_GP, IDT_ERR);
}

static void test_frames(void **state)
{
    struct env *e = *state;
    set_idt(e, 13, CODE0, HANDLER, 0x8e);
    set_idt(e, 0x31, CODE0, HANDLER, 0xef);
    e->c->rflags = X86_FL_RSVD1 | X86_FL_IF | X86_FL_TF | X86_FL_NT | X86_FL_AC;
    assert_true(deliver(e, exception(13, 0x1234)));
    expect_ok(e);
    u32 flags = X86_FL_RSVD1 | X86_FL_IF | X86_FL_TF | X86_FL_NT | X86_FL_AC | X86_FL_RF;
    u32 same[] = {0x1234, CODE, CODE0, flags};
    assert_memory_equal(e->t->ram + STACK0 - sizeof same, same, sizeof same);
    assert_int_equal(e->c->gpr[X86_RSP], STACK0 - sizeof same);
    assert_int_equal(e->c->rflags, X86_FL_RSVD1 | X86_FL_AC);
    assert_int_equal(e->c->rip, HANDLER);

    at_level(e, 3);
    e->c->rflags = X86_FL_RSVD1 | X86_FL_IF;
    RUN(e, "\xcd\x31");
    expect_ok(e);
    u32 inner[] = {CODE + 2, CODE3 | 3, X86_FL_RSVD1 | X86_FL_IF, STACK3, DATA3 | 3};
    assert_memory_equal(e->t->ram + STACK0 - sizeof inner, inner, sizeof inner);
    assert_int_equal(e->c->rflags, X86_FL_RSVD1 | X86_FL_IF); // a trap gate
    assert_int_equal(e->c->seg[X86_SS].sel, DATA0);
    assert_int_equal(e->c->cpl, 0);
}

static void test_gate16_frame(void **state)
{
    struct env *e = *state;
    set_idt(e, 13, CODE0, 0x1234, 0x86);
    assert_true(deliver(e, exception(13, 0x5678)));
    u16 frame[] = {0x5678, CODE & 0xffff, CODE0, X86_FL_RSVD1};
    assert_memory_equal(e->t->ram + STACK0 - sizeof frame, frame, sizeof frame);
    assert_int_equal(e->c->rip, 0x1234);
}

static void test_soft(void **state)
{
    struct env *e = *state;
    set_idt(e, 1, CODE0, HANDLER, 0x8e);
    set_idt(e, 3, CODE0, HANDLER, 0x8e);
    set_idt(e, 4, CODE0, HANDLER, 0xee);
    at_level(e, 3);
    RUN(e, "\xcc");
    expect_fault(e, X86_EXC_GP, 3 * 8 + 2);
    set_idt(e, 3, CODE0, HANDLER, 0x0e); // DPL before P
    RUN(e, "\xcc");
    expect_fault(e, X86_EXC_GP, 3 * 8 + 2);
    RUN(e, "\xce"); // INTO without OF
    expect_ok(e);
    assert_int_equal(e->c->rip, CODE + 1);
    e->c->rflags |= X86_FL_OF;
    RUN(e, "\xce");
    expect_ok(e);
    assert_int_equal(e->c->rip, HANDLER);
    at_level(e, 3);
    RUN(e, "\xf1"); // INT1 needs no DPL
    expect_ok(e);
    assert_int_equal(e->c->rip, HANDLER);
    assert_int_equal(get(e, STACK0 - 20, 4), CODE + 1);
}

static void test_side_effects(void **state)
{
    struct env *e = *state;
    for (unsigned v = 0; v < 32; v++)
        set_idt(e, (u8)v, CODE0, HANDLER, 0x8e);
    struct cpu_event pf = exception(X86_EXC_PF, 2);
    pf.cr2 = 0xdead;
    assert_true(deliver(e, pf));
    assert_int_equal(e->c->cr2, 0xdead);
    struct cpu_event db = exception(X86_EXC_DB, -1);
    db.dr6 = X86_DR6_BS;
    e->c->dr7 |= X86_DR7_GD;
    e->c->dr6 = X86_DR6_FIXED;
    at_level(e, 0);
    e->c->rflags = X86_FL_RSVD1;
    assert_true(deliver(e, db));
    assert_int_equal(e->c->dr6, X86_DR6_FIXED | X86_DR6_BS);
    assert_false(e->c->dr7 & X86_DR7_GD);
    assert_int_equal(get(e, STACK0 - 4, 4), X86_FL_RSVD1); // a trap: RF clear
    assert_true(deliver(e, (struct cpu_event){.type = CPU_EVENT_NMI, .vector = 2}));
    assert_true(e->c->nmi_blocked);
}

// --- v8086 mode -----------------------------------------------------------------------------------------------------------

static void enter_v8086(struct env *e, unsigned iopl)
{
    struct cpu *c = e->c;
    c->rflags = X86_FL_RSVD1 | X86_FL_VM | X86_FL_IF | iopl << X86_FL_IOPL_SHIFT;
    c->cpl = 3;
    for (unsigned s = 0; s < 6; s++)
        c->seg[s] =
            (struct x86_seg){.sel = (u16)(0x2000 + s), .base = (0x2000 + s) * 16, .limit = 0xffff, .attr = 0xf3};
    c->seg[X86_CS] = (struct x86_seg){.sel = CODE >> 4, .base = CODE, .limit = 0xffff, .attr = 0xf3};
    c->rip = 0;
    c->gpr[X86_RSP] = 0x1000;
}

static void test_v8086_out_and_back(void **state)
{
    struct env *e = *state;
    set_idt(e, 0x30, CODE0, HANDLER, 0x8e);
    enter_v8086(e, 0);
    u32 flags = (u32)e->c->rflags;
    assert_true(deliver(e, external(0x30)));
    expect_ok(e);
    u32 frame[] = {0, CODE >> 4, flags, 0x1000, 0x2002, 0x2000, 0x2003, 0x2004, 0x2005};
    assert_memory_equal(e->t->ram + STACK0 - sizeof frame, frame, sizeof frame);
    assert_int_equal(e->c->cpl, 0);
    assert_int_equal(e->c->rflags, X86_FL_RSVD1);
    assert_true(e->c->seg[X86_DS].attr & X86_SEG_UNUSABLE);
    assert_true(e->c->seg[X86_GS].attr & X86_SEG_UNUSABLE);
    RUN(e, "\xcf");
    expect_ok(e);
    assert_int_equal(e->c->rflags, flags);
    assert_int_equal(e->c->cpl, 3);
    assert_int_equal(e->c->seg[X86_GS].base, 0x20050);
    assert_int_equal(e->c->seg[X86_SS].attr, 0xf3);
    assert_int_equal(e->c->gpr[X86_RSP], 0x1000);
    assert_int_equal(e->c->seg[X86_CS].base, CODE);
}

static void test_v8086_checks(void **state)
{
    struct env *e = *state;
    set_idt(e, 0x30, CODE0, HANDLER, 0xee);
    enter_v8086(e, 0);
    RUN(e, "\xcd\x30");
    expect_fault(e, X86_EXC_GP, 0);
    RUN(e, "\xcf");
    expect_fault(e, X86_EXC_GP, 0);
    enter_v8086(e, 3);
    RUN(e, "\xcd\x30");
    expect_ok(e);
    assert_int_equal(e->c->rip, HANDLER);
    enter_v8086(e, 3);
    set_idt(e, 0x30, CONF0, HANDLER, 0xee);
    RUN(e, "\xcd\x30");
    expect_fault(e, X86_EXC_GP, CONF0);
    set_idt(e, 0x30, CODE1, HANDLER, 0xee);
    RUN(e, "\xcd\x30");
    expect_fault(e, X86_EXC_GP, CODE1);
    // INT3 is not sensitive to IOPL.
    set_idt(e, 3, CODE0, HANDLER, 0xee);
    enter_v8086(e, 0);
    RUN(e, "\xcc");
    expect_ok(e);
    assert_int_equal(e->c->rip, HANDLER);
}

static void test_vme(void **state)
{
    struct env *e = *state;
    load_cache(e, X86_TR, TR_MAIN);
    e->c->seg[X86_TR].limit = 0xff;
    put(e, TSS + 102, 2, 0x88); // redirection bitmap at 0x68
    put(e, 0x30 * 4, 4, 0x12340040);
    e->c->cr4 = X86_CR4_VME;
    enter_v8086(e, 0);
    e->c->rflags |= X86_FL_VIF;
    RUN(e, "\xcd\x30");
    expect_ok(e);
    assert_int_equal(e->c->seg[X86_CS].sel, 0x1234);
    assert_int_equal(e->c->rip, 0x40);
    assert_int_equal(e->c->gpr[X86_RSP], 0xffa);
    u16 frame[] = {2, CODE >> 4, X86_FL_RSVD1 | X86_FL_IF | X86_FL_IOPL};
    assert_memory_equal(e->t->ram + 0x20020 + 0xffa, frame, sizeof frame);
    assert_false(e->c->rflags & X86_FL_VIF);
    assert_true(e->c->rflags & X86_FL_IF);
    // IRET with VME: IF goes to VIF.
    RUN(e, "\xcf");
    expect_ok(e);
    assert_true(e->c->rflags & X86_FL_VIF);
    assert_int_equal(e->c->rflags & X86_FL_IOPL, 0);
    assert_int_equal(e->c->rip, 2);
    // With an interrupt pending that is a fault.
    e->c->gpr[X86_RSP] = 0xffa;
    e->c->rflags |= X86_FL_VIP;
    RUN(e, "\xcf");
    expect_fault(e, X86_EXC_GP, 0);
    RUN(e, "\x66\xcf");
    expect_fault(e, X86_EXC_GP, 0);
    // A set bit sends it to the monitor.
    put(e, TSS + 0x68 + 0x30 / 8, 1, 1);
    RUN(e, "\xcd\x30");
    expect_fault(e, X86_EXC_GP, 0);
}

// --- real mode ------------------------------------------------------------------------------------------------------------

static int env_real(void **state)
{
    struct env *e = *state = env_new();
    struct cpu *c = e->c;
    for (unsigned s = 0; s < 6; s++)
        c->seg[s] = (struct x86_seg){.limit = 0xffff, .attr = 0x93};
    c->seg[X86_CS].base = CODE;
    c->seg[X86_CS].sel = CODE >> 4;
    c->seg[X86_SS].base = 0x20000;
    c->seg[X86_SS].sel = 0x2000;
    c->idtr = (struct x86_dtable){0, 0x3ff};
    c->rip = 0;
    c->gpr[X86_RSP] = 0x1000;
    put(e, 0x30 * 4, 4, 0x11000040);
    return 0;
}

static void test_real(void **state)
{
    struct env *e = *state;
    e->c->rflags = X86_FL_RSVD1 | X86_FL_IF | X86_FL_CF;
    RUN(e, "\xcd\x30");
    expect_ok(e);
    assert_int_equal(e->c->seg[X86_CS].sel, 0x1100);
    assert_int_equal(e->c->seg[X86_CS].base, 0x11000);
    assert_int_equal(e->c->rip, 0x40);
    u16 frame[] = {2, CODE >> 4, X86_FL_RSVD1 | X86_FL_IF | X86_FL_CF};
    assert_memory_equal(e->t->ram + 0x20ffa, frame, sizeof frame);
    assert_int_equal(e->c->rflags, X86_FL_RSVD1 | X86_FL_CF);
    RUN(e, "\xcf");
    expect_ok(e);
    assert_int_equal(e->c->rflags, X86_FL_RSVD1 | X86_FL_IF | X86_FL_CF);
    assert_int_equal(e->c->rip, 2);
    assert_int_equal(e->c->gpr[X86_RSP], 0x1000);
    RUN(e, "\x9a\x34\x00\x00\x30"); // call 3000:0034
    expect_ok(e);
    assert_int_equal(e->c->seg[X86_CS].base, 0x30000);
    RUN(e, "\xca\x04\x00"); // retf 4
    expect_ok(e);
    assert_int_equal(e->c->gpr[X86_RSP], 0x1004);
    assert_int_equal(e->c->rip, 7);
    e->c->idtr.limit = 0x30 * 4 + 2;
    RUN(e, "\xcd\x30");
    expect_fault(e, X86_EXC_GP, IDT_ERR);
    e->c->gpr[X86_RSP] = 1;
    e->c->idtr.limit = 0x3ff;
    RUN(e, "\xcd\x30");
    expect_fault(e, X86_EXC_SS, 0);
    RUN(e, "\x66\xea\x00\x00\x01\x00\x00\x10"); // jmp 1000:00010000
    expect_fault(e, X86_EXC_GP, 0);
    RUN(e, "\x0f\x00\xc0"); // sldt
    expect_fault(e, X86_EXC_UD, -1);
}

// A frame may wrap around a 16-bit stack between two pushes.
static void test_real_wrap(void **state)
{
    struct env *e = *state;
    e->c->gpr[X86_RSP] = 0xabcd0002;
    RUN(e, "\xcd\x30");
    expect_ok(e);
    assert_int_equal(e->c->gpr[X86_RSP], 0xabcdfffc);
    assert_int_equal(get(e, 0x2fffc, 2), 2);
    assert_int_equal(get(e, 0x2fffe, 2), CODE >> 4);
}

// Limits survive a segment load in real mode.
static void test_unreal(void **state)
{
    struct env *e = *state;
    e->c->seg[X86_DS].limit = 0xffffffff;
    e->c->gpr[X86_RAX] = 0x1234;
    RUN(e, "\x8e\xd8");
    expect_ok(e);
    assert_int_equal(e->c->seg[X86_DS].limit, 0xffffffff);
    assert_int_equal(e->c->seg[X86_DS].base, 0x12340);
}

// --- long mode ------------------------------------------------------------------------------------------------------------

static void at_user64(struct env *e)
{
    at_level(e, 3);
    load_cache(e, X86_CS, CODE64_3 | 3);
}

static void at_kernel64(struct env *e)
{
    at_level(e, 0);
    load_cache(e, X86_CS, CODE64);
}

static void test_long_frames(void **state)
{
    struct env *e = *state;
    set_idt64(e, 0x30, CODE64, HANDLER, 0xee, 0);
    at_kernel64(e);
    e->c->gpr[X86_RSP] = STACK0 - 3;
    e->c->rflags = X86_FL_RSVD1 | X86_FL_IF;
    RUN(e, "\xcd\x30");
    expect_ok(e);
    u64 same[] = {CODE + 2, CODE64, X86_FL_RSVD1 | X86_FL_IF, STACK0 - 3, DATA0};
    u32 top = (STACK0 - 3) & ~15u;
    assert_memory_equal(e->t->ram + top - sizeof same, same, sizeof same);
    assert_int_equal(e->c->gpr[X86_RSP], top - sizeof same);
    assert_int_equal(e->c->seg[X86_SS].sel, DATA0); // the level did not change
    RUN(e, "\x48\xcf");
    expect_ok(e);
    assert_int_equal(e->c->gpr[X86_RSP], STACK0 - 3);
    assert_int_equal(e->c->rip, CODE + 2);

    at_user64(e);
    assert_true(deliver(e, exception(0x30, 0x77)));
    expect_ok(e);
    u64 inner[] = {0x77, CODE, CODE64_3 | 3, X86_FL_RSVD1 | X86_FL_IF | X86_FL_RF, STACK3, DATA3 | 3};
    assert_memory_equal(e->t->ram + STACK0 - sizeof inner, inner, sizeof inner);
    assert_int_equal(e->c->seg[X86_SS].sel, 0);
    assert_true(e->c->seg[X86_SS].attr & X86_SEG_UNUSABLE);
    e->c->gpr[X86_RSP] += 8;
    RUN(e, "\x48\xcf");
    expect_ok(e);
    assert_int_equal(e->c->cpl, 3);
    assert_int_equal(e->c->gpr[X86_RSP], STACK3);
    assert_int_equal(e->c->seg[X86_SS].sel, DATA3 | 3);
}

static void test_ist(void **state)
{
    struct env *e = *state;
    set_idt64(e, 0x30, CODE64, HANDLER, 0x8e, 1);
    at_kernel64(e);
    assert_true(deliver(e, external(0x30)));
    expect_ok(e);
    assert_int_equal(e->c->gpr[X86_RSP], (IST1 & ~15u) - 40);
    assert_int_equal(e->c->seg[X86_SS].sel, DATA0);
    at_kernel64(e);
    e->c->seg[X86_TR].limit = 43 - 1;
    assert_false(deliver(e, external(0x30)));
    expect_delivery_fault(e, X86_EXC_TS, TR_MAIN | 1);
    e->c->seg[X86_TR].limit = 0x67;
    put(e, TSS + 36, 8, 0x800000000000ull); // not canonical below it either, once 16 bytes are used
    put(e, TSS + 36, 8, 0x900000000000ull);
    assert_false(deliver(e, external(0x30)));
    expect_delivery_fault(e, X86_EXC_SS, 1);
    put(e, TSS + 36, 8, 0x40000000);
    assert_false(deliver(e, external(0x30)));
    check_event(&e->x->raised, X86_EXC_PF, 2);
    assert_int_equal(e->x->raised.cr2, 0x40000000 - 8);
    same_registers(e);
}

static const struct {
    u16 target;
    u64 off;
    u8 access;
    unsigned vector;
    u16 error;
} long_gates[] = {
    {CODE0, HANDLER, 0x8e, X86_EXC_GP, CODE0},                                                     // 32-bit code
    {CODE_LD, HANDLER, 0x8e, X86_EXC_GP, CODE_LD},   {CODE64, HANDLER, 0x85, X86_EXC_GP, IDT_ERR}, // task gate
    {CODE64, HANDLER, 0x86, X86_EXC_GP, IDT_ERR},                                                  // 16-bit gate
    {CODE64, HANDLER, 0x0e, X86_EXC_NP, IDT_ERR},    {CODE64, 0x1234567800000000, 0x8e, X86_EXC_GP, 0},
    {CODE64_3, HANDLER, 0x8e, X86_EXC_GP, CODE64_3}, {0, HANDLER, 0x8e, X86_EXC_GP, 0},
};

static void test_long_gates(void **state)
{
    struct env *e = *state;
    at_kernel64(e);
    for (unsigned i = 0; i < ARRAY_LEN(long_gates); i++) {
        set_idt64(e, 0x30, long_gates[i].target, long_gates[i].off, long_gates[i].access, 0);
        assert_false(deliver(e, external(0x30)));
        expect_delivery_fault(e, long_gates[i].vector, long_gates[i].error | 1);
        RUN(e, "\xcd\x30");
        expect_fault(e, long_gates[i].vector, long_gates[i].error);
    }
}

static void test_long_call_gate(void **state)
{
    struct env *e = *state;
    put(e, 0x30000, 8, (u64)GATE64 << 32);
    at_user64(e);
    RUN(e, "\xff\x1c\x25\x00\x00\x03\x00"); // call far [0x30000]
    expect_ok(e);
    u64 frame[] = {CODE + 7, CODE64_3 | 3, STACK3, DATA3 | 3};
    assert_memory_equal(e->t->ram + STACK0 - sizeof frame, frame, sizeof frame);
    assert_int_equal(e->c->seg[X86_CS].sel, CODE64);
    assert_int_equal(e->c->seg[X86_SS].sel, 0);
    RUN(e, "\x48\xcb");
    expect_ok(e);
    assert_int_equal(e->c->rip, CODE + 7);
    assert_int_equal(e->c->gpr[X86_RSP], STACK3);
    put(e, 0x30000, 8, (u64)GATE64_BAD << 32);
    RUN(e, "\xff\x1c\x25\x00\x00\x03\x00");
    expect_fault(e, X86_EXC_GP, CODE0);
    put(e, GDT + GATE64 + 8, 8, 0x8000); // offset not canonical
    put(e, 0x30000, 8, (u64)GATE64 << 32);
    RUN(e, "\xff\x1c\x25\x00\x00\x03\x00");
    expect_fault(e, X86_EXC_GP, 0);
    put(e, GDT + GATE64 + 8, 8, 1ull << 40); // reserved type bits
    RUN(e, "\xff\x1c\x25\x00\x00\x03\x00");
    expect_fault(e, X86_EXC_GP, GATE64);
    put(e, 0x30000, 8, (u64)TR_B << 32);
    RUN(e, "\xff\x1c\x25\x00\x00\x03\x00");
    expect_fault(e, X86_EXC_GP, TR_B);
}

static void put_iret64(struct env *e, u64 rip, u16 cs, u64 flags, u64 rsp, u16 ss)
{
    put(e, STACK0, 8, rip);
    put(e, STACK0 + 8, 8, cs);
    put(e, STACK0 + 16, 8, flags);
    put(e, STACK0 + 24, 8, rsp);
    put(e, STACK0 + 32, 8, ss);
}

static void test_iret64(void **state)
{
    struct env *e = *state;
    at_kernel64(e);
    put_iret64(e, 0x800000000000ull, CODE64_3 | 3, 2, STACK3, DATA3 | 3);
    RUN(e, "\x48\xcf");
    expect_fault(e, X86_EXC_GP, 0);
    put_iret64(e, HANDLER, CODE64_3 | 3, 2, STACK3, 0);
    RUN(e, "\x48\xcf");
    expect_fault(e, X86_EXC_GP, 0);
    put_iret64(e, HANDLER, CODE_LD, 2, STACK3, DATA0);
    RUN(e, "\x48\xcf");
    expect_fault(e, X86_EXC_GP, CODE_LD);
    put_iret64(e, HANDLER, CODE0, 2, STACK3, 0); // null SS with 32-bit code
    RUN(e, "\x48\xcf");
    expect_fault(e, X86_EXC_GP, 0);
    e->c->rflags |= X86_FL_NT;
    RUN(e, "\x48\xcf");
    expect_fault(e, X86_EXC_GP, 0);
    e->c->rflags &= ~(u64)X86_FL_NT;
    put_iret64(e, HANDLER, CODE64, X86_FL_RSVD1 | X86_FL_VM | X86_FL_RF, STACK0 - 5, 0);
    RUN(e, "\x48\xcf");
    expect_ok(e);
    assert_int_equal(e->c->gpr[X86_RSP], STACK0 - 5);
    assert_int_equal(e->c->rflags, X86_FL_RSVD1 | X86_FL_RF);
    at_kernel64(e);
    e->c->rflags = X86_FL_RSVD1;
    put_iret64(e, HANDLER, CODE3 | 3, 2, 0x1122334455667788ull, DATA3 | 3);
    RUN(e, "\x48\xcf"); // to compatibility mode
    expect_ok(e);
    assert_int_equal(e->c->gpr[X86_RSP], 0x55667788);
    assert_int_equal(e->c->cpl, 3);
}

static void test_long_system(void **state)
{
    struct env *e = *state;
    at_kernel64(e);
    e->c->gpr[X86_RAX] = TR_B; // its second half is the descriptor after it: TR_16's type bits
    RUN(e, "\x0f\x00\xd8");
    expect_fault(e, X86_EXC_GP, TR_B);
    put(e, GDT + TR_B + 8, 8, 0xffffffff);
    RUN(e, "\x0f\x00\xd8");
    expect_ok(e);
    assert_int_equal(e->c->seg[X86_TR].base, 0xffffffff00000000ull | TSS_B);
    at_kernel64(e);
    e->c->gpr[X86_RAX] = TASKGATE3; // LAR sees fewer types
    RUN(e, "\x0f\x02\xc8");
    expect_ok(e);
    assert_false(e->c->rflags & X86_FL_ZF);
    at_kernel64(e);
    put(e, 0x30000, 2, 0xff);
    put(e, 0x30002, 8, 0x8000000000000000ull);
    RUN(e, "\x0f\x01\x14\x25\x00\x00\x03\x00"); // lgdt
    expect_fault(e, X86_EXC_GP, 0);
    e->c->gpr[X86_RAX] = 0; // null SS at level 0
    RUN(e, "\x8e\xd0");
    expect_ok(e);
    assert_true(e->c->seg[X86_SS].attr & X86_SEG_UNUSABLE);
    at_user64(e);
    e->c->shadow = 0;
    e->c->gpr[X86_RAX] = 3;
    RUN(e, "\x8e\xd0");
    expect_fault(e, X86_EXC_GP, 0);
}

// INIT leaves an application processor waiting, the signature in RDX; SIPI starts it at the page its vector names. SDM 3A 8.4.
static void test_init_sipi(void **state)
{
    struct env *e = *state;
    struct vcpu *v = e->t->v;
    v->id = 1;
    e->t->ram[0x9000] = 0x90;
    vcpu_request(v, VCPU_REQ_INIT);
    assert_int_equal(testvm_run(e->t, 1).reason, VM_EXIT_HALT);
    assert_int_equal(e->c->activity, CPU_WAIT_SIPI);
    assert_int_equal(e->c->gpr[X86_RDX], 0x600);
    assert_int_equal(e->c->cr0, X86_CR0_ET);
    v->sipi_vector = 9;
    vcpu_request(v, VCPU_REQ_SIPI);
    assert_int_equal(testvm_run(e->t, 1).reason, VM_EXIT_BUDGET);
    assert_int_equal(e->c->seg[X86_CS].sel, 0x900);
    assert_int_equal(e->c->seg[X86_CS].base, 0x9000);
    assert_int_equal(e->c->rip, 1);
}

// A table that begins in the lower half and ends beyond it.
static void test_table_not_canonical(void **state)
{
    struct env *e = *state;
    at_kernel64(e);
    e->c->gdtr.base = 0x800000000000ull - 0x20;
    e->c->gpr[X86_RAX] = DATA0 + 0x20;
    RUN(e, "\x8e\xd8");
    expect_fault(e, X86_EXC_GP, 0);
    e->c->gpr[X86_RAX] = 0x18; // half of it
    e->c->gdtr.base += 4;
    RUN(e, "\x8e\xd8");
    expect_fault(e, X86_EXC_GP, 0);
}

// Data breakpoints on the last bytes there are.
static void test_watch_top(void **state)
{
    struct env *e = *state;
    at_kernel64(e);
    put(e, TABLES + 0xff8, 8, (TABLES + 0x1000) | 7);
    put(e, TABLES + 0x1ff8, 8, (TABLES + 0x2000) | 7);
    put(e, TABLES + 0x2ff8, 8, 0x87);
    e->c->dr[0] = ~7ull;
    e->c->dr7 = X86_DR7_FIXED | 2 | 0x90000;    // G0, writes, 8 bytes
    RUN(e, "\x48\x89\x04\x25\xf8\xff\xff\xff"); // mov [-8], rax
    assert_int_equal(e->c->event.vector, X86_EXC_DB);
    assert_int_equal(e->c->event.dr6, X86_DR6_B(0));
}

// An instruction that is cut off by a page fault leaves nothing in the place that another one's decoding is remembered in.
static void test_cut_off(void **state)
{
    struct env *e = *state;
    const u64 cut = 0x200ffc, page = cut >> 12;
    const u64 other = CODE | (((cut & 0xfff) ^ page ^ (CODE >> 12)) & 0xfff);
    at_kernel64(e);
    put(e, TABLES + 0x2008, 8, (TABLES + 0x3000) | 7);
    put(e, TABLES + 0x3000, 8, CODE | 7); // and nothing behind it
    e->c->gpr[X86_RCX] = 0;
    e->c->rip = other;
    RUN(e, "\x83\xc1\x05"); // add ecx, 5
    expect_ok(e);
    memcpy(e->t->ram + CODE + 0xffc, "\x48\xb8\x01\x02", 4); // mov rax, ...
    e->c->rip = cut;
    testvm_run(e->t, 1);
    check_event(&e->c->event, X86_EXC_PF, 0);
    assert_int_equal(e->c->event.cr2, 0x201000);
    e->c->event.type = CPU_EVENT_NONE;
    e->c->rip = other;
    testvm_run(e->t, 1);
    expect_ok(e);
    assert_int_equal(e->c->gpr[X86_RCX], 10);
    assert_int_equal(e->c->rip, other + 3);
}

// --- deliveries without end -----------------------------------------------------------------------------------------------

// The frame of a #DB handler meets a data breakpoint, every time. Neither the budget nor a request to leave may wait for the end.
static void test_endless_db(void **state)
{
    struct env *e = *state;
    set_idt64(e, X86_EXC_DB, CODE64, HANDLER, 0x8e, 1);
    at_kernel64(e);
    e->c->dr[0] = (IST1 & ~15u) - 8;
    e->c->dr7 = X86_DR7_FIXED | 2 | 0xd0000; // G0, writes, 4 bytes
    e->c->event = exception(X86_EXC_DB, -1);
    e->c->event.dr6 = X86_DR6_BS;
    assert_int_equal(testvm_run(e->t, 100).reason, VM_EXIT_BUDGET);
    assert_int_equal(e->c->event.vector, X86_EXC_DB);
    assert_int_equal(e->c->rip, HANDLER);
    vcpu_request(e->t->v, VCPU_REQ_EXIT);
    assert_int_equal(testvm_run(e->t, ENGINE_NO_BUDGET).reason, VM_EXIT_KICK);
    assert_int_equal(e->c->event.vector, X86_EXC_DB);
    assert_null(cpu_check(e->c));
}

// #AC on the way to a handler of #AC at level 3.
static void test_endless_ac(void **state)
{
    struct env *e = *state;
    set_idt(e, X86_EXC_AC, CODE3, HANDLER, 0xee);
    at_level(e, 3);
    e->c->cr0 |= X86_CR0_AM;
    e->c->rflags |= X86_FL_AC;
    e->c->gpr[X86_RSP] = STACK3 - 1;
    e->c->event = exception(X86_EXC_AC, 0);
    assert_int_equal(testvm_run(e->t, 100).reason, VM_EXIT_BUDGET);
    assert_int_equal(e->c->event.vector, X86_EXC_AC);
    vcpu_request(e->t->v, VCPU_REQ_EXIT);
    assert_int_equal(testvm_run(e->t, ENGINE_NO_BUDGET).reason, VM_EXIT_KICK);
    assert_null(cpu_check(e->c));
}

static int always_30(void *intc)
{
    (void)intc;
    return 0x30;
}

// A line that stays up, a trap gate, which leaves interrupts on, and a stack that starts afresh.
static void test_endless_interrupts(void **state)
{
    struct env *e = *state;
    set_idt64(e, 0x30, CODE64, HANDLER, 0x8f, 1);
    at_kernel64(e);
    e->c->rflags |= X86_FL_IF;
    e->t->v->intc.ack = always_30;
    vcpu_request(e->t->v, VCPU_REQ_INTR);
    assert_int_equal(testvm_run(e->t, 100).reason, VM_EXIT_BUDGET);
    assert_int_equal(e->c->rip, HANDLER);
    vcpu_request(e->t->v, VCPU_REQ_EXIT);
    assert_int_equal(testvm_run(e->t, ENGINE_NO_BUDGET).reason, VM_EXIT_KICK);
    assert_null(cpu_check(e->c));
}

// --- requests -------------------------------------------------------------------------------------------------------------

// INIT drops events and traps that were due; an SMI has no effect and does not stay.
static void test_init_smi(void **state)
{
    struct env *e = *state;
    struct vcpu *v = e->t->v;
    v->id = 1;
    e->c->event = exception(X86_EXC_DB, -1);
    e->c->pending_dr6 = X86_DR6_B(0);
    vcpu_request(v, VCPU_REQ_INIT | VCPU_REQ_SMI);
    assert_int_equal(testvm_run(e->t, 10).reason, VM_EXIT_HALT);
    assert_int_equal(v->request, 0);
    assert_int_equal(e->c->event.type, CPU_EVENT_NONE);
    assert_int_equal(e->c->pending_dr6, 0);
    assert_null(cpu_check(e->c));
}

int main(void)
{
#define P(f) cmocka_unit_test_setup_teardown(f, env_protected, env_free)
#define R(f) cmocka_unit_test_setup_teardown(f, env_real, env_free)
#define L(f) cmocka_unit_test_setup_teardown(f, env_long, env_free)
    const struct CMUnitTest tests[] = {
        P(test_gates),
        P(test_idt_limit),
        P(test_frames),
        P(test_gate16_frame),
        P(test_soft),
        P(test_side_effects),
        P(test_v8086_out_and_back),
        P(test_v8086_checks),
        P(test_vme),
        P(test_init_sipi),
        R(test_real),
        R(test_real_wrap),
        R(test_unreal),
        L(test_long_frames),
        L(test_ist),
        L(test_long_gates),
        L(test_long_call_gate),
        L(test_iret64),
        L(test_long_system),
        L(test_table_not_canonical),
        L(test_watch_top),
        L(test_cut_off),
        L(test_endless_db),
        P(test_endless_ac),
        L(test_endless_interrupts),
        P(test_init_smi),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
