// Interrupts between the processors of a board: destinations, shorthands and delivery modes of the local APICs, messages of the
// I/O APIC and of MSI, and starting processors.
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "board/pc.h"
#include "core/fake_host.h"
#include "core/msr.h"
#include "engine/engines.h"

#define CPUS 6

#define LAPIC_ID 0x20
#define LAPIC_EOI 0xb0
#define LAPIC_LDR 0xd0
#define LAPIC_DFR 0xe0
#define LAPIC_SVR 0xf0
#define LAPIC_ICR 0x300
#define LAPIC_ICR_HIGH 0x310

static struct fake_host host;
static struct cpu_model model;
static struct pc *pc;

static int set_up(void **state)
{
    u64 features[(ISA_FEAT_COUNT + 63) / 64];
    char text[256];
    struct error err;

    (void)state;
    fake_host_init(&host);
    memset(features, 0xff, sizeof(features));
    assert_null(cpu_model_parse("max", features, &model, text, sizeof(text)));
    struct pc_options o = {.ram = 16 << 20, .cpus = CPUS, .engine = engine_find("interp"), .model = &model};
    assert_int_equal(pc_create(&host.host, &o, &pc, &err), 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    pc_destroy(pc);
    return 0;
}

static void wr(unsigned cpu, unsigned reg, u32 val)
{
    mem_cpu_store(&pc->m.mem, cpu, LAPIC_BASE + reg, 4, val);
}

static u32 rd(unsigned cpu, unsigned reg)
{
    return (u32)mem_cpu_load(&pc->m.mem, cpu, LAPIC_BASE + reg, 4);
}

static void enable_all(void)
{
    for (unsigned i = 0; i < CPUS; i++)
        wr(i, LAPIC_SVR, 0x1ff);
}

static void send(unsigned cpu, u32 high, u32 low)
{
    wr(cpu, LAPIC_ICR_HIGH, high << 24);
    wr(cpu, LAPIC_ICR, low);
}

// Which processors have an interrupt; takes it from them, and checks its vector.
static unsigned who(u8 vector)
{
    unsigned mask = 0;

    for (unsigned i = 0; i < CPUS; i++) {
        struct vcpu *v = pc->m.vcpu[i];
        if (!(atomic_load(&v->request) & VCPU_REQ_INTR))
            continue;
        mask |= 1u << i;
        assert_int_equal(v->intc.ack(v->intc.intc), vector);
        assert_false(atomic_load(&v->request) & VCPU_REQ_INTR);
        wr(i, LAPIC_EOI, 0);
    }
    return mask;
}

// Which processors have one of these requests; takes them back.
static unsigned asked(u32 request)
{
    unsigned mask = 0;

    for (unsigned i = 0; i < CPUS; i++) {
        if (atomic_load(&pc->m.vcpu[i]->request) & request)
            mask |= 1u << i;
        vcpu_request_clear(pc->m.vcpu[i], request);
    }
    return mask;
}

static void identities(void **state)
{
    (void)state;
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(rd(i, LAPIC_ID), i << 24);
}

static void physical(void **state)
{
    (void)state;
    enable_all();
    send(0, 3, 0x4050);
    assert_int_equal(who(0x50), 1 << 3);
    send(5, 5, 0x4051);
    assert_int_equal(who(0x51), 1 << 5);
    send(1, 0xff, 0x4052);
    assert_int_equal(who(0x52), 0x3f);
    send(1, 77, 0x4053); // nobody
    assert_int_equal(who(0x53), 0);
    wr(4, LAPIC_SVR, 0xff); // disabled by software
    send(1, 0xff, 0x4054);
    assert_int_equal(who(0x54), 0x2f);
}

static void shorthands(void **state)
{
    (void)state;
    enable_all();
    send(2, 0, 0x44060);
    assert_int_equal(who(0x60), 1 << 2);
    send(2, 0, 0x84061);
    assert_int_equal(who(0x61), 0x3f);
    send(2, 0, 0xc4062);
    assert_int_equal(who(0x62), 0x3b);
    send(2, 0, 0xc4400); // NMI
    assert_int_equal(asked(VCPU_REQ_NMI), 0x3b);
    send(2, 1, 0x4400);
    send(2, 1, 0x4400); // two before the first is taken
    assert_int_equal(asked(VCPU_REQ_NMI2), 1 << 1);
    assert_int_equal(asked(VCPU_REQ_NMI), 1 << 1);
}

static void logical(void **state)
{
    (void)state;
    enable_all();
    for (unsigned i = 0; i < CPUS; i++)
        wr(i, LAPIC_LDR, 1u << (24 + i));
    send(0, 0x15, 0x4870);
    assert_int_equal(who(0x70), 0x15);
    for (unsigned i = 0; i < CPUS; i++) { // clusters of two
        wr(i, LAPIC_DFR, 0x0fffffff);
        wr(i, LAPIC_LDR, (i / 2) << 28 | 1u << (24 + i % 2));
    }
    send(0, 0x13, 0x4871);
    assert_int_equal(who(0x71), 0x0c);
    send(0, 0x22, 0x4872);
    assert_int_equal(who(0x72), 0x20);
    send(0, 0xff, 0x4873);
    assert_int_equal(who(0x73), 0x3f);
}

// Lowest priority: one of those addressed, each in its turn.
static void lowest_priority(void **state)
{
    unsigned seen = 0;

    (void)state;
    enable_all();
    for (unsigned i = 0; i < CPUS; i++)
        wr(i, LAPIC_LDR, 1u << (24 + i));
    for (unsigned i = 0; i < 12; i++) {
        send(0, 0x2c, 0x4980);
        unsigned one = who(0x80);
        assert_int_equal(__builtin_popcount(one), 1);
        seen |= one;
    }
    assert_int_equal(seen, 0x2c);
}

static void x2apic(void **state)
{
    (void)state;
    for (unsigned i = 0; i < CPUS; i++) {
        struct vcpu *v = pc->m.vcpu[i];
        assert_true(v->intc.msr_write(v->intc.intc, 0x1b, 0xfee00c00 | (i ? 0 : 0x100)));
        assert_true(v->intc.msr_write(v->intc.intc, 0x80f, 0x1ff));
    }
    struct vcpu *v = pc->m.vcpu[1];
    assert_true(v->intc.msr_write(v->intc.intc, 0x830, 4ull << 32 | 0x4090));
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(pc->m.vcpu[i]->intc.ack(pc->m.vcpu[i]->intc.intc), i == 4 ? 0x90 : -1);
    pc->m.vcpu[4]->intc.msr_write(pc->m.vcpu[4]->intc.intc, 0x80b, 0);
    assert_true(v->intc.msr_write(v->intc.intc, 0x830, 0x0000002aull << 32 | 0x4891)); // cluster 0
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(pc->m.vcpu[i]->intc.ack(pc->m.vcpu[i]->intc.intc), i & 1 ? 0x91 : -1);
    for (unsigned i = 1; i < CPUS; i += 2)
        pc->m.vcpu[i]->intc.msr_write(pc->m.vcpu[i]->intc.intc, 0x80b, 0);
    assert_true(v->intc.msr_write(v->intc.intc, 0x83f, 0x92));
    assert_int_equal(v->intc.ack(v->intc.intc), 0x92);
    v->intc.msr_write(v->intc.intc, 0x80b, 0);
    // What comes from outside has destinations of 8 bits; all ones are everybody here too.
    pc_msi(pc, 0xfeeff000, 0x93);
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(pc->m.vcpu[i]->intc.ack(pc->m.vcpu[i]->intc.intc), 0x93);
}

static void starting(void **state)
{
    (void)state;
    assert_int_equal(pc->m.vcpu[0]->cpu.activity, CPU_RUNNING);
    for (unsigned i = 1; i < CPUS; i++)
        assert_int_equal(pc->m.vcpu[i]->cpu.activity, CPU_WAIT_SIPI);
    wr(0, LAPIC_SVR, 0x1ff);
    send(0, 0, 0xc4500); // INIT, all but self; software-disabled APICs take it
    assert_int_equal(asked(VCPU_REQ_INIT), 0x3e);
    send(0, 0, 0xc8500); // level de-assert: nothing
    assert_int_equal(asked(VCPU_REQ_INIT), 0);
    send(0, 3, 0x4608);
    assert_int_equal(asked(VCPU_REQ_SIPI), 1 << 3);
    assert_int_equal(pc->m.vcpu[3]->sipi_vector, 8);
    // A processor that waits to be started waits also when it is sent something else.
    pc->m.vcpu[0]->engine->run(pc->m.vcpu[5], 10);
    send(0, 5, 0x4400);
    assert_int_equal(pc->m.vcpu[0]->engine->run(pc->m.vcpu[5], 10).reason, VM_EXIT_HALT);
    // INIT and SIPI through the engine: real mode at the vector's page.
    mem_store(&pc->m.mem, 0x8000, 8, 0x9090909090909090);
    send(0, 2, 0x4500);
    send(0, 2, 0x4608);
    struct vcpu *v = pc->m.vcpu[2];
    v->engine->run(v, 3);
    assert_int_equal(v->cpu.activity, CPU_RUNNING);
    assert_int_equal(v->cpu.seg[X86_CS].sel, 0x800);
    assert_int_equal(v->cpu.seg[X86_CS].base, 0x8000);
    assert_in_range(v->cpu.rip, 1, 3);
    send(0, 2, 0x4609); // it runs: not heard
    v->engine->run(v, 1);
    assert_int_equal(v->cpu.seg[X86_CS].sel, 0x800);
}

static void io_apic(void **state)
{
    (void)state;
    enable_all();
    bus_out(&pc->m.bus, 0x21, 1, 0xff); // not through the 8259s
    bus_out(&pc->m.bus, 0xa1, 1, 0xff);
    mem_store(&pc->m.mem, IOAPIC_BASE, 4, 0x10 + 2 * 14 + 1);
    mem_store(&pc->m.mem, IOAPIC_BASE + 0x10, 4, 4u << 24);
    mem_store(&pc->m.mem, IOAPIC_BASE, 4, 0x10 + 2 * 14);
    mem_store(&pc->m.mem, IOAPIC_BASE + 0x10, 4, 0x80a0); // level
    struct irq_line line = pc_isa_irq(pc, 14);
    irq_set(line, true);
    assert_int_equal(who(0xa0), 1 << 4); // the EOI in who() brings it again
    irq_set(line, false);
    assert_int_equal(who(0xa0), 1 << 4);
    assert_int_equal(who(0xa0), 0);
}

static void msi(void **state)
{
    (void)state;
    enable_all();
    for (unsigned i = 0; i < CPUS; i++)
        wr(i, LAPIC_LDR, 1u << (24 + i));
    pc_msi(pc, 0xfee03000, 0x41);
    assert_int_equal(who(0x41), 1 << 3);
    pc_msi(pc, 0xfee0600c, 0x42); // logical
    assert_int_equal(who(0x42), 0x06);
    pc_msi(pc, 0xfee06004, 0x143); // lowest priority
    assert_int_equal(__builtin_popcount(who(0x43)), 1);
    pc_msi(pc, 0xfeeff000, 0x44);
    assert_int_equal(who(0x44), 0x3f);
    pc_msi(pc, 0xfed03000, 0x45); // not an interrupt
    assert_int_equal(who(0x45), 0);
    pc_msi(pc, 0xfee02000, 0x400); // NMI
    assert_int_equal(asked(VCPU_REQ_NMI), 1 << 2);
}

static bool set_base(unsigned cpu, u64 base)
{
    return msr_write(pc->m.vcpu[cpu], X86_MSR_APIC_BASE, base);
}

// One processor's APIC in another place, over RAM, with paging: it alone sees it there and no more at the usual place.
static void relocation(void **state)
{
    struct vcpu *v = pc->m.vcpu[2], *other = pc->m.vcpu[3];
    struct mem *m = &pc->m.mem;
    struct mmu_fault fault;
    u64 val;

    (void)state;
    mem_store(m, 0x300020, 4, 0x11223344);
    assert_true(mmu_load(v, 0x300020, 4, TLB_SUPER, &val, &fault)); // now in its TLB
    assert_int_equal(val, 0x11223344);
    assert_true(set_base(2, 0x300800));
    assert_true(mmu_load(v, 0x300020, 4, TLB_SUPER, &val, &fault));
    assert_int_equal(val, 2 << 24);
    assert_true(mmu_load(other, 0x300020, 4, TLB_SUPER, &val, &fault));
    assert_int_equal(val, 0x11223344);
    assert_int_equal(rd(2, LAPIC_ID), ~0u);
    assert_int_equal(rd(3, LAPIC_ID), 3 << 24);
    wr(2, LAPIC_SVR, 0x1ff);
    assert_int_equal(mem_cpu_load(m, 2, 0x3000f0, 4), 0xff);
    assert_true(mmu_store(v, 0x3000f0, 4, TLB_SUPER, 0x1fe, &fault));
    assert_int_equal(mem_cpu_load(m, 2, 0x3000f0, 4), 0x1fe);
    assert_int_equal(mem_load(m, 0x3000f0, 4), 0); // the RAM below
    // A hole does as well; off, and in x2APIC mode, the page is what it was.
    assert_true(set_base(2, 0xfed40800));
    assert_true(mmu_load(v, 0xfed40020, 4, TLB_SUPER, &val, &fault));
    assert_int_equal(val, 2 << 24);
    assert_true(mmu_load(v, 0x300020, 4, TLB_SUPER, &val, &fault));
    assert_int_equal(val, 0x11223344);
    assert_true(set_base(2, 0x300c00));
    assert_true(mmu_load(v, 0x300020, 4, TLB_SUPER, &val, &fault));
    assert_int_equal(val, 0x11223344);
    assert_true(set_base(2, 0x300000));
    assert_true(set_base(2, 0x300800));
    assert_int_equal(mem_cpu_load(m, 2, 0x300020, 4), 2 << 24);
    pc_reset(pc);
    assert_int_equal(mem_cpu_load(m, 2, 0x300020, 4), 0x11223344);
    assert_int_equal(rd(2, LAPIC_ID), 2 << 24);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(identities), TEST(physical), TEST(shorthands), TEST(logical), TEST(lowest_priority),
        TEST(x2apic),     TEST(starting), TEST(io_apic),    TEST(msi),     TEST(relocation),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
