// Segment loads, far CALL, JMP, RET and IRET, call gates and the descriptor instructions in 32-bit protected mode: every check
// with its vector and error code, and that a fault changes nothing.
#include "xfer_env.h"

// --- segment loads --------------------------------------------------------------------------------------------------------

struct load_case {
    u8 cpl;
    u8 reg; // encoding in MOV Sreg
    u16 sel;
    int vector; // -1: loads
    u16 error;
};

static const struct load_case loads[] = {
    {0, 3, DATA0, -1, 0},
    {0, 3, 0, -1, 0},
    {0, 3, 3, -1, 0},
    {0, 3, CODE0, -1, 0},
    {0, 3, RODATA0, -1, 0},
    {0, 3, DATA3 | 3, -1, 0},
    {0, 3, DATA0 | 3, X86_EXC_GP, DATA0},
    {0, 3, DATA0_NP, X86_EXC_NP, DATA0_NP},
    {0, 3, EXEC3, X86_EXC_GP, EXEC3},
    {0, 3, TR_MAIN, X86_EXC_GP, TR_MAIN},
    {0, 3, GATE3, X86_EXC_GP, GATE3},
    {0, 3, OUTSIDE, X86_EXC_GP, OUTSIDE},
    {0, 3, 0x0c, X86_EXC_GP, 0x0c}, // no LDT loaded
    {3, 3, DATA3 | 3, -1, 0},
    {3, 3, DATA3, -1, 0},
    {3, 3, DATA0, X86_EXC_GP, DATA0},
    {3, 3, CONF0, -1, 0},
    {3, 3, CODE3 | 3, -1, 0},
    {3, 3, DATA3_NP, X86_EXC_NP, DATA3_NP},
    {3, 5, DOWN3, -1, 0},
    {0, 2, DATA0, -1, 0},
    {0, 2, 0, X86_EXC_GP, 0},
    {0, 2, 3, X86_EXC_GP, 0},
    {0, 2, DATA0 | 1, X86_EXC_GP, DATA0},
    {0, 2, DATA3, X86_EXC_GP, DATA3},
    {0, 2, RODATA0, X86_EXC_GP, RODATA0},
    {0, 2, CODE0, X86_EXC_GP, CODE0},
    {0, 2, DATA0_NP, X86_EXC_SS, DATA0_NP},
    {0, 2, OUTSIDE, X86_EXC_GP, OUTSIDE},
    {3, 2, DATA3 | 3, -1, 0},
    {3, 2, DATA3, X86_EXC_GP, DATA3},
    {3, 2, DATA0 | 3, X86_EXC_GP, DATA0},
};

static void test_load(void **state)
{
    struct env *e = *state;
    for (unsigned i = 0; i < ARRAY_LEN(loads); i++) {
        const struct load_case *l = &loads[i];
        char mov[2] = {(char)0x8e, (char)(0xc0 | l->reg << 3)};
        at_level(e, l->cpl);
        e->c->gpr[X86_RAX] = l->sel;
        e->c->shadow = 0;
        run_bytes(e, mov, 2);
        if (l->vector >= 0) {
            expect_fault(e, (unsigned)l->vector, l->error);
            continue;
        }
        expect_ok(e);
        assert_int_equal(e->c->seg[l->reg].sel, l->sel);
        assert_int_equal((e->c->seg[l->reg].attr & X86_SEG_UNUSABLE) != 0, l->sel < 4);
    }
}

static void test_accessed(void **state)
{
    struct env *e = *state;
    set_desc(e, DATA0, 0, FLAT, G32 | 0x92);
    e->c->gpr[X86_RAX] = DATA0;
    RUN(e, "\x8e\xd8");
    expect_ok(e);
    assert_int_equal(get(e, GDT + DATA0 + 5, 1), 0x93);
    assert_int_equal(e->c->seg[X86_DS].attr, G32 | 0x93);
}

