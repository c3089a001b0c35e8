// The PIIX: interrupt routing, and ACPI's fixed hardware on a clock that the test moves.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "dev/i440fx.h"
#include "dev/piix.h"

#define MS 1000000ull
#define S 1000000000ull
#define PM 0x600

static struct rig {
    u64 now;
    struct host host;
    struct clock clock;
    struct pci_bus bus;
    struct i440fx host_bridge;
    struct piix3 isa;
    struct piix4_pm pm;
    u16 irqs;
    u8 direct;
    unsigned changes, power_offs;
    int status;
} r;

static u64 rig_now(void *host)
{
    return ((struct rig *)host)->now;
}

static const struct host_ops rig_host = {.now_ns = rig_now};

static void on_irq(void *sink, unsigned n, bool level)
{
    (void)sink;
    r.irqs = (u16)((r.irqs & ~(1u << n)) | (u32)level << n);
    r.changes++;
}

static void on_direct(void *sink, unsigned n, bool level)
{
    (void)sink;
    r.direct = (u8)((r.direct & ~(1u << n)) | (u32)level << n);
}

static void on_power_off(void *sink, int status)
{
    (void)sink;
    r.power_offs++;
    r.status = status;
}

static int setup(void **state)
{
    (void)state;
    memset(&r, 0, sizeof(r));
    r.host = (struct host){.ops = &rig_host, .self = &r};
    clock_init(&r.clock, &r.host);
    for (unsigned i = 0; i < 4; i++) {
        r.bus.pirq[i] = (struct irq_line){piix3_set_pirq, &r.isa, i};
        r.isa.direct[i] = (struct irq_line){on_direct, NULL, i};
    }
    for (unsigned i = 0; i < 16; i++)
        r.isa.isa[i] = (struct irq_line){on_irq, NULL, i};
    pci_bus_init(&r.bus);
    r.pm.sci = (struct irq_line){piix3_set_sci, &r.isa, 0};
    r.pm.clock = &r.clock;
    r.pm.power_off = on_power_off;
    assert_int_equal(i440fx_init(&r.host_bridge, &r.bus), 0);
    assert_int_equal(piix3_init(&r.isa, &r.bus), 0);
    assert_int_equal(piix4_pm_init(&r.pm, &r.bus), 0);
    return 0;
}

static u32 in(unsigned port, unsigned size)
{
    return (u32)pci_io_ops.read(&r.bus, port, size);
}

static void out(unsigned port, unsigned size, u32 val)
{
    pci_io_ops.write(&r.bus, port, size, val);
}

static void advance(u64 ns)
{
    r.now += ns;
    clock_run(&r.clock);
}

static void test_identity(void **state)
{
    (void)state;
    assert_int_equal(pci_config_read(&r.host_bridge.pci, 0, 4), 0x12378086);
    assert_int_equal(pci_config_read(&r.isa.pci, 0, 4), 0x70008086);
    assert_int_equal(pci_config_read(&r.pm.pci, 0, 4), 0x71138086);
    assert_int_equal(pci_config_read(&r.isa.pci, 8, 4) >> 8, 0x060100);
    assert_int_equal(pci_config_read(&r.isa.pci, PCI_HEADER_TYPE, 1), 0x80);
    assert_int_equal(r.pm.pci.devfn, PCI_DEVFN(1, 3));
    // Shadowing registers keep what firmware writes.
    pci_config_write(&r.host_bridge.pci, 0x58, 4, 0x33333300);
    assert_int_equal(pci_config_read(&r.host_bridge.pci, 0x58, 4), 0x33333000);
}

