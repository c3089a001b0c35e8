// The debugger's breakpoints, watchpoints and steps: the tables of core/debug.h, and how the interpreter honours them.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/debug.h"
#include "lib/testvm.h"

// Real mode, all segments at 0.
#define CODE 0x1000u
#define STACK 0x3000u
#define DATA 0x4000u
#define HANDLER(n) (0x5000u + (n)*16)

static struct testvm *t;

static int setup(void **state)
{
    (void)state;
    t = testvm_create(testvm_engine(), 1 << 20, NULL);
    struct cpu *c = &t->v->cpu;
    for (unsigned i = 0; i < 6; i++)
        c->seg[i].sel = 0, c->seg[i].base = 0;
    c->rip = CODE;
    c->gpr[X86_RSP] = STACK;
    c->rflags = X86_FL_RSVD1;
    for (unsigned n = 0; n < 256; n++) {
        u32 far = HANDLER(n);
        memcpy(t->ram + n * 4, &far, 4);
        t->ram[HANDLER(n)] = 0xcf; // iret
    }
    memset(t->ram + CODE, 0x90, 0x100);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    testvm_destroy(t);
    return 0;
}

#define CODE_BYTES(...) \
    do { \
        static const u8 bytes[] = {__VA_ARGS__}; \
        memcpy(t->ram + CODE, bytes, sizeof(bytes)); \
    } while (0)

static void expect_debug(enum debug_cause cause, u64 rip)
{
    struct vm_exit e = testvm_run(t, 1000);
    assert_int_equal(e.reason, VM_EXIT_DEBUG);
    assert_int_equal(e.code, cause);
    assert_int_equal(t->v->cpu.rip, rip);
}

static void expect_watch(enum debug_cause cause, gva a, u64 rip)
{
    struct vm_exit e = testvm_run(t, 1000);
    assert_int_equal(e.reason, VM_EXIT_DEBUG);
    assert_int_equal(e.code, cause);
    assert_int_equal(e.addr, a);
    assert_int_equal(t->v->cpu.rip, rip);
}

// --- tables -----------------------------------------------------------------------------------------------------------------

static void test_break_table(void **state)
{
    (void)state;
    static struct debug_points d;
    debug_clear(&d);
    for (u64 i = 0; i < DEBUG_MAX_BREAKS; i++)
        assert_int_equal(debug_add_break(&d, i << 8, DEBUG_BREAK_SOFT), 0);
    assert_int_equal(debug_add_break(&d, 7, DEBUG_BREAK_SOFT), -ENOSPC);
    assert_int_equal(debug_add_break(&d, 0x500, DEBUG_BREAK_HARD), 0); // both kinds at one address
    assert_int_equal(debug_break_at(&d, 0x500)->kinds, DEBUG_BREAK_SOFT | DEBUG_BREAK_HARD);
    assert_int_equal(debug_remove_break(&d, 0x500, DEBUG_BREAK_SOFT), 0);
    assert_int_equal(debug_remove_break(&d, 0x500, DEBUG_BREAK_SOFT), -ENOENT);
    assert_non_null(debug_break_at(&d, 0x500));
    assert_int_equal(debug_remove_break(&d, 0x500, DEBUG_BREAK_HARD), 0);
    assert_null(debug_break_at(&d, 0x500));
    for (u64 i = 0; i < DEBUG_MAX_BREAKS; i++)
        assert_int_equal(debug_break_at(&d, i << 8) != NULL, i != 5);
    assert_null(debug_break_at(&d, 0x501));
    debug_clear(&d);
    assert_null(debug_break_at(&d, 0x600));
}