static void test_ldt(void **state)
{
    struct env *e = *state;
    e->c->gpr[X86_RAX] = LDT_SEL;
    RUN(e, "\x0f\x00\xd0");
    expect_ok(e);
    assert_int_equal(e->c->seg[X86_LDTR].base, LDT);
    e->c->gpr[X86_RAX] = 0x0f;
    RUN(e, "\x8e\xd8");
    expect_ok(e);
    e->c->gpr[X86_RAX] = 0x44; // past the LDT's limit
    RUN(e, "\x8e\xd8");
    expect_fault(e, X86_EXC_GP, 0x44);
    put(e, LDT + 0x10, 8, make_desc(LDT, 0x3f, 0x82)); // an LDT descriptor must be in the GDT
    e->c->gpr[X86_RAX] = 0x14;
    RUN(e, "\x0f\x00\xd0");
    expect_fault(e, X86_EXC_GP, 0x14);
    e->c->gdtr.limit = DATA0 + 7;
    e->c->gpr[X86_RAX] = DATA0;
    RUN(e, "\x8e\xd8");
    expect_ok(e);
    e->c->gdtr.limit = DATA0 + 6; // the whole descriptor counts
    RUN(e, "\x8e\xd8");
    expect_fault(e, X86_EXC_GP, DATA0);
}

// --- far JMP and CALL -----------------------------------------------------------------------------------------------------

struct far_case {
    u8 cpl;
    u16 sel;
    int vector;
    u16 error;
    u16 cs; // after success
};

static const struct far_case jumps[] = {
    {0, CODE0, -1, 0, CODE0},
    {0, CODE0 | 3, X86_EXC_GP, CODE0, 0},
    {0, CONF0, -1, 0, CONF0},
    {3, CONF0, -1, 0, CONF0 | 3},
    {3, CONF3, -1, 0, CONF3 | 3},
    {0, CONF3, X86_EXC_GP, CONF3, 0},
    {3, CODE3, -1, 0, CODE3 | 3},
    {3, CODE0, X86_EXC_GP, CODE0, 0},
    {0, CODE3, X86_EXC_GP, CODE3, 0},
    {0, 0, X86_EXC_GP, 0, 0},
    {0, 2, X86_EXC_GP, 0, 0},
    {0, OUTSIDE, X86_EXC_GP, OUTSIDE, 0},
    {0, DATA0, X86_EXC_GP, DATA0, 0},
    {0, CODE0_NP, X86_EXC_NP, CODE0_NP, 0},
    {0, SMALL0, X86_EXC_GP, 0, 0}, // offset beyond the limit
    {0, LDT_SEL, X86_EXC_GP, LDT_SEL, 0},
    {0, TR_MAIN, X86_EXC_GP, TR_MAIN, 0}, // busy
    {3, TR_16, X86_EXC_GP, TR_16, 0},     // DPL 0
    {0, TR_B | 3, -2, 0, 0},              // RPL 3, DPL 3: allowed, tested with the tasks
    {0, TR_16 | 1, X86_EXC_GP, TR_16, 0},
    {0, TR_NP, X86_EXC_NP, TR_NP, 0},
    {0, TR_SHORT, X86_EXC_TS, TR_SHORT, 0},
    {3, TASKGATE0, X86_EXC_GP, TASKGATE0, 0},
    {3, GATE0, X86_EXC_GP, GATE0, 0},
    {0, GATE0 | 3, X86_EXC_GP, GATE0, 0},
    {0, GATE3_NP, X86_EXC_NP, GATE3_NP, 0},
    {0, GATE_NULL, X86_EXC_GP, 0, 0},
    {0, GATE_DATA, X86_EXC_GP, DATA0, 0},
    {0, GATE_CODE1, X86_EXC_GP, CODE1, 0},
    {0, GATE_FAR, X86_EXC_GP, 0, 0},
    {0, GATE3, -1, 0, CODE0},
    {0, GATE_CONF, -1, 0, CONF0},
    {3, GATE_CONF, -1, 0, CONF0 | 3},
};

static void far_bytes(char *b, u8 opcode, u32 off, u16 sel)
{
    b[0] = (char)opcode;
    memcpy(b + 1, &off, 4);
    memcpy(b + 5, &sel, 2);
}

static void test_jmp(void **state)
{
    struct env *e = *state;
    for (unsigned i = 0; i < ARRAY_LEN(jumps); i++) {
        const struct far_case *f = &jumps[i];
        char b[7];
        if (f->vector == -2)
            continue;
        at_level(e, f->cpl);
        far_bytes(b, 0xea, HANDLER, f->sel);
        run_bytes(e, b, 7);
        if (f->vector >= 0) {
            expect_fault(e, (unsigned)f->vector, f->error);
            continue;
        }
        expect_ok(e);
        assert_int_equal(e->c->seg[X86_CS].sel, f->cs);
        assert_int_equal(e->c->rip, HANDLER);
        assert_int_equal(e->c->cpl, f->cpl);
    }
    // JMP through a gate may not change the level.
    at_level(e, 3);
    RUN(e, "\xea\x00\x00\x00\x00\x68\x00");
    expect_fault(e, X86_EXC_GP, CODE0);
}

