// Virtual time from instructions, on every engine: what happens at which instruction is exact, whatever the engine.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/msr.h"
#include "lib/testvm.h"

#define CODE 0x1000u
#define STACK 0x8000u
#define VECTOR 0x20u
#define HANDLER 0x2000u
#define PORT 0x70u

static const struct engine_ops *engine;
static struct testvm *t;
static struct vcpu *v;
static struct clock *k;
static struct clock_timer timer;
static u64 fired_at, arm_after;
static unsigned fires;

static int ack(void *intc)
{
    (void)intc;
    vcpu_request_clear(v, VCPU_REQ_INTR);
    return VECTOR;
}

static void fire(void *dev, u64 now_ns)
{
    (void)dev;
    assert_int_equal(now_ns, clock_now(k));
    fired_at = v->insns;
    fires++;
    vcpu_request(v, VCPU_REQ_INTR);
}

// A device whose port sets the timer, and tells the time.
static void port_write(void *dev, u64 off, unsigned size, u64 val)
{
    (void)dev, (void)off, (void)size, (void)val;
    clock_arm(k, &timer, clock_now(k) + arm_after);
}

static u64 port_read(void *dev, u64 off, unsigned size)
{
    (void)dev, (void)off, (void)size;
    return clock_now(k);
}

static const struct dev_ops port_ops = {.name = "port", .read = port_read, .write = port_write};

// Real mode at CODE, interrupts on; the handler of VECTOR halts. One instruction, one nanosecond.
static void begin(const void *code, size_t len)
{
    struct cpu *c = &v->cpu;

    memset(t->ram, 0x90, t->ram_size); // NOP
    memcpy(t->ram + CODE, code, len);
    memcpy(t->ram + VECTOR * 4, "\x00\x20\x00\x00", 4);
    t->ram[HANDLER] = 0xf4; // HLT
    v->engine->invalidate(v, 0, t->ram_size);
    cpu_reset(c, true);
    c->seg[X86_CS].sel = 0;
    c->seg[X86_CS].base = 0;
    c->rip = CODE;
    c->gpr[X86_RSP] = STACK;
    c->rflags |= X86_FL_IF;
    mmu_state_changed(v);
    v->engine->push_state(v);
    v->insns = 0;
    vcpu_request_clear(v, VCPU_REQ_INTR | VCPU_REQ_TIMER);
    clock_use_icount(k, 1, 1, 0);
    fires = 0;
}

// Until the processor halts, in pieces of `budget`.
static void run_to_halt(u64 budget)
{
    for (unsigned i = 0; i < 100000; i++) {
        struct vm_exit e = machine_run(v, budget);
        if (e.reason == VM_EXIT_HALT) {
            v->engine->pull_state(v);
            return;
        }
        assert_int_equal(e.reason, VM_EXIT_BUDGET);
    }
    fail_msg("%s does not halt", engine->name);
}

static unsigned pushed_ip(void)
{
    return (unsigned)mem_load(&t->machine->mem, STACK - 6, 2);
}

// run() retires what its budget says, no more and no less.
static void test_budget(void **state)
{
    (void)state;
    // 1: inc ax; add [bx], ax; push ax; pop cx; jmp 1b
    static const u8 loop[] = {0x40, 0x01, 0x07, 0x50, 0x59, 0xeb, 0xf9};
    for (u64 n = 1; n < 200; n++) {
        begin(loop, sizeof(loop));
        u64 want = 0;
        for (unsigned i = 0; i < 5; i++) {
            want += n;
            struct vm_exit e = v->engine->run(v, n);
            assert_int_equal(e.reason, VM_EXIT_BUDGET);
            assert_int_equal(v->insns, want);
        }
        v->engine->pull_state(v);
        assert_int_equal(v->cpu.gpr[X86_RAX] & 0xffff, (want + 4) / 5);
    }
}

// An instruction that faults uses budget, and its delivery waits for the next run().
static void test_budget_fault(void **state)
{
    (void)state;
    static const u8 code[] = {0x90, 0x0f, 0x0b}; // nop; ud2
    begin(code, sizeof(code));
    assert_int_equal(v->engine->run(v, 2).reason, VM_EXIT_BUDGET);
    v->engine->pull_state(v);
    assert_int_equal(v->insns, 1);
    assert_int_equal(v->cpu.event.type, CPU_EVENT_EXCEPTION);
    assert_int_equal(v->cpu.event.vector, X86_EXC_UD);
    assert_int_equal(v->cpu.rip, CODE + 1);
}

// A timer fires, and its interrupt is taken, at the boundary where virtual time reaches the deadline.
static void test_deadline(void **state)
{
    (void)state;
    for (u64 deadline = 1; deadline < 100; deadline++)
        for (unsigned budget = 1; budget < 1000; budget = budget * 7 + 1) {
            begin("", 0);
            clock_arm(k, &timer, deadline);
            run_to_halt(budget);
            assert_int_equal(fires, 1);
            assert_int_equal(fired_at, deadline);
            assert_int_equal(pushed_ip(), CODE + deadline);
            assert_int_equal(v->insns, deadline + 1);
        }
}

