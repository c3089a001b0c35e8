// Hardware task switches: what is saved, what is loaded, busy bits, links and NT, and faults before and after the commit point.
#include "xfer_env.h"

static void put_task32(struct env *e, u32 tss)
{
    put(e, tss + 0x1c, 4, 0);
    put(e, tss + 0x20, 4, HANDLER);
    put(e, tss + 0x24, 4, X86_FL_RSVD1 | X86_FL_CF);
    for (unsigned i = 0; i < 8; i++)
        put(e, tss + 0x28 + 4 * i, 4, 0x1000 + i);
    put(e, tss + 0x28 + 4 * X86_RSP, 4, STACK_B);
    static const u16 segs[] = {DATA0, CODE0, DATA0, DATA3, 0, DATA0};
    for (unsigned i = 0; i < 6; i++)
        put(e, tss + 0x48 + 4 * i, 4, segs[i]);
    put(e, tss + 0x60, 4, LDT_SEL);
    put(e, tss + 0x64, 4, 0x680000);
}

static void put_task16(struct env *e, u32 tss)
{
    put(e, tss + 0x0e, 2, 0x1234);
    put(e, tss + 0x10, 2, X86_FL_RSVD1 | X86_FL_ZF);
    for (unsigned i = 0; i < 8; i++)
        put(e, tss + 0x12 + 2 * i, 2, 0x2000 + i);
    static const u16 segs[] = {DATA0, CODE16, DATA16, DATA0};
    for (unsigned i = 0; i < 4; i++)
        put(e, tss + 0x22 + 2 * i, 2, segs[i]);
    put(e, tss + 0x2a, 2, 0);
}

static int setup(void **state)
{
    env_protected(state);
    struct env *e = *state;
    put_task32(e, TSS_B);
    put_task16(e, TSS_16);
    for (unsigned i = 0; i < 8; i++) {
        if (i != X86_RSP)
            e->c->gpr[i] = 0xa0000000u + i;
    }
    return 0;
}

static u8 access_byte(struct env *e, u16 sel)
{
    return (u8)get(e, GDT + sel + 5, 1);
}

static void check_in_b(struct env *e)
{
    struct cpu *c = e->c;
    assert_int_equal(c->seg[X86_TR].sel, TR_B);
    assert_int_equal(c->seg[X86_TR].attr & 0xf, X86_SYS_TSS_BUSY);
    assert_int_equal(c->gpr[X86_RAX], 0x1000);
    assert_int_equal(c->gpr[X86_RDI], 0x1007);
    assert_int_equal(c->rip, HANDLER);
    assert_int_equal(c->seg[X86_DS].sel, DATA3);
    assert_int_equal(c->seg[X86_LDTR].base, LDT);
    assert_true(c->seg[X86_FS].attr & X86_SEG_UNUSABLE);
    assert_true(c->cr0 & X86_CR0_TS);
    assert_int_equal(access_byte(e, TR_B) & 0xf, X86_SYS_TSS_BUSY);
}

static void check_saved_main(struct env *e, u32 eip, u32 flags)
{
    assert_int_equal(get(e, TSS + 0x20, 4), eip);
    assert_int_equal(get(e, TSS + 0x24, 4), flags);
    assert_int_equal(get(e, TSS + 0x28, 4), 0xa0000000);
    assert_int_equal(get(e, TSS + 0x38, 4), STACK0);
    assert_int_equal(get(e, TSS + 0x44, 4), 0xa0000007);
    assert_int_equal(get(e, TSS + 0x4c, 2), CODE0);
    assert_int_equal(get(e, TSS + 0x5c, 2), DATA0);
}

static void test_jmp(void **state)
{
    struct env *e = *state;
    e->c->dr7 = 0x7ff;
    RUN(e, "\xea\x00\x00\x00\x00\x58\x00");
    expect_ok(e);
    check_in_b(e);
    check_saved_main(e, CODE + 7, X86_FL_RSVD1);
    assert_int_equal(access_byte(e, TR_MAIN) & 0xf, X86_SYS_TSS_AVAIL);
    assert_int_equal(e->c->rflags, X86_FL_RSVD1 | X86_FL_CF);
    assert_int_equal(e->c->gpr[X86_RSP], STACK_B);
    assert_int_equal(e->c->dr7, 0x7ff & ~0x155);
}