static void test_routing(void **state)
{
    (void)state;
    piix3_set_pirq(&r.isa, 1, true); // routed nowhere after reset
    assert_int_equal(r.irqs, 0);
    assert_int_equal(r.direct, 2);
    pci_config_write(&r.isa.pci, 0x60, 4, 0x0b0a0b0a);
    assert_int_equal(r.irqs, 1u << 11);
    piix3_set_pirq(&r.isa, 3, true);
    piix3_set_pirq(&r.isa, 1, false);
    assert_int_equal(r.irqs, 1u << 11); // shared
    assert_int_equal(r.direct, 8);
    pci_config_write(&r.isa.pci, 0x63, 1, 0x09); // moved while up
    assert_int_equal(r.irqs, 1u << 9);
    piix3_set_sci(&r.isa, 0, true);
    piix3_set_pirq(&r.isa, 3, false);
    assert_int_equal(r.irqs, 1u << 9);
    piix3_set_sci(&r.isa, 0, false);
    assert_int_equal(r.irqs, 0);
    // Interrupts that no PCI device may have.
    piix3_set_pirq(&r.isa, 0, true);
    for (unsigned irq = 0; irq < 16; irq++) {
        bool none = irq < 3 || irq == 8 || irq == 13;
        pci_config_write(&r.isa.pci, 0x60, 1, irq);
        assert_int_equal(r.irqs, none ? 0 : 1u << irq);
        pci_config_write(&r.isa.pci, 0x60, 1, irq | 0x80);
        assert_int_equal(r.irqs, 0);
    }
    pci_config_write(&r.isa.pci, 0x60, 1, 0xff);
    assert_int_equal(pci_config_read(&r.isa.pci, 0x60, 1), 0x8f);
    pci_config_write(&r.isa.pci, 0x60, 1, 5);
    pci_bus_reset(&r.bus); // the routes go
    assert_int_equal(r.irqs, 0);
}

static void test_placing(void **state)
{
    (void)state;
    assert_int_equal(in(PM, 2), 0xffff);
    piix4_pm_place(&r.pm, PM, 0x700);
    assert_int_equal(pci_config_read(&r.pm.pci, 0x40, 4), PM | 1);
    assert_int_equal(in(PM, 2), 0);
    pci_config_write(&r.pm.pci, 0x40, 2, 0xb001); // as other firmware likes it
    assert_int_equal(in(PM, 2), 0xffff);
    assert_int_equal(in(0xb000, 2), 0);
    pci_config_write(&r.pm.pci, 0x80, 1, 0);
    assert_int_equal(in(0xb000, 2), 0xffff);
    pci_config_write(&r.pm.pci, 0x80, 1, 1);
    pci_config_write(&r.pm.pci, 0x40, 2, 0);
    assert_int_equal(in(0, 2), 0xffff); // base 0 is nowhere
    pci_config_write(&r.pm.pci, 0x40, 2, 0xffc0);
    assert_int_equal(in(0xffc0, 2), 0);
    pci_bus_reset(&r.bus);
    assert_int_equal(in(0xffc0, 2), 0xffff);
}

static void test_timer_counts(void **state)
{
    (void)state;
    piix4_pm_place(&r.pm, PM, 0x700);
    u32 start = in(PM + 8, 4);
    advance(S);
    assert_int_equal((in(PM + 8, 4) - start) & 0xffffff, 3579545);
    advance(100 * S); // wraps, and stays within 24 bits
    assert_int_equal(in(PM + 8, 4), 101ull * 3579545 & 0xffffff);
    u32 whole = in(PM + 8, 4);
    assert_int_equal(in(PM + 8, 1) | in(PM + 9, 1) << 8 | in(PM + 10, 1) << 16 | in(PM + 11, 1) << 24, whole);
    out(PM + 8, 4, 0); // read-only
    assert_int_equal(in(PM + 8, 4), whole);
    // No drift over years.
    r.now = 3ull * 365 * 86400 * S;
    assert_int_equal(in(PM + 8, 4), 3ull * 365 * 86400 * 3579545 & 0xffffff);
}