static void test_watch_table(void **state)
{
    (void)state;
    static struct debug_points d;
    debug_clear(&d);
    assert_int_equal(debug_add_watch(&d, 0x100, 0, DEBUG_WATCH_READ), -EINVAL);
    assert_int_equal(debug_add_watch(&d, ~0ull, 2, DEBUG_WATCH_READ), -EINVAL);
    assert_int_equal(debug_add_watch(&d, ~0ull, 1, DEBUG_WATCH_READ), 0);
    assert_int_equal(debug_add_watch(&d, 0x100, 4, DEBUG_WATCH_WRITE), 0);
    assert_int_equal(debug_add_watch(&d, 0x100, 4, DEBUG_WATCH_WRITE), 0);
    assert_int_equal(d.watch_count, 2);
    assert_null(debug_watch_hit(&d, 0x100, 4, DEBUG_WATCH_READ));
    assert_null(debug_watch_hit(&d, 0xfc, 4, DEBUG_WATCH_WRITE));
    assert_null(debug_watch_hit(&d, 0x104, 8, DEBUG_WATCH_WRITE));
    assert_non_null(debug_watch_hit(&d, 0xfd, 4, DEBUG_WATCH_WRITE));
    assert_non_null(debug_watch_hit(&d, 0x103, 1, DEBUG_WATCH_WRITE));
    assert_non_null(debug_watch_hit(&d, 0x80, 0x100, DEBUG_WATCH_WRITE));
    assert_non_null(debug_watch_hit(&d, ~0ull - 3, 8, DEBUG_WATCH_READ)); // an access that wraps
    assert_int_equal(debug_remove_watch(&d, 0x100, 2, DEBUG_WATCH_WRITE), -ENOENT);
    assert_int_equal(debug_remove_watch(&d, 0x100, 4, DEBUG_WATCH_WRITE), 0);
    while (!debug_add_watch(&d, d.watch_count, 1, DEBUG_WATCH_READ))
        ;
    assert_int_equal(d.watch_count, DEBUG_MAX_WATCHES);
}

// --- breakpoints ------------------------------------------------------------------------------------------------------------

static void test_break(void **state)
{
    (void)state;
    debug_add_break(&t->machine->debug, CODE + 2, DEBUG_BREAK_SOFT);
    expect_debug(DEBUG_BREAK, CODE + 2);
    expect_debug(DEBUG_BREAK, CODE + 2); // it stays until a step
    assert_int_equal(t->v->insns, 2);
    t->v->debug_step = DEBUG_STEP_QUIET;
    expect_debug(DEBUG_STEP, CODE + 3);
    t->v->debug_step = DEBUG_STEP_NONE;
    assert_int_equal(testvm_run(t, 10).reason, VM_EXIT_BUDGET);
    assert_int_equal(t->v->cpu.rip, CODE + 13);
    assert_int_equal(t->ram[CODE + 2], 0x90);
}

// Addresses are linear.
static void test_break_segment(void **state)
{
    (void)state;
    t->v->cpu.seg[X86_CS].base = 0x800;
    t->v->cpu.rip = CODE - 0x800;
    debug_add_break(&t->machine->debug, CODE + 3, DEBUG_BREAK_HARD);
    struct vm_exit e = testvm_run(t, 100);
    assert_int_equal(e.addr, CODE + 3);
    assert_int_equal(t->v->cpu.rip, CODE + 3 - 0x800);
}

// The guest's own breakpoint at the same place still works, and RF, which is for the guest's, does not hide the debugger's.
static void test_break_and_guest(void **state)
{
    (void)state;
    struct cpu *c = &t->v->cpu;
    c->dr[0] = CODE + 1;
    c->dr7 = X86_DR7_L(0) | 0x400;
    c->rflags |= X86_FL_RF;
    c->rip = CODE + 1;
    debug_add_break(&t->machine->debug, CODE + 1, DEBUG_BREAK_SOFT);
    expect_debug(DEBUG_BREAK, CODE + 1);
    c->rflags &= ~(u64)X86_FL_RF;
    expect_debug(DEBUG_BREAK, CODE + 1);
    t->v->debug_step = DEBUG_STEP_QUIET;
    expect_debug(DEBUG_STEP, HANDLER(X86_EXC_DB));
    assert_int_equal(c->dr6 & 0xf, 1);
    t->v->debug_step = DEBUG_STEP_NONE;
    debug_clear(&t->machine->debug);
    assert_int_equal(testvm_run(t, 1).reason, VM_EXIT_BUDGET); // IRET
    assert_int_equal(c->rip, CODE + 1);
}

// --- steps ------------------------------------------------------------------------------------------------------------------