static void test_call_and_return(void **state)
{
    struct env *e = *state;
    RUN(e, "\x9a\x00\x00\x00\x00\x80\x00"); // through the task gate
    expect_ok(e);
    check_in_b(e);
    check_saved_main(e, CODE + 7, X86_FL_RSVD1);
    assert_int_equal(access_byte(e, TR_MAIN) & 0xf, X86_SYS_TSS_BUSY);
    assert_int_equal(get(e, TSS_B, 2), TR_MAIN);
    assert_int_equal(e->c->rflags, X86_FL_RSVD1 | X86_FL_CF | X86_FL_NT);
    RUN(e, "\xcf");
    expect_ok(e);
    assert_int_equal(e->c->seg[X86_TR].sel, TR_MAIN);
    assert_int_equal(e->c->rip, CODE + 7);
    assert_int_equal(e->c->gpr[X86_RBX], 0xa0000003);
    assert_int_equal(e->c->rflags, X86_FL_RSVD1);
    assert_int_equal(access_byte(e, TR_B) & 0xf, X86_SYS_TSS_AVAIL);
    assert_int_equal(get(e, TSS_B + 0x20, 4), HANDLER + 1);
    assert_int_equal(get(e, TSS_B + 0x24, 4), X86_FL_RSVD1 | X86_FL_CF); // NT cleared in the image
}

static void test_task16(void **state)
{
    struct env *e = *state;
    RUN(e, "\x9a\x00\x00\x00\x00\x60\x00");
    expect_ok(e);
    assert_int_equal(e->c->rip, 0x1234);
    assert_int_equal(e->c->gpr[X86_RCX], 0xffff2001);
    assert_int_equal(e->c->rflags, X86_FL_RSVD1 | X86_FL_ZF | X86_FL_NT);
    assert_int_equal(access_byte(e, TR_16) & 0xf, X86_SYS_TSS16_BUSY);
    assert_int_equal(e->c->seg[X86_CS].sel, CODE16);
    assert_true(e->c->seg[X86_GS].attr & X86_SEG_UNUSABLE);
    RUN(e, "\xcf");
    expect_ok(e);
    assert_int_equal(e->c->rip, CODE + 7);
    assert_int_equal(get(e, TSS_16 + 0x0e, 2), 0x1235);
    assert_int_equal(get(e, TSS_16 + 0x14, 2), 0x2001);
}

static void test_interrupt(void **state)
{
    struct env *e = *state;
    set_idt(e, 13, TR_B, 0, 0x85);
    assert_true(deliver(e, exception(13, 0x4321)));
    check_in_b(e);
    check_saved_main(e, CODE, X86_FL_RSVD1 | X86_FL_RF);
    assert_int_equal(e->c->gpr[X86_RSP], STACK_B - 4);
    assert_int_equal(get(e, STACK_B - 4, 4), 0x4321);
    assert_int_equal(get(e, TSS_B, 2), TR_MAIN);
}

static void test_trap_bit(void **state)
{
    struct env *e = *state;
    put(e, TSS_B + 0x64, 2, 1);
    RUN(e, "\xea\x00\x00\x00\x00\x58\x00");
    assert_int_equal(e->c->event.type, CPU_EVENT_EXCEPTION);
    assert_int_equal(e->c->event.vector, X86_EXC_DB);
    assert_int_equal(e->c->event.dr6, X86_DR6_BT);
    check_in_b(e);
}

static void test_v8086_task(void **state)
{
    struct env *e = *state;
    put(e, TSS_B + 0x24, 4, X86_FL_RSVD1 | X86_FL_VM);
    put(e, TSS_B + 0x20, 4, 0x100);
    RUN(e, "\xea\x00\x00\x00\x00\x58\x00");
    expect_ok(e);
    assert_int_equal(e->c->cpl, 3);
    assert_int_equal(e->c->seg[X86_DS].base, DATA3 << 4);
    assert_int_equal(e->c->seg[X86_CS].limit, 0xffff);
}