// A device that sets a timer while the guest runs: whatever budget the engine was given before.
static void test_armed_on_the_way(void **state)
{
    (void)state;
    static const u8 code[] = {0x90, 0x90, 0xe6, PORT}; // nop; nop; out PORT, al
    for (arm_after = 0; arm_after < 20; arm_after++) {
        u64 at = arm_after ? 2 + arm_after : 3; // at the end of the OUT at the earliest
        begin(code, sizeof(code));
        clock_arm(k, &timer, 5000);
        run_to_halt(1000);
        assert_int_equal(fires, 1);
        assert_int_equal(fired_at, at);
        assert_int_equal(pushed_ip(), CODE + 2 + 2 * (at >= 3) + (at - 3));
    }
}

// Somebody who asks for the time in the middle of a run gets that of the very instruction.
static void test_time_inside(void **state)
{
    (void)state;
    // nop; nop; rdtsc; mov cx, ax; nop; in al, PORT; mov bl, al; rdtsc; hlt
    static const u8 code[] = {0x90, 0x90, 0x0f, 0x31, 0x89, 0xc1, 0x90, 0xe4, PORT, 0x88, 0xc3, 0x0f, 0x31, 0xf4};
    begin(code, sizeof(code));
    v->cpu.msr.tsc_offset = 100;
    v->engine->push_state(v);
    run_to_halt(1000);
    assert_int_equal(v->cpu.gpr[X86_RCX] & 0xffff, 102);
    assert_int_equal(v->cpu.gpr[X86_RBX] & 0xff, 5);
    assert_int_equal(v->cpu.gpr[X86_RAX] & 0xffff, 107);
}

// A repeated instruction is one, however long, and no timer comes due in it.
static void test_repeated(void **state)
{
    (void)state;
    // cld; mov cx, 3000h; mov di, 4000h; rep stosb
    static const u8 code[] = {0xfc, 0xb9, 0x00, 0x30, 0xbf, 0x00, 0x40, 0xf3, 0xaa};
    for (u64 deadline = 1; deadline < 6; deadline++) {
        static const u8 ip[] = {0, 1, 4, 7, 9, 10};
        begin(code, sizeof(code));
        clock_arm(k, &timer, deadline);
        run_to_halt(1000);
        assert_int_equal(fired_at, deadline);
        assert_int_equal(pushed_ip(), CODE + ip[deadline]);
    }
    begin(code, sizeof(code));
    for (u64 n = 1; n < 6; n++) {
        assert_int_equal(v->engine->run(v, 1).reason, VM_EXIT_BUDGET);
        assert_int_equal(v->insns, n);
    }
}

// A halted processor does not count; its idle time is put forward.
static void test_idle(void **state)
{
    (void)state;
    static const u8 code[] = {0x90, 0xf4}; // nop; hlt
    begin(code, sizeof(code));
    clock_arm(k, &timer, 70);
    run_to_halt(1000);
    assert_int_equal(fires, 0);
    assert_int_equal(clock_now(k), 2);
    clock_skip(k, clock_idle_ns(k));
    run_to_halt(1000);
    assert_int_equal(fires, 1);
    assert_int_equal(pushed_ip(), CODE + 2);
    assert_int_equal(clock_now(k), 71);
}

// Random numbers follow from the place in the run.
static void test_random(void **state)
{
    u64 a, b, c;

    (void)state;
    begin("", 0);
    assert_true(vcpu_random(v, false, &a));
    assert_true(vcpu_random(v, true, &b));
    assert_true(a != b);
    v->insns = 1;
    assert_true(vcpu_random(v, false, &c));
    assert_true(a != c && b != c);
    v->insns = 0;
    assert_true(vcpu_random(v, false, &c));
    assert_true(a == c);
}

// The same run has the same end, and its fingerprint tells a different one.
static void test_hash(void **state)
{
    (void)state;
    static const u8 loop[] = {0x40, 0x01, 0x07, 0x50, 0x59, 0xeb, 0xf9};
    u64 hash[3];
    for (unsigned i = 0; i < 3; i++) {
        begin(loop, sizeof(loop));
        memset(t->ram + 0x9000, i == 2, 1);
        while (v->insns < 1000)
            v->engine->run(v, i ? 1000 - v->insns : 4);
        v->engine->pull_state(v);
        hash[i] = machine_hash(t->machine);
    }
    assert_true(hash[0] == hash[1]);
    assert_true(hash[0] != hash[2]);
}

static int setup(void **state)
{
    (void)state;
    t = testvm_create(engine->name, 1 << 20, NULL);
    v = t->v;
    k = &t->machine->clock;
    v->intc.ack = ack;
    timer = (struct clock_timer){.fire = fire};
    clock_add_timer(k, &timer);
    return bus_add(&t->machine->bus, PORT, 1, &port_ops, NULL);
}

static int teardown(void **state)
{
    (void)state;
    testvm_destroy(t);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budget),           cmocka_unit_test(test_budget_fault),
        cmocka_unit_test(test_random),           cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_armed_on_the_way), cmocka_unit_test(test_hash),
        cmocka_unit_test(test_repeated),         cmocka_unit_test(test_idle),
        cmocka_unit_test(test_time_inside),
    };
    int failed = 0;

    for (unsigned n = 0; (engine = engine_at(n)); n++) {
        const char *why;
        if (!engine->probe || !engine->probe(&why))
            failed += cmocka_run_group_tests_name(engine->name, tests, setup, teardown);
    }
    return failed;
}