static void test_call_same(void **state)
{
    struct env *e = *state;
    for (unsigned i = 0; i < ARRAY_LEN(jumps); i++) {
        const struct far_case *f = &jumps[i];
        char b[7];
        if (f->vector == -2)
            continue;
        at_level(e, f->cpl);
        u32 sp = (u32)e->c->gpr[X86_RSP];
        u16 cs = e->c->seg[X86_CS].sel;
        far_bytes(b, 0x9a, HANDLER, f->sel);
        run_bytes(e, b, 7);
        if (f->vector >= 0) {
            expect_fault(e, (unsigned)f->vector, f->error);
            continue;
        }
        expect_ok(e);
        assert_int_equal(e->c->seg[X86_CS].sel, f->cs);
        assert_int_equal(e->c->gpr[X86_RSP], sp - 8);
        assert_int_equal(get(e, sp - 8, 4), CODE + 7);
        assert_int_equal(get(e, sp - 4, 4), cs);
    }
}

static void test_call_inner(void **state)
{
    struct env *e = *state;
    at_level(e, 3);
    for (unsigned i = 0; i < 3; i++)
        put(e, STACK3 + 4 * i, 4, 0x11111111u * (i + 1));
    e->c->rflags |= X86_FL_IF;
    RUN(e, "\x9a\x00\x00\x00\x00\x20\x01");
    expect_ok(e);
    static const u32 frame[] = {CODE + 7, CODE3 | 3, 0x11111111, 0x22222222, 0x33333333, STACK3, DATA3 | 3};
    assert_int_equal(e->c->gpr[X86_RSP], STACK0 - sizeof frame);
    assert_memory_equal(e->t->ram + STACK0 - sizeof frame, frame, sizeof frame);
    assert_int_equal(e->c->seg[X86_CS].sel, CODE0);
    assert_int_equal(e->c->seg[X86_SS].sel, DATA0);
    assert_int_equal(e->c->cpl, 0);
    assert_int_equal(e->c->rip, HANDLER);
    // And back: RET 12 drops the parameters on both stacks, and DS (level 0 by now) is lost.
    load_cache(e, X86_DS, DATA0);
    RUN(e, "\xca\x0c\x00");
    expect_ok(e);
    assert_int_equal(e->c->gpr[X86_RSP], STACK3 + 12);
    assert_int_equal(e->c->cpl, 3);
    assert_int_equal(e->c->seg[X86_SS].sel, DATA3 | 3);
    assert_int_equal(e->c->rip, CODE + 7);
    assert_int_equal(e->c->seg[X86_DS].sel, 0);
    assert_true(e->c->seg[X86_DS].attr & X86_SEG_UNUSABLE);
    assert_int_equal(e->c->seg[X86_ES].sel, DATA3 | 3);
}

static void test_call_gate16(void **state)
{
    struct env *e = *state;
    at_level(e, 3);
    put(e, STACK3, 2, 0xaaaa);
    put(e, STACK3 + 2, 2, 0xbbbb);
    RUN(e, "\x9a\x00\x00\x00\x00\xd0\x00");
    expect_ok(e);
    static const u16 frame[] = {CODE & 0xffff ? 0 : 7, CODE3 | 3, 0xaaaa, 0xbbbb, STACK3 & 0xffff, DATA3 | 3};
    assert_memory_equal(e->t->ram + STACK0 - sizeof frame, frame, sizeof frame);
    assert_int_equal(e->c->rip, 0x1000);
}

struct inner_case {
    u32 esp;
    u16 ss;
    unsigned vector;
    u16 error;
};

static const struct inner_case inners[] = {
    {STACK0, 0, X86_EXC_TS, 0},
    {STACK0, OUTSIDE, X86_EXC_TS, OUTSIDE},
    {STACK0, DATA0 | 1, X86_EXC_TS, DATA0},
    {STACK0, DATA3, X86_EXC_TS, DATA3},
    {STACK0, RODATA0, X86_EXC_TS, RODATA0},
    {STACK0, CODE0, X86_EXC_TS, CODE0},
    {STACK0, DATA0_NP, X86_EXC_SS, DATA0_NP},
    {0x0c, STACK_SMALL, X86_EXC_SS, STACK_SMALL},
    {0x30, STACK_SMALL, X86_EXC_SS, STACK_SMALL},
};