// Faults before the commit point leave the old task.
static void test_early_faults(void **state)
{
    struct env *e = *state;
    e->c->rflags |= X86_FL_NT;
    static const struct {
        u16 link;
        unsigned vector;
    } links[] = {
        {TR_B, X86_EXC_TS}, // not busy
        {TR_MAIN | 4, X86_EXC_TS}, {OUTSIDE, X86_EXC_TS}, {CODE0, X86_EXC_TS}, {0, X86_EXC_TS},
    };
    for (unsigned i = 0; i < ARRAY_LEN(links); i++) {
        put(e, TSS, 2, links[i].link);
        RUN(e, "\xcf");
        expect_fault(e, links[i].vector, links[i].link & 0xfffc);
    }
    set_desc(e, TR_NP, TSS_B, 0x67, 0x0b);
    put(e, TSS, 2, TR_NP);
    RUN(e, "\xcf");
    expect_fault(e, X86_EXC_NP, TR_NP);
    e->c->rflags = X86_FL_RSVD1;
    e->c->seg[X86_TR].limit = 0x5e;
    RUN(e, "\xea\x00\x00\x00\x00\x58\x00");
    expect_fault(e, X86_EXC_TS, TR_MAIN);
}

// Faults after it are the new task's.
static void test_late_faults(void **state)
{
    static const struct {
        u8 off;
        u16 sel;
        unsigned vector;
        u16 error;
    } cases[] = {
        {0x60, TR_MAIN, X86_EXC_TS, TR_MAIN},
        {0x60, LDT_SEL | 4, X86_EXC_TS, LDT_SEL | 4},
        {0x4c, 0, X86_EXC_TS, 0},
        {0x4c, DATA0, X86_EXC_TS, DATA0},
        {0x4c, CODE3, X86_EXC_TS, CODE3},
        {0x4c, CODE0_NP, X86_EXC_NP, CODE0_NP},
        {0x50, 0, X86_EXC_TS, 0},
        {0x50, DATA3, X86_EXC_TS, DATA3},
        {0x50, DATA0 | 3, X86_EXC_TS, DATA0},
        {0x50, RODATA0, X86_EXC_TS, RODATA0},
        {0x50, DATA0_NP, X86_EXC_SS, DATA0_NP},
        {0x54, EXEC3, X86_EXC_TS, EXEC3},
        {0x54, DATA0 | 3, X86_EXC_TS, DATA0},
        {0x54, DATA3_NP, X86_EXC_NP, DATA3_NP},
        {0x48, OUTSIDE, X86_EXC_TS, OUTSIDE},
    };
    struct env *e = *state;
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        put_task32(e, TSS_B);
        put(e, TSS_B + cases[i].off, 2, cases[i].sel);
        set_desc(e, TR_B, TSS_B, 0x67, 0xe9);
        set_desc(e, TR_MAIN, TSS, 0x67, 0x8b);
        common_state(e);
        at_level(e, 0);
        RUN(e, "\xea\x00\x00\x00\x00\x58\x00");
        check_event(&e->c->event, cases[i].vector, cases[i].error);
        assert_int_equal(e->c->seg[X86_TR].sel, TR_B);
        assert_int_equal(e->c->rip, HANDLER);
        assert_int_equal(e->c->gpr[X86_RSP], STACK_B);
        assert_int_equal(get(e, TSS + 0x20, 4), CODE + 7);
    }
}

static void test_eip_limit(void **state)
{
    struct env *e = *state;
    put(e, TSS_B + 0x4c, 2, SMALL0);
    RUN(e, "\xea\x00\x00\x00\x00\x58\x00");
    check_event(&e->c->event, X86_EXC_GP, 0);
    assert_int_equal(e->c->seg[X86_CS].sel, SMALL0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, env_free)
    const struct CMUnitTest tests[] = {
        T(test_jmp),        T(test_call_and_return), T(test_task16),      T(test_interrupt), T(test_trap_bit),
        T(test_v8086_task), T(test_early_faults),    T(test_late_faults), T(test_eip_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
