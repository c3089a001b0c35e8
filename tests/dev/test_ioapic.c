// The I/O APIC by register traces.
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "dev/ioapic.h"

struct rig {
    struct ioapic io;
    struct apic_message last;
    unsigned sent;
};

static void deliver(void *bus, const struct apic_message *m)
{
    struct rig *r = bus;

    r->last = *m;
    r->sent++;
}

static void start(struct rig *r)
{
    memset(r, 0, sizeof(*r));
    r->io.deliver = deliver;
    r->io.bus = r;
    ioapic_reset(&r->io);
}

static u32 get(struct rig *r, u8 reg)
{
    ioapic_ops.write(&r->io, 0, 4, reg);
    return (u32)ioapic_ops.read(&r->io, 0x10, 4);
}

static void put(struct rig *r, u8 reg, u32 val)
{
    ioapic_ops.write(&r->io, 0, 4, reg);
    ioapic_ops.write(&r->io, 0x10, 4, val);
}

static void registers(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    assert_int_equal(get(&r, 1), 0x170011);
    put(&r, 0, 0xff000000);
    assert_int_equal(get(&r, 0), 0x0f000000);
    assert_int_equal(get(&r, 0x10), 0x10000); // masked
    put(&r, 0x10, 0xffffffff);
    assert_int_equal(get(&r, 0x10), 0x1afff); // status and remote IRR are read-only
    put(&r, 0x11, 0xffffffff);
    assert_int_equal(get(&r, 0x11), 0xff000000);
    assert_int_equal(get(&r, 0x40), 0); // beyond the last pin
    put(&r, 0x40, 1);
    put(&r, 0xff, 1);
    assert_int_equal(get(&r, 0xff), 0);
    ioapic_set_irq(&r.io, 24, true); // no such pin
    assert_int_equal(r.sent, 0);
}

static void edges(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    put(&r, 0x14, 0x30); // pin 2
    put(&r, 0x15, 0x01000000);
    ioapic_set_irq(&r.io, 2, true);
    assert_int_equal(r.sent, 1);
    assert_int_equal(r.last.vector, 0x30);
    assert_int_equal(r.last.dest, 1);
    assert_false(r.last.level);
    ioapic_set_irq(&r.io, 2, true); // no edge
    assert_int_equal(r.sent, 1);
    ioapic_set_irq(&r.io, 2, false);
    ioapic_set_irq(&r.io, 2, true);
    assert_int_equal(r.sent, 2);
    // Edges at a masked pin are ignored and not held pending. 82093AA 3.2.4, interrupt mask.
    put(&r, 0x14, 0x10030);
    ioapic_set_irq(&r.io, 2, false);
    ioapic_set_irq(&r.io, 2, true);
    put(&r, 0x14, 0x30);
    assert_int_equal(r.sent, 2);
    ioapic_set_irq(&r.io, 2, false);
    ioapic_set_irq(&r.io, 2, true);
    assert_int_equal(r.sent, 3);
}

static void levels(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    put(&r, 0x22, 0x8940); // pin 9: level, logical, lowest priority
    ioapic_set_irq(&r.io, 9, true);
    assert_int_equal(r.sent, 1);
    assert_true(r.last.level && r.last.logical);
    assert_int_equal(r.last.mode, 1);
    assert_int_equal(get(&r, 0x22), 0xc940); // remote IRR
    ioapic_eoi(&r.io, 0x41);                 // another vector
    assert_int_equal(r.sent, 1);
    ioapic_eoi(&r.io, 0x40); // still asserted: again
    assert_int_equal(r.sent, 2);
    ioapic_set_irq(&r.io, 9, false);
    ioapic_eoi(&r.io, 0x40);
    assert_int_equal(r.sent, 2);
    assert_int_equal(get(&r, 0x22), 0x8940);
    // Turning it into an edge clears a stuck remote IRR; turning it back sends what is still asserted.
    ioapic_set_irq(&r.io, 9, true);
    assert_int_equal(r.sent, 3);
    put(&r, 0x22, 0x10940);
    assert_int_equal(get(&r, 0x22), 0x10940);
    put(&r, 0x22, 0x18940);
    assert_int_equal(r.sent, 3);
    put(&r, 0x22, 0x8940);
    assert_int_equal(r.sent, 4);
    // While it waits for the EOI, neither the mask nor the line sends it again.
    put(&r, 0x22, 0x18940);
    put(&r, 0x22, 0x8940);
    ioapic_set_irq(&r.io, 9, false);
    ioapic_set_irq(&r.io, 9, true);
    assert_int_equal(r.sent, 4);
    // A level that comes and goes while masked leaves nothing.
    put(&r, 0x24, 0x18050); // pin 10
    ioapic_set_irq(&r.io, 10, true);
    ioapic_set_irq(&r.io, 10, false);
    put(&r, 0x24, 0x8050);
    assert_int_equal(r.sent, 4);
    ioapic_set_irq(&r.io, 10, true);
    assert_int_equal(r.sent, 5);
    // One EOI serves every pin with its vector.
    put(&r, 0x26, 0x8050);
    ioapic_set_irq(&r.io, 11, true);
    assert_int_equal(r.sent, 6);
    ioapic_eoi(&r.io, 0x50);
    assert_int_equal(r.sent, 8);
    // A new destination while it waits.
    put(&r, 0x25, 0x03000000);
    assert_int_equal(r.sent, 8);
    ioapic_set_irq(&r.io, 11, false);
    ioapic_eoi(&r.io, 0x50);
    assert_int_equal(r.sent, 9);
    assert_int_equal(r.last.dest, 3);
}

static void message_fields(void **state)
{
    struct rig r;

    (void)state;
    start(&r);
    put(&r, 0x3e, 0x00f41); // pin 23, ExtINT, logical
    put(&r, 0x3f, 0xa5000000);
    ioapic_set_irq(&r.io, 23, true);
    assert_int_equal(r.last.mode, 7);
    assert_int_equal(r.last.vector, 0x41);
    assert_int_equal(r.last.dest, 0xa5);
    assert_true(r.last.logical);
    put(&r, 0x10, 0x00400); // pin 0, NMI
    ioapic_set_irq(&r.io, 0, true);
    assert_int_equal(r.last.mode, 4);
    assert_false(r.last.logical);
    // RESET masks; lines stay as they are.
    ioapic_reset(&r.io);
    assert_int_equal(get(&r, 0x3e), 0x10000);
    put(&r, 0x3e, 0x8041);
    assert_int_equal(r.last.vector, 0x41);
    assert_int_equal(r.sent, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(registers), cmocka_unit_test(edges), cmocka_unit_test(levels),
                                       cmocka_unit_test(message_fields)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
