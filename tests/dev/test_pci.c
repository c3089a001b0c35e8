// The PCI bus: configuration space, ranges that move, INTx and MSI-X, on a device that records what reaches it.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "dev/pci.h"

struct device {
    struct pci_dev pci;
    u64 off, val; // last access
    unsigned size, reads, writes, config_writes, resets;
    void *last; // `dev` of the region
};

static struct rig {
    struct pci_bus bus;
    struct device a, b;
    struct pci_window low, high;
    bool pirq[4];
    unsigned pirq_changes, messages, resets;
    u64 msi_addr;
    u32 msi_data;
} r;

static u64 region_read(void *dev, u64 off, unsigned size)
{
    struct device *d = dev;

    d->off = off;
    d->size = size;
    d->reads++;
    return 0x8877665544332211ull;
}

static void region_write(void *dev, u64 off, unsigned size, u64 val)
{
    struct device *d = dev;

    d->off = off;
    d->size = size;
    d->val = val;
    d->writes++;
}

static const struct dev_ops region_ops = {.name = "region", .read = region_read, .write = region_write};

static void on_config(void *self, unsigned off, unsigned size)
{
    (void)off, (void)size;
    ((struct device *)self)->config_writes++;
}

static void on_dev_reset(void *self)
{
    ((struct device *)self)->resets++;
}

static const struct pci_dev_ops device_ops = {.name = "device", .reset = on_dev_reset, .config_written = on_config};

static void on_pirq(void *sink, unsigned n, bool level)
{
    (void)sink;
    r.pirq[n] = level;
    r.pirq_changes++;
}

static void on_msi(void *sink, u64 addr, u32 data)
{
    (void)sink;
    r.messages++;
    r.msi_addr = addr;
    r.msi_data = data;
}

static void on_reset(void *sink)
{
    (void)sink;
    r.resets++;
}

static void device_init(struct device *d)
{
    static const struct pci_id id = {0x1af4, 0x1042, 0x1af4, 0x1100, 0x010000, 1};

    pci_dev_init(&d->pci, &id, &device_ops, d);
    pci_set_pin(&d->pci, 1);
    assert_int_equal(pci_add_bar(&d->pci, 0, PCI_REGION_IO, 0x40, &region_ops, d), 0);
    assert_int_equal(pci_add_bar(&d->pci, 1, PCI_REGION_MEM32, 0x1000, NULL, NULL), 0);
    assert_int_equal(pci_add_bar(&d->pci, 4, PCI_REGION_MEM64, 0x4000, &region_ops, d), 0);
    assert_int_equal(pci_add_msix(&d->pci, 3, 1, 0, 0x800), 0);
}

static int setup(void **state)
{
    (void)state;
    memset(&r, 0, sizeof(r));
    for (unsigned i = 0; i < 4; i++)
        r.bus.pirq[i] = (struct irq_line){on_pirq, NULL, i};
    r.bus.msi = on_msi;
    r.bus.reset_machine = on_reset;
    pci_bus_init(&r.bus);
    r.low = (struct pci_window){&r.bus, 0xc0000000};
    r.high = (struct pci_window){&r.bus, 0x800000000};
    device_init(&r.a);
    device_init(&r.b);
    assert_int_equal(pci_add(&r.bus, &r.a.pci, PCI_DEVFN(3, 0)), 0);
    assert_int_equal(pci_add(&r.bus, &r.b.pci, PCI_DEVFN(4, 0)), 0);
    return 0;
}

static void addr_out(u32 val)
{
    pci_host_ops.write(&r.bus, 0, 4, val);
}

static void config_out(unsigned devfn, unsigned off, unsigned size, u32 val)
{
    addr_out(0x80000000u | devfn << 8 | (off & 0xfc));
    pci_host_ops.write(&r.bus, 4 + (off & 3), size, val);
}

static u32 config_in(unsigned devfn, unsigned off, unsigned size)
{
    addr_out(0x80000000u | devfn << 8 | (off & 0xfc));
    return (u32)pci_host_ops.read(&r.bus, 4 + (off & 3), size);
}