// Bit 23 changes every 2.34 s.
static void test_timer_interrupt(void **state)
{
    const u64 half = (8388608ull * S + 3579544) / 3579545;

    (void)state;
    piix4_pm_place(&r.pm, PM, 0x700);
    advance(half - 1);
    assert_int_equal(in(PM, 2), 0);
    advance(1);
    assert_int_equal(in(PM, 2), 1); // without being enabled, too
    assert_int_equal(r.clock.next_deadline, CLOCK_NEVER);
    out(PM, 2, 1);
    assert_int_equal(in(PM, 2), 0);
    piix4_apm_ops.write(&r.pm, 0, 1, PIIX4_ACPI_ENABLE);
    assert_int_equal(in(PM + 4, 2), 1);
    out(PM + 2, 2, 1);
    assert_int_equal(r.irqs, 0);
    advance(half - 2);
    assert_int_equal(r.irqs, 0);
    advance(2);
    assert_int_equal(r.irqs, 1u << PIIX_SCI_IRQ);
    out(PM, 2, 1);
    assert_int_equal(r.irqs, 0);
    advance(half);
    assert_int_equal(r.irqs, 1u << PIIX_SCI_IRQ);
    piix4_apm_ops.write(&r.pm, 0, 1, PIIX4_ACPI_DISABLE); // no SCI in legacy mode
    assert_int_equal(r.irqs, 0);
    assert_int_equal(piix4_apm_ops.read(&r.pm, 0, 1), PIIX4_ACPI_DISABLE);
}

static void test_power_button(void **state)
{
    (void)state;
    piix4_pm_place(&r.pm, PM, 0x700);
    assert_false(piix4_power_button(&r.pm));
    assert_int_equal(in(PM, 2), 0x100);
    out(PM + 2, 2, 0x100);
    assert_int_equal(r.irqs, 0);
    piix4_apm_ops.write(&r.pm, 0, 1, PIIX4_ACPI_ENABLE);
    assert_int_equal(r.irqs, 1u << PIIX_SCI_IRQ);
    out(PM + 1, 1, 1); // as a byte
    assert_int_equal(r.irqs, 0);
    assert_true(piix4_power_button(&r.pm));
    assert_int_equal(r.irqs, 1u << PIIX_SCI_IRQ);
    pci_bus_reset(&r.bus);
    assert_int_equal(r.irqs, 0);
}

static void test_soft_off(void **state)
{
    (void)state;
    piix4_pm_place(&r.pm, PM, 0x700);
    out(PM + 4, 2, 7 << 10 | 1); // a type alone does nothing
    assert_int_equal(r.power_offs, 0);
    out(PM + 4, 2, 1u << 13 | 1u << 10 | 1); // a state that we do not have
    assert_int_equal(r.power_offs, 0);
    assert_int_equal(in(PM + 4, 2), 1u << 10 | 1); // SLP_EN reads as zero
    out(PM + 4, 2, 1u << 13 | 1);
    assert_int_equal(r.power_offs, 1);
    assert_int_equal(r.status, 0);
    out(PM + 5, 1, 0x20); // as a byte
    assert_int_equal(r.power_offs, 2);
}

static void test_gpe(void **state)
{
    (void)state;
    piix4_pm_place(&r.pm, PM, 0x700);
    out(PM + 0x0c, 4, 0xffff0000);
    assert_int_equal(in(PM + 0x0c, 4), 0xffff0000);
    assert_int_equal(in(PM + 0x0e, 1), 0xff);
    out(PM + 0x30, 4, 0x12345678); // a register that only keeps
    assert_int_equal(in(PM + 0x31, 2), 0x3456);
    assert_int_equal(in(PM + 0x3e, 4), 0xffff0000); // past the end
}

static void test_smbus(void **state)
{
    (void)state;
    piix4_pm_place(&r.pm, PM, 0x700);
    out(0x704, 1, 0xa1);
    out(0x702, 1, 0x48); // start a byte transfer
    assert_int_equal(in(0x700, 1), 4);
    assert_int_equal(in(0x702, 1), 0x08);
    out(0x700, 1, 4);
    assert_int_equal(in(0x700, 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_identity, setup),        cmocka_unit_test_setup(test_routing, setup),
        cmocka_unit_test_setup(test_placing, setup),         cmocka_unit_test_setup(test_timer_counts, setup),
        cmocka_unit_test_setup(test_timer_interrupt, setup), cmocka_unit_test_setup(test_power_button, setup),
        cmocka_unit_test_setup(test_soft_off, setup),        cmocka_unit_test_setup(test_gpe, setup),
        cmocka_unit_test_setup(test_smbus, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