static void test_inner_stack(void **state)
{
    struct env *e = *state;
    set_idt(e, 0x30, CODE0, HANDLER, 0xee);
    for (unsigned i = 0; i < ARRAY_LEN(inners); i++) {
        const struct inner_case *c = &inners[i];
        put(e, TSS + 4, 4, c->esp);
        put(e, TSS + 8, 4, c->ss);
        at_level(e, 3);
        RUN(e, "\x9a\x00\x00\x00\x00\x68\x00");
        expect_fault(e, c->vector, c->error);
        RUN(e, "\xcd\x30");
        expect_fault(e, c->vector, c->error);
        assert_false(deliver(e, external(0x30)));
        expect_delivery_fault(e, c->vector, c->error | 1);
    }
    fill_tss(e);
    e->c->seg[X86_TR].limit = 8; // SS0 is outside
    RUN(e, "\x9a\x00\x00\x00\x00\x68\x00");
    expect_fault(e, X86_EXC_TS, TR_MAIN);
}

static void test_stack_room(void **state)
{
    struct env *e = *state;
    load_cache(e, X86_SS, STACK_SMALL);
    e->c->gpr[X86_RSP] = 4;
    put(e, STACK0, 4, CODE0); // a far call stores CS before it looks at the slot for RIP
    RUN(e, "\x9a\x00\x10\x01\x00\x08\x00");
    expect_fault(e, X86_EXC_SS, 0);
    RUN(e, "\x9a\x00\x10\x01\x00\x68\x00");
    expect_fault(e, X86_EXC_SS, 0);
    e->c->gpr[X86_RSP] = 0x20;
    RUN(e, "\xcb");
    expect_fault(e, X86_EXC_SS, 0);
    e->c->gpr[X86_RSP] = 0x1c;
    RUN(e, "\xcf");
    expect_fault(e, X86_EXC_SS, 0);
}

static void test_far_memory(void **state)
{
    struct env *e = *state;
    put(e, 0x30000, 4, HANDLER);
    put(e, 0x30004, 2, CODE0);
    RUN(e, "\xff\x2d\x00\x00\x03\x00"); // jmp far [0x30000]
    expect_ok(e);
    assert_int_equal(e->c->rip, HANDLER);
    at_level(e, 0);
    RUN(e, "\x66\xff\x2d\x00\x00\x03\x00"); // m16:16: the selector is the offset's upper half
    expect_fault(e, X86_EXC_GP, 0);
}

// --- far RET and IRET -----------------------------------------------------------------------------------------------------

struct ret_case {
    u8 cpl;
    u16 cs, ss;
    int vector;
    u16 error;
};

static const struct ret_case returns[] = {
    {0, CODE0, 0, -1, 0},
    {0, CONF0, 0, -1, 0},
    {0, 0, 0, X86_EXC_GP, 0},
    {0, OUTSIDE, 0, X86_EXC_GP, OUTSIDE},
    {0, DATA0, 0, X86_EXC_GP, DATA0},
    {0, CODE3, 0, X86_EXC_GP, CODE3},
    {0, CODE0_NP, 0, X86_EXC_NP, CODE0_NP},
    {0, SMALL0, 0, X86_EXC_GP, 0},
    {0, GATE3, 0, X86_EXC_GP, GATE3},
    {3, CODE0, 0, X86_EXC_GP, CODE0},
    {3, CODE3 | 3, 0, -1, 0},
    {0, CODE3 | 3, DATA3 | 3, -1, 0},
    {0, CONF0 | 3, DATA3 | 3, -1, 0},
    {0, CONF3 | 3, DATA3 | 3, -1, 0},
    {0, CONF3 | 1, DATA1 | 1, X86_EXC_GP, CONF3},
    {0, CODE1 | 3, DATA3 | 3, X86_EXC_GP, CODE1},
    {0, CODE3 | 3, 0, X86_EXC_GP, 0},
    {0, CODE3 | 3, DATA0, X86_EXC_GP, DATA0},
    {0, CODE3 | 3, DATA0 | 3, X86_EXC_GP, DATA0},
    {0, CODE3 | 3, DATA3, X86_EXC_GP, DATA3},
    {0, CODE3 | 3, CODE3 | 3, X86_EXC_GP, CODE3},
    {0, CODE3 | 3, OUTSIDE | 3, X86_EXC_GP, OUTSIDE},
    {0, CODE3 | 3, DATA3_NP | 3, X86_EXC_SS, DATA3_NP},
};