static void test_step_fault(void **state)
{
    (void)state;
    CODE_BYTES(0x0f, 0x0b, 0xcd, 0x21); // ud2; int 0x21
    t->v->debug_step = DEBUG_STEP_QUIET;
    expect_debug(DEBUG_STEP, HANDLER(6));
    t->v->cpu.rip = CODE + 2;
    expect_debug(DEBUG_STEP, HANDLER(0x21));
    assert_int_equal(t->v->cpu.rflags & X86_FL_TF, 0);
}

static void test_step_trap_flag(void **state)
{
    (void)state;
    t->v->cpu.rflags |= X86_FL_TF;
    t->v->debug_step = DEBUG_STEP_QUIET;
    expect_debug(DEBUG_STEP, CODE + 1);
    expect_debug(DEBUG_STEP, HANDLER(1)); // the guest's trap comes all the same
    assert_true(t->v->cpu.dr6 & X86_DR6_BS);
}

static void test_step_rep(void **state)
{
    (void)state;
    CODE_BYTES(0xf3, 0xaa); // rep stosb
    t->v->cpu.gpr[X86_RDI] = DATA;
    t->v->cpu.gpr[X86_RCX] = 3;
    t->v->debug_step = DEBUG_STEP_QUIET;
    expect_debug(DEBUG_STEP, CODE);
    expect_debug(DEBUG_STEP, CODE);
    expect_debug(DEBUG_STEP, CODE + 2);
    assert_int_equal(t->v->cpu.gpr[X86_RCX], 0);
}

static int ack(void *intc)
{
    (void)intc;
    vcpu_request_clear(t->v, VCPU_REQ_INTR);
    return 0x40;
}

static void test_step_interrupt(void **state)
{
    (void)state;
    CODE_BYTES(0x90, 0x90, 0xf4); // nop; nop; hlt
    t->v->intc.ack = ack;
    t->v->cpu.rflags |= X86_FL_IF;
    vcpu_request(t->v, VCPU_REQ_INTR | VCPU_REQ_NMI);
    t->v->debug_step = DEBUG_STEP_QUIET;
    expect_debug(DEBUG_STEP, CODE + 1);
    expect_debug(DEBUG_STEP, CODE + 2);
    expect_debug(DEBUG_STEP, CODE + 3);
    assert_int_equal(t->v->cpu.activity, CPU_HALTED);
    expect_debug(DEBUG_STEP, HANDLER(2)); // a halted processor is woken
    t->v->debug_step = DEBUG_STEP_ANY;
    t->v->cpu.rflags |= X86_FL_IF;
    expect_debug(DEBUG_STEP, HANDLER(0x40));
}

// A step of a halted processor goes on until something wakes it.
static void test_step_halted(void **state)
{
    (void)state;
    CODE_BYTES(0xf4);
    t->v->cpu.rflags |= X86_FL_IF;
    t->v->intc.ack = ack;
    t->v->debug_step = DEBUG_STEP_QUIET;
    expect_debug(DEBUG_STEP, CODE + 1);
    assert_int_equal(testvm_run(t, 10).reason, VM_EXIT_HALT);
    vcpu_request(t->v, VCPU_REQ_INTR);
    expect_debug(DEBUG_STEP, HANDLER(0x40));
}

// --- watchpoints ------------------------------------------------------------------------------------------------------------

static void test_watch_kinds(void **state)
{
    (void)state;
    CODE_BYTES(0xa0, 0x00, 0x40, 0xa2, 0x01, 0x40, 0x66, 0xff, 0x06, 0xfe,
               0x3f); // mov al,[4000]; mov [4001],al; inc dword [3ffe]
    debug_add_watch(&t->machine->debug, DATA, 2, DEBUG_WATCH_WRITE);
    expect_watch(DEBUG_WRITE, DATA + 1, CODE + 6);
    expect_watch(DEBUG_WRITE, DATA, CODE + 11);
    assert_int_equal(testvm_run(t, 5).reason, VM_EXIT_BUDGET);
    debug_clear(&t->machine->debug);
    debug_add_watch(&t->machine->debug, DATA, 1, DEBUG_WATCH_READ);
    t->v->cpu.rip = CODE;
    expect_watch(DEBUG_READ, DATA, CODE + 3);
    debug_clear(&t->machine->debug);
    debug_add_watch(&t->machine->debug, DATA, 2, DEBUG_WATCH_READ | DEBUG_WATCH_WRITE);
    t->v->cpu.rip = CODE;
    expect_watch(DEBUG_READ, DATA, CODE + 3);
    expect_watch(DEBUG_WRITE, DATA + 1, CODE + 6);
}