static u64 mem_in(u64 a, unsigned size)
{
    return pci_mem_ops.read(&r.low, a - r.low.base, size);
}

static void mem_out(u64 a, unsigned size, u64 val)
{
    pci_mem_ops.write(&r.low, a - r.low.base, size, val);
}

#define A PCI_DEVFN(3, 0)
#define B PCI_DEVFN(4, 0)

static void test_config(void **state)
{
    (void)state;
    assert_int_equal(config_in(A, 0, 4), 0x10421af4);
    assert_int_equal(config_in(A, 2, 2), 0x1042);
    assert_int_equal(config_in(A, 3, 1), 0x10);
    assert_int_equal(config_in(A, 8, 4), 0x01000001);
    assert_int_equal(config_in(A, 0x2c, 4), 0x11001af4);
    assert_int_equal(config_in(PCI_DEVFN(9, 0), 0, 4), 0xffffffff);
    assert_int_equal(config_in(PCI_DEVFN(3, 1), 0, 2), 0xffff);
    config_out(A, 0, 4, 0x12345678); // read-only
    assert_int_equal(config_in(A, 0, 4), 0x10421af4);
    config_out(A, PCI_COMMAND, 2, 0xffff);
    assert_int_equal(config_in(A, PCI_COMMAND, 2), 0x0547);
    config_out(A, PCI_INTERRUPT_LINE, 1, 0x0b);
    assert_int_equal(config_in(A, PCI_INTERRUPT_LINE, 2), 0x010b);
    // The address register takes dwords alone; disabled, or another bus: nobody.
    addr_out(0x12345679);
    assert_int_equal(pci_host_ops.read(&r.bus, 0, 4), 0x02345678);
    assert_int_equal(pci_host_ops.read(&r.bus, 4, 4), 0xffffffff);
    pci_host_ops.write(&r.bus, 0, 2, 0);
    assert_int_equal(pci_host_ops.read(&r.bus, 0, 4), 0x02345678);
    addr_out(0x81000000 | A << 8); // register 0x100
    assert_int_equal(pci_host_ops.read(&r.bus, 4, 4), 0xffffffff);
    addr_out(0x80010000 | A << 8);
    assert_int_equal(pci_host_ops.read(&r.bus, 4, 4), 0xffffffff);
    assert_int_equal(r.a.config_writes, 3);
    // Capabilities.
    assert_int_equal(config_in(A, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST, PCI_STATUS_CAP_LIST);
    assert_int_equal(config_in(A, PCI_CAP_POINTER, 1), 0x40);
    assert_int_equal(config_in(A, 0x40, 4), 0x00020011); // three vectors
    assert_int_equal(config_in(A, 0x44, 4), 1);
    assert_int_equal(config_in(A, 0x48, 4), 0x801);
}

static void test_reset_register(void **state)
{
    (void)state;
    pci_host_ops.write(&r.bus, 1, 1, 2);
    assert_int_equal(r.resets, 0);
    assert_int_equal(pci_host_ops.read(&r.bus, 1, 1), 2);
    pci_host_ops.write(&r.bus, 1, 1, 6);
    assert_int_equal(r.resets, 1);
}

static void test_sizing(void **state)
{
    static const u32 want[6] = {0xffffffc1, 0xfffff000, 0, 0, 0xffffc004, 0xffffffff};

    (void)state;
    config_out(A, PCI_COMMAND, 2, 0x7);
    for (unsigned i = 0; i < 6; i++) {
        config_out(A, PCI_BAR0 + 4 * i, 4, ~0u);
        assert_int_equal(config_in(A, PCI_BAR0 + 4 * i, 4), want[i]);
    }
    assert_int_equal(r.bus.io.count, 0);
    for (unsigned i = 0; i < 4; i++) // byte by byte
        config_out(A, PCI_BAR0 + 16 + i, 1, 0);
    assert_int_equal(config_in(A, PCI_BAR0 + 16, 4), 4);
}

static void test_ranges(void **state)
{
    (void)state;
    config_out(A, PCI_BAR0, 4, 0xc040);
    config_out(A, PCI_BAR0 + 16, 4, 0xe0004000);
    assert_int_equal(pci_io_ops.read(&r.bus, 0xc040, 1), 0xff); // decoding is off
    config_out(A, PCI_COMMAND, 2, 3);
    assert_int_equal(pci_io_ops.read(&r.bus, 0xc042, 2), 0x2211);
    assert_int_equal(r.a.off, 2);
    assert_int_equal(pci_io_ops.read(&r.bus, 0xc03f, 2), 0x11ff); // half of it is nobody's
    assert_int_equal(r.a.size, 1);
    pci_io_ops.write(&r.bus, 0xc07f, 4, 0xa1a2a3a4);
    assert_int_equal(r.a.val, 0xa4);
    assert_int_equal(mem_in(0xe0004010, 4), 0x44332211);
    assert_int_equal(r.a.off, 0x10);
    assert_int_equal(mem_in(0xe0004010, 8), 0x4433221144332211); // the region takes four bytes at a time
    mem_out(0xe0007ff8, 8, 0x0102030405060708);
    assert_int_equal(r.a.off, 0x3ffc);
    assert_int_equal(r.a.val, 0x01020304);
    assert_int_equal(mem_in(0xe0003fff, 1), 0xff);
    assert_int_equal(mem_in(0xe0003ffc, 8), 0x11111111ffffffff); // as bytes
    // Above 4 GiB.
    config_out(A, PCI_BAR0 + 20, 4, 8);
    assert_int_equal(mem_in(0xe0004010, 4), 0xffffffff);
    config_out(A, PCI_BAR0 + 16, 4, 0x4000);
    assert_int_equal(pci_mem_ops.read(&r.high, 0x4008, 4), 0x44332211);
    r.a.pci.region[4].max_size = 8;
    assert_int_equal(pci_mem_ops.read(&r.high, 0x4008, 8), 0x8877665544332211);
    config_out(A, PCI_COMMAND, 2, 1);
    assert_int_equal(pci_mem_ops.read(&r.high, 0x4008, 4), 0xffffffff);
    assert_int_equal(pci_io_ops.read(&r.bus, 0xc042, 1), 0x11);
}

static void test_overlap(void **state)
{
    (void)state;
    config_out(A, PCI_BAR0 + 16, 4, 0xe0000000);
    config_out(B, PCI_BAR0 + 16, 4, 0xe0000000);
    config_out(B, PCI_COMMAND, 2, 2);
    mem_in(0xe0000000, 4);
    assert_int_equal(r.b.reads, 1);
    config_out(A, PCI_COMMAND, 2, 2); // came to the bus first
    mem_in(0xe0000000, 4);
    assert_int_equal(r.a.reads, 1);
    assert_int_equal(r.b.reads, 1);
    config_out(A, PCI_BAR0 + 16, 4, 0xe0008000);
    mem_in(0xe0000000, 4);
    assert_int_equal(r.b.reads, 2);
    // Where a range may not be: beyond the ports, and at 0.
    config_out(A, PCI_BAR0, 4, 0xffff0000);
    config_out(B, PCI_BAR0, 4, 0);
    config_out(A, PCI_COMMAND, 2, 1);
    config_out(B, PCI_COMMAND, 2, 1);
    assert_int_equal(r.bus.io.count, 0);
}

static void test_intx(void **state)
{
    (void)state;
    pci_intx(&r.a.pci, true); // slot 3, INTA: PIRQC
    assert_true(r.pirq[2]);
    assert_true(config_in(A, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
    pci_intx(&r.a.pci, true);
    assert_int_equal(r.pirq_changes, 1);
    pci_intx(&r.b.pci, true); // slot 4: PIRQD
    assert_true(r.pirq[3]);
    config_out(A, PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
    assert_false(r.pirq[2]);
    assert_true(config_in(A, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
    config_out(A, PCI_COMMAND, 2, 0);
    assert_true(r.pirq[2]);
    config_out(A, 0x42, 2, 0x8000); // MSI-X takes over
    assert_false(r.pirq[2]);
    pci_bus_reset(&r.bus);
    assert_false(r.pirq[3]);
    assert_int_equal(r.a.resets, 2);
    assert_int_equal(config_in(A, 0x42, 2), 2);
}

static void test_shared_intx(void **state)
{
    static struct device c;

    (void)state;
    memset(&c, 0, sizeof(c));
    device_init(&c);
    assert_int_equal(pci_add(&r.bus, &c.pci, PCI_DEVFN(7, 0)), 0); // slot 7: PIRQC, too
    pci_intx(&r.a.pci, true);
    pci_intx(&c.pci, true);
    pci_intx(&r.a.pci, false);
    assert_true(r.pirq[2]);
    pci_intx(&c.pci, false);
    assert_false(r.pirq[2]);
    assert_int_equal(r.pirq_changes, 2);
}

static void msix_on(void)
{
    config_out(A, PCI_BAR0 + 4, 4, 0xd0000000);
    config_out(A, PCI_COMMAND, 2, 6);
    config_out(A, 0x42, 2, 0x8000);
    for (unsigned i = 0; i < 3; i++) {
        mem_out(0xd0000000 + 16 * i, 4, 0xfee00000 + (i << 12));
        mem_out(0xd0000008 + 16 * i, 4, 0x4030 + i);
        assert_int_equal(mem_in(0xd000000c + 16 * i, 4), 1);
        mem_out(0xd000000c + 16 * i, 4, 0xfffffffe); // unmask; the rest is reserved
        assert_int_equal(mem_in(0xd000000c + 16 * i, 4), 0);
    }
}

static void test_msix(void **state)
{
    (void)state;
    pci_msix_notify(&r.a.pci, 0); // off
    msix_on();
    assert_int_equal(r.messages, 0);
    pci_msix_notify(&r.a.pci, 2);
    assert_int_equal(r.messages, 1);
    assert_int_equal(r.msi_addr, 0xfee02000);
    assert_int_equal(r.msi_data, 0x4032);
    pci_msix_notify(&r.a.pci, 3); // no such vector
    assert_int_equal(r.messages, 1);
    // Masked: pending until it is not.
    mem_out(0xd000001c, 4, 1);
    pci_msix_notify(&r.a.pci, 1);
    pci_msix_notify(&r.a.pci, 1);
    assert_int_equal(r.messages, 1);
    assert_int_equal(mem_in(0xd0000800, 4), 2);
    mem_out(0xd0000800, 4, 0); // read-only
    mem_out(0xd000001c, 4, 0);
    assert_int_equal(r.messages, 2);
    assert_int_equal(r.msi_data, 0x4031);
    assert_int_equal(mem_in(0xd0000800, 8), 0);
    // The whole function masked, then without bus mastering.
    config_out(A, 0x42, 2, 0xc000);
    pci_msix_notify(&r.a.pci, 0);
    pci_msix_notify(&r.a.pci, 2);
    pci_msix_clear(&r.a.pci, 2);
    assert_int_equal(r.messages, 2);
    config_out(A, PCI_COMMAND, 2, 2);
    config_out(A, 0x42, 2, 0x8000);
    assert_int_equal(r.messages, 2);
    config_out(A, PCI_COMMAND, 2, 6);
    assert_int_equal(r.messages, 3);
    assert_int_equal(r.msi_addr, 0xfee00000);
}

// Accesses of every shape to the table and the pending bits, and across their ends.
static void test_msix_shapes(void **state)
{
    (void)state;
    msix_on();
    mem_out(0xd0000000, 8, 0x00000001fee01000);
    assert_int_equal(mem_in(0xd0000000, 8), 0x00000001fee01000);
    assert_int_equal(mem_in(0xd0000001, 2), 0xe010);
    assert_int_equal(mem_in(0xd0000003, 4), 0x000001fe);
    mem_out(0xd0000009, 1, 0x77);
    assert_int_equal(mem_in(0xd0000008, 4), 0x7730);
    pci_msix_notify(&r.a.pci, 0);
    assert_int_equal(r.msi_addr, 0x1fee01000);
    assert_int_equal(mem_in(0xd0000030, 4), 0xffffffff); // after the table nothing answers
    assert_int_equal(mem_in(0xd000002e, 4), 0xffff0000);
    assert_int_equal(mem_in(0xd00007fe, 4), 0x0000ffff);
    assert_int_equal(mem_in(0xd0000805, 8), 0xffffffffff000000);
    // Reset masks all again.
    pci_bus_reset(&r.bus);
    assert_int_equal(r.a.pci.msix.vector[0].control, 1);
    assert_int_equal(r.a.pci.msix.vector[0].addr_lo, 0);
}

static void test_building(void **state)
{
    struct pci_dev d;
    static const struct pci_id id = {.vendor = 1};
    static const struct pci_dev_ops ops = {.name = "d"};

    (void)state;
    pci_dev_init(&d, &id, &ops, NULL);
    assert_int_equal(pci_add_bar(&d, 0, PCI_REGION_IO, 3, NULL, NULL), -EINVAL);
    assert_int_equal(pci_add_bar(&d, 0, PCI_REGION_MEM32, 8, NULL, NULL), -EINVAL);
    assert_int_equal(pci_add_bar(&d, 5, PCI_REGION_MEM64, 16, NULL, NULL), -EINVAL);
    assert_int_equal(pci_add_bar(&d, 6, PCI_REGION_IO, 16, NULL, NULL), -EINVAL);
    assert_int_equal(pci_add_bar(&d, 0, PCI_REGION_MEM64, 4096, NULL, NULL), 0);
    assert_int_equal(pci_add_bar(&d, 1, PCI_REGION_IO, 16, NULL, NULL), -EINVAL); // the upper half
    assert_int_equal(pci_add_bar(&d, 2, PCI_REGION_IO, 16, NULL, NULL), 0);
    assert_int_equal(pci_add_msix(&d, 4, 2, 0, 64), -EINVAL); // ports
    assert_int_equal(pci_add_msix(&d, 4, 0, 0, 56), -EINVAL); // overlap
    assert_int_equal(pci_add_msix(&d, 4, 0, 4096 - 56, 0), -EINVAL);
    assert_int_equal(pci_add_msix(&d, 0, 0, 0, 64), -EINVAL);
    assert_int_equal(pci_add_cap(&d, PCI_CAP_VENDOR, 21), 0x40);
    assert_int_equal(pci_add_msix(&d, 4, 0, 0, 64), 0);
    assert_int_equal(d.initial[0x41], 0x58);
    assert_int_equal(pci_add_cap(&d, PCI_CAP_VENDOR, 160), -ENOSPC);
    assert_int_equal(pci_add_cap(&d, PCI_CAP_VENDOR, 156), 0x64);
    assert_int_equal(pci_add_cap(&d, PCI_CAP_VENDOR, 2), -ENOSPC);
    assert_int_equal(pci_add(&r.bus, &d, A), -EBUSY);
    assert_int_equal(pci_add(&r.bus, &d, 0x200), -EINVAL);
    assert_int_equal(pci_add(&r.bus, &d, PCI_DEVFN(3, 2)), 0);
    assert_int_equal(config_in(A, PCI_HEADER_TYPE, 1), 0x80);
    assert_int_equal(config_in(B, PCI_HEADER_TYPE, 1), 0);
}

static void test_any_slot(void **state)
{
    static struct pci_dev d[32];
    static const struct pci_id id = {.vendor = 1};
    static const struct pci_dev_ops ops = {.name = "d"};

    (void)state;
    for (unsigned i = 0; i < 30; i++) {
        pci_dev_init(&d[i], &id, &ops, NULL);
        assert_int_equal(pci_add(&r.bus, &d[i], PCI_DEVFN_ANY), 0);
        assert_int_equal(d[i].devfn, PCI_DEVFN(i < 3 ? i : i + 2, 0));
    }
    pci_dev_init(&d[30], &id, &ops, NULL);
    assert_int_equal(pci_add(&r.bus, &d[30], PCI_DEVFN_ANY), -ENOSPC);
}

static void test_assign(void **state)
{
    static const struct pci_windows w = {.io_base = 0xc000,
                                         .io_end = 0xc080,
                                         .mem_base = 0xc0000000,
                                         .mem_end = 0xc0006000,
                                         .mem64_base = 0x800000000,
                                         .mem64_end = 0x1000000000,
                                         .irq = {5, 9, 10, 11}};

    (void)state;
    pci_assign(&r.bus, &w);
    assert_int_equal(config_in(A, PCI_BAR0, 4), 0xc001);
    assert_int_equal(config_in(B, PCI_BAR0, 4), 0xc041);
    assert_int_equal(config_in(A, PCI_BAR0 + 16, 4), 0xc0000004); // the large ones first
    assert_int_equal(config_in(B, PCI_BAR0 + 16, 4), 4);          // and this one has no room below
    assert_int_equal(config_in(B, PCI_BAR0 + 20, 4), 8);
    assert_int_equal(config_in(A, PCI_BAR0 + 4, 4), 0xc0004000);
    assert_int_equal(config_in(B, PCI_BAR0 + 4, 4), 0xc0005000);
    assert_int_equal(config_in(A, PCI_COMMAND, 2), 3);
    assert_int_equal(config_in(A, PCI_INTERRUPT_LINE, 1), 10);
    assert_int_equal(config_in(B, PCI_INTERRUPT_LINE, 1), 11);
    assert_int_equal(r.bus.mem.count, 4);
}

// Any writes at all: the maps stay sorted and disjoint, and accesses stay inside.
static void test_random(void **state)
{
    u64 seed = 88172645463325252ull;

    (void)state;
    for (unsigned i = 0; i < 200000; i++) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        unsigned size = 1u << (seed >> 40) % 3, off = (unsigned)(seed >> 8) & 0xff & ~(size - 1);
        u32 val =
            seed >> 60 & 1 ? (u32)(seed >> 20) : (u32[]){0, ~0u, 0xc000, 0xe0000000, 0xffff, 7, 8, 0x8000}[seed >> 61];
        config_out(seed & 1 ? A : B, off, size, val);
        pci_io_ops.write(&r.bus, val & 0xffff, size, seed);
        mem_in(0xc0000000 + ((seed >> 4) & 0x3ebfffff), size);
        for (unsigned j = 1; j < r.bus.mem.count; j++)
            assert_true(r.bus.mem.range[j - 1].last < r.bus.mem.range[j].base);
        for (unsigned j = 1; j < r.bus.io.count; j++)
            assert_true(r.bus.io.range[j - 1].last < r.bus.io.range[j].base);
    }
    char text[2048];
    pci_bus_dump(&r.bus, text, sizeof(text));
    assert_non_null(strstr(text, "03.0 1af4:1042 device"));
    pci_bus_dump(&r.bus, text, 10);
    assert_int_equal(strlen(text), 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_config, setup),      cmocka_unit_test_setup(test_reset_register, setup),
        cmocka_unit_test_setup(test_sizing, setup),      cmocka_unit_test_setup(test_ranges, setup),
        cmocka_unit_test_setup(test_overlap, setup),     cmocka_unit_test_setup(test_intx, setup),
        cmocka_unit_test_setup(test_shared_intx, setup), cmocka_unit_test_setup(test_msix, setup),
        cmocka_unit_test_setup(test_msix_shapes, setup), cmocka_unit_test_setup(test_building, setup),
        cmocka_unit_test_setup(test_any_slot, setup),    cmocka_unit_test_setup(test_assign, setup),
        cmocka_unit_test_setup(test_random, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