static void run_return(struct env *e, const struct ret_case *r, bool iret)
{
    at_level(e, r->cpl);
    u32 sp = (u32)e->c->gpr[X86_RSP];
    put(e, sp, 4, HANDLER);
    put(e, sp + 4, 4, r->cs);
    u32 a = sp + 8;
    if (iret) {
        put(e, a, 4, X86_FL_RSVD1 | X86_FL_CF);
        a += 4;
    }
    put(e, a, 4, STACK3 - 0x100);
    put(e, a + 4, 4, r->ss);
    e->c->rflags = X86_FL_RSVD1;
    run_bytes(e, iret ? "\xcf" : "\xcb", 1);
    if (r->vector >= 0) {
        expect_fault(e, (unsigned)r->vector, r->error);
        return;
    }
    expect_ok(e);
    bool outer = (r->cs & 3) > r->cpl;
    assert_int_equal(e->c->seg[X86_CS].sel, r->cs);
    assert_int_equal(e->c->cpl, r->cs & 3);
    assert_int_equal(e->c->rip, HANDLER);
    assert_int_equal(e->c->gpr[X86_RSP], outer ? STACK3 - 0x100 : a);
    if (outer)
        assert_true(e->c->seg[X86_DS].attr & X86_SEG_UNUSABLE);
}

static void test_return(void **state)
{
    struct env *e = *state;
    for (unsigned i = 0; i < ARRAY_LEN(returns); i++) {
        run_return(e, &returns[i], false);
        run_return(e, &returns[i], true);
    }
}

struct flags_case {
    u8 cpl, iopl, opsize;
    u32 image, expect; // from all clear but IOPL
};

#define FL_EVERY 0x003f7fd7u

static const struct flags_case irets[] = {
    {0, 0, 4, FL_EVERY & ~X86_FL_VM, FL_EVERY & ~X86_FL_VM},
    {0, 0, 2, FL_EVERY, 0x7fd7},
    {3, 0, 4, FL_EVERY, FL_EVERY & ~(X86_FL_VM | X86_FL_IF | X86_FL_IOPL | X86_FL_VIF | X86_FL_VIP)},
    {3, 3, 4, FL_EVERY, FL_EVERY & ~(X86_FL_VM | X86_FL_VIF | X86_FL_VIP)},
    {3, 0, 2, FL_EVERY, 0x7fd7 & ~(X86_FL_IF | X86_FL_IOPL)},
    {1, 1, 4, FL_EVERY, (FL_EVERY & ~(X86_FL_VM | X86_FL_VIF | X86_FL_VIP | X86_FL_IOPL)) | 1 << 12},
};

static void test_iret_flags(void **state)
{
    struct env *e = *state;
    for (unsigned i = 0; i < ARRAY_LEN(irets); i++) {
        const struct flags_case *f = &irets[i];
        at_level(e, f->cpl);
        // 16-bit offsets cannot reach CODE: return to low memory.
        u32 sp = (u32)e->c->gpr[X86_RSP];
        put(e, sp, f->opsize, 0x8000);
        put(e, sp + f->opsize, f->opsize, e->c->seg[X86_CS].sel);
        put(e, sp + 2u * f->opsize, f->opsize, f->image);
        e->c->rflags = X86_FL_RSVD1 | (u32)f->iopl << X86_FL_IOPL_SHIFT;
        if (f->opsize == 4)
            RUN(e, "\xcf");
        else
            RUN(e, "\x66\xcf");
        expect_ok(e);
        assert_int_equal(e->c->rflags, f->expect);
        e->c->rflags = X86_FL_RSVD1;
    }
}

static void test_iret_nmi(void **state)
{
    struct env *e = *state;
    put(e, STACK0, 4, HANDLER);
    put(e, STACK0 + 4, 4, CODE0);
    put(e, STACK0 + 8, 4, 2);
    e->c->nmi_blocked = true;
    RUN(e, "\xcf");
    expect_ok(e);
    assert_false(e->c->nmi_blocked);
}