static void test_watch_rep(void **state)
{
    (void)state;
    CODE_BYTES(0xf3, 0xa4); // rep movsb
    t->v->cpu.gpr[X86_RSI] = DATA + 0x100;
    t->v->cpu.gpr[X86_RDI] = DATA;
    t->v->cpu.gpr[X86_RCX] = 8;
    debug_add_watch(&t->machine->debug, DATA + 4, 1, DEBUG_WATCH_WRITE);
    expect_watch(DEBUG_WRITE, DATA + 4, CODE);
    assert_int_equal(t->v->cpu.gpr[X86_RCX], 3);
    assert_int_equal(testvm_run(t, 5).reason, VM_EXIT_BUDGET);
    assert_int_equal(t->v->cpu.gpr[X86_RCX], 0);
}

// Pushes of instructions and of deliveries count.
static void test_watch_stack(void **state)
{
    (void)state;
    CODE_BYTES(0x50, 0xcd, 0x21); // push ax; int 0x21
    debug_add_watch(&t->machine->debug, STACK - 2, 2, DEBUG_WATCH_WRITE);
    expect_watch(DEBUG_WRITE, STACK - 2, CODE + 1);
    debug_clear(&t->machine->debug);
    debug_add_watch(&t->machine->debug, STACK - 5, 1, DEBUG_WATCH_WRITE);
    expect_watch(DEBUG_WRITE, STACK - 5, HANDLER(0x21));
}

// The load of a MOVS whose store faults has not happened as far as the debugger can tell; the fault is delivered.
static void test_watch_fault(void **state)
{
    (void)state;
    CODE_BYTES(0xa5); // movsw
    t->v->cpu.gpr[X86_RSI] = DATA;
    t->v->cpu.gpr[X86_RDI] = 0xffff;
    debug_add_watch(&t->machine->debug, DATA, 1, DEBUG_WATCH_READ);
    debug_add_break(&t->machine->debug, HANDLER(13), DEBUG_BREAK_SOFT);
    expect_debug(DEBUG_BREAK, HANDLER(13));
}

// The guest's watchpoint and the debugger's on the same access.
static void test_watch_and_guest(void **state)
{
    (void)state;
    CODE_BYTES(0xa2, 0x00, 0x40); // mov [4000],al
    t->v->cpu.dr[1] = DATA;
    t->v->cpu.dr7 = X86_DR7_L(1) | 0x400 | 1u << 20;
    debug_add_watch(&t->machine->debug, DATA, 1, DEBUG_WATCH_WRITE);
    expect_watch(DEBUG_WRITE, DATA, CODE + 3);
    debug_add_break(&t->machine->debug, HANDLER(1), DEBUG_BREAK_SOFT);
    expect_debug(DEBUG_BREAK, HANDLER(1));
    assert_int_equal(t->v->cpu.dr6 & 0xf, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_break_table),
        cmocka_unit_test(test_watch_table),
        cmocka_unit_test_setup_teardown(test_break, setup, teardown),
        cmocka_unit_test_setup_teardown(test_break_segment, setup, teardown),
        cmocka_unit_test_setup_teardown(test_break_and_guest, setup, teardown),
        cmocka_unit_test_setup_teardown(test_step_fault, setup, teardown),
        cmocka_unit_test_setup_teardown(test_step_trap_flag, setup, teardown),
        cmocka_unit_test_setup_teardown(test_step_rep, setup, teardown),
        cmocka_unit_test_setup_teardown(test_step_interrupt, setup, teardown),
        cmocka_unit_test_setup_teardown(test_step_halted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_watch_kinds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_watch_rep, setup, teardown),
        cmocka_unit_test_setup_teardown(test_watch_stack, setup, teardown),
        cmocka_unit_test_setup_teardown(test_watch_fault, setup, teardown),
        cmocka_unit_test_setup_teardown(test_watch_and_guest, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