// The upper half of ESP leaks on a return to a 16-bit stack.
static void test_return_stack16(void **state)
{
    struct env *e = *state;
    set_desc(e, DATA3, 0, 0xffff, 0xf3);
    put(e, STACK0, 4, HANDLER);
    put(e, STACK0 + 4, 4, CODE3 | 3);
    put(e, STACK0 + 8, 4, 0x77771234);
    put(e, STACK0 + 12, 4, DATA3 | 3);
    RUN(e, "\xcb");
    expect_ok(e);
    assert_int_equal(e->c->gpr[X86_RSP], (STACK0 & 0xffff0000u) | 0x1234);
}

// --- descriptor instructions ----------------------------------------------------------------------------------------------

struct look_case {
    u8 cpl;
    u16 sel;
    bool lar, lsl, verr, verw;
};

static const struct look_case looks[] = {
    {0, 0, 0, 0, 0, 0},         {0, OUTSIDE, 0, 0, 0, 0},  {0, CODE0, 1, 1, 1, 0},   {0, DATA0, 1, 1, 1, 1},
    {0, DATA0 | 3, 0, 0, 0, 0}, {3, DATA0, 0, 0, 0, 0},    {3, CONF0, 1, 1, 1, 0},   {3, EXEC3 | 3, 1, 1, 0, 0},
    {0, RODATA0, 1, 1, 1, 0},   {0, DATA0_NP, 1, 1, 1, 1}, {0, TR_MAIN, 1, 1, 0, 0}, {0, TR_16, 1, 1, 0, 0},
    {0, LDT_SEL, 1, 1, 0, 0},   {0, GATE3, 1, 0, 0, 0},    {0, GATE16, 1, 0, 0, 0},  {0, TASKGATE3, 1, 0, 0, 0},
};

static bool zf(struct env *e)
{
    expect_ok(e);
    return e->c->rflags & X86_FL_ZF;
}

static void test_look(void **state)
{
    struct env *e = *state;
    for (unsigned i = 0; i < ARRAY_LEN(looks); i++) {
        const struct look_case *l = &looks[i];
        for (unsigned k = 0; k < 4; k++) {
            static const char *const ops[] = {"\x0f\x02\xc8", "\x0f\x03\xc8", "\x0f\x00\xe0", "\x0f\x00\xe8"};
            bool expect[] = {l->lar, l->lsl, l->verr, l->verw};
            at_level(e, l->cpl);
            e->c->gpr[X86_RAX] = l->sel;
            e->c->gpr[X86_RCX] = 0x12345678;
            run_bytes(e, ops[k], 3);
            assert_int_equal(zf(e), expect[k]);
            if (!expect[k])
                assert_int_equal(e->c->gpr[X86_RCX], 0x12345678);
        }
    }
    e->c->gpr[X86_RAX] = CODE0;
    at_level(e, 0);
    RUN(e, "\x0f\x02\xc8");
    assert_int_equal(e->c->gpr[X86_RCX], 0x00cf9b00);
    e->c->rip = CODE;
    RUN(e, "\x0f\x03\xc8");
    assert_int_equal(e->c->gpr[X86_RCX], 0xffffffff);
    e->c->rip = CODE;
    RUN(e, "\x66\x0f\x02\xc8");
    assert_int_equal(e->c->gpr[X86_RCX], 0xffff9b00);
}

static void test_arpl(void **state)
{
    struct env *e = *state;
    e->c->gpr[X86_RAX] = 0xffff0010;
    e->c->gpr[X86_RCX] = 0x1b;
    RUN(e, "\x63\xc8");
    assert_true(zf(e));
    assert_int_equal(e->c->gpr[X86_RAX], 0xffff0013);
    RUN(e, "\x63\xc8");
    assert_false(zf(e));
}

static void test_system_loads(void **state)
{
    static const struct {
        u16 sel;
        u8 op; // ModRM of 0F 00: D0 LLDT AX, D8 LTR AX
        int vector;
        u16 error;
    } cases[] = {
        {0, 0xd0, -1, 0},
        {LDT_SEL, 0xd0, -1, 0},
        {LDT_SEL | 4, 0xd0, X86_EXC_GP, LDT_SEL | 4},
        {TR_B, 0xd0, X86_EXC_GP, TR_B},
        {OUTSIDE, 0xd0, X86_EXC_GP, OUTSIDE},
        {0, 0xd8, X86_EXC_GP, 0},
        {TR_MAIN, 0xd8, X86_EXC_GP, TR_MAIN}, // busy
        {LDT_SEL, 0xd8, X86_EXC_GP, LDT_SEL},
        {TR_NP, 0xd8, X86_EXC_NP, TR_NP},
        {TR_B, 0xd8, -1, 0},
        {TR_16, 0xd8, -1, 0},
    };
    struct env *e = *state;
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        char b[3] = {0x0f, 0x00, (char)cases[i].op};
        e->c->gpr[X86_RAX] = cases[i].sel;
        e->c->rip = CODE;
        run_bytes(e, b, 3);
        if (cases[i].vector >= 0)
            expect_fault(e, (unsigned)cases[i].vector, cases[i].error);
        else
            expect_ok(e);
    }
    assert_int_equal(get(e, GDT + TR_16 + 5, 1), 0x83);
    at_level(e, 3);
    RUN(e, "\x0f\x00\xd0");
    expect_fault(e, X86_EXC_GP, 0);
    RUN(e, "\x0f\x00\xd8");
    expect_fault(e, X86_EXC_GP, 0);
    RUN(e, "\x0f\x01\x15\x00\x00\x03\x00"); // lgdt
    expect_fault(e, X86_EXC_GP, 0);
    RUN(e, "\x0f\x01\xf0"); // lmsw ax
    expect_fault(e, X86_EXC_GP, 0);
}

static void test_tables(void **state)
{
    struct env *e = *state;
    e->c->gdtr.base = 0x12345678;
    RUN(e, "\x0f\x01\x05\x00\x00\x03\x00"); // sgdt [0x30000]
    expect_ok(e);
    assert_int_equal(get(e, 0x30000, 2), GDT_LIMIT);
    assert_int_equal(get(e, 0x30002, 4), 0x12345678);
    assert_int_equal(get(e, 0x30006, 2), 0);
    put(e, 0x30000, 2, 0x7f);
    put(e, 0x30002, 4, 0xab001000);
    RUN(e, "\x66\x0f\x01\x15\x00\x00\x03\x00"); // lgdt, 16-bit: 24 bits of base
    expect_ok(e);
    assert_int_equal(e->c->gdtr.base, 0x1000);
    assert_int_equal(e->c->gdtr.limit, 0x7f);
    RUN(e, "\x0f\x01\x1d\x00\x00\x03\x00"); // lidt
    expect_ok(e);
    assert_int_equal(e->c->idtr.base, 0xab001000);
}

static void test_umip(void **state)
{
    static const char *const ops[] = {
        "\x0f\x01\x05\x00\x00\x03\x00", "\x0f\x01\x0d\x00\x00\x03\x00", // sgdt, sidt
        "\x0f\x00\xc0\x90\x90\x90\x90", "\x0f\x00\xc8\x90\x90\x90\x90", // sldt, str
        "\x0f\x01\xe0\x90\x90\x90\x90",                                 // smsw
    };
    struct env *e = *state;
    for (unsigned i = 0; i < ARRAY_LEN(ops); i++) {
        at_level(e, 3);
        e->c->cr4 = 0;
        run_bytes(e, ops[i], 7);
        expect_ok(e);
        at_level(e, 3);
        e->c->cr4 = X86_CR4_UMIP;
        run_bytes(e, ops[i], 7);
        expect_fault(e, X86_EXC_GP, 0);
        at_level(e, 0);
        run_bytes(e, ops[i], 7);
        expect_ok(e);
    }
    e->c->rip = CODE;
    e->c->gpr[X86_RAX] = ~0ull;
    RUN(e, "\x0f\x01\xe0");
    assert_int_equal(e->c->gpr[X86_RAX], e->c->cr0);
    e->c->rip = CODE;
    e->c->gpr[X86_RAX] = ~0ull;
    RUN(e, "\x66\x0f\x00\xc8"); // str ax
    assert_int_equal((u32)e->c->gpr[X86_RAX], 0xffff0000u | TR_MAIN);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, env_protected, env_free)
    const struct CMUnitTest tests[] = {
        T(test_load),         T(test_accessed),       T(test_ldt),         T(test_jmp),
        T(test_call_same),    T(test_call_inner),     T(test_call_gate16), T(test_inner_stack),
        T(test_stack_room),   T(test_far_memory),     T(test_return),      T(test_iret_flags),
        T(test_iret_nmi),     T(test_return_stack16), T(test_look),        T(test_arpl),
        T(test_system_loads), T(test_tables),         T(test_umip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
