// The board's PCI side: wiring of interrupts, windows, power and reset, and what stands in for firmware.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "board/pc.h"
#include "core/fake_host.h"
#include "core/msr.h"
#include "engine/engines.h"

#define MIB (1ull << 20)

struct rig {
    struct fake_host host;
    struct cpu_model model;
    struct pc_options o;
    struct pc *pc;
    struct pci_dev dev;
    u64 last_off;
    struct error err;
};

static u64 dev_read(void *dev, u64 off, unsigned size)
{
    (void)size;
    ((struct rig *)dev)->last_off = off;
    return 0x5a5a5a5a5a5a5a5a;
}

static const struct dev_ops region_ops = {.name = "region", .read = dev_read};
static const struct pci_dev_ops device_ops = {.name = "device"};

// A board with a device in slot 5: ports, a page below 4 GiB and something too large for that.
static struct rig *rig_new(u64 ram, unsigned cpus, const char *cpu)
{
    static const struct pci_id id = {.vendor = 0x1af4, .device = 0x1234};
    struct rig *r = calloc(1, sizeof(*r));
    u64 features[(ISA_FEAT_COUNT + 63) / 64];
    char text[256];

    fake_host_init(&r->host);
    memset(features, 0xff, sizeof(features));
    assert_null(cpu_model_parse(cpu, features, &r->model, text, sizeof(text)));
    r->o = (struct pc_options){
        .ram = ram, .cpus = cpus, .engine = engine_find("interp"), .model = &r->model, .serial = {true}};
    assert_int_equal(pc_create(&r->host.host, &r->o, &r->pc, &r->err), 0);
    pci_dev_init(&r->dev, &id, &device_ops, r);
    pci_set_pin(&r->dev, 1);
    assert_int_equal(pci_add_bar(&r->dev, 0, PCI_REGION_IO, 32, &region_ops, r), 0);
    assert_int_equal(pci_add_bar(&r->dev, 1, PCI_REGION_MEM32, 4096, &region_ops, r), 0);
    assert_int_equal(pci_add_bar(&r->dev, 2, PCI_REGION_MEM64, 2ull << 30, &region_ops, r), 0);
    assert_int_equal(pci_add_msix(&r->dev, 2, 1, 0, 0x800), 0);
    assert_int_equal(pci_add(&r->pc->pci, &r->dev, PCI_DEVFN(5, 0)), 0);
    return r;
}

static void rig_free(struct rig *r)
{
    pc_destroy(r->pc);
    free(r);
}

static void out(struct rig *r, u16 port, unsigned size, u32 val)
{
    bus_out(&r->pc->m.bus, port, size, val);
}

static u32 in(struct rig *r, u16 port, unsigned size)
{
    return bus_in(&r->pc->m.bus, port, size);
}

static gpa install(struct rig *r)
{
    gpa rsdp = 1;

    assert_int_equal(pc_install_tables(r->pc, &rsdp, &r->err), 0);
    return rsdp;
}

static void tables(void **state)
{
    struct rig *r = rig_new(64 * MIB, 2, "qemu64");
    char text[8];

    (void)state;
    assert_int_equal(install(r), 0xf0000);
    assert_true(mem_read(&r->pc->m.mem, 0xf0000, text, 8));
    assert_memory_equal(text, "RSD PTR ", 8);
    // SMBIOS is found on a 16-byte boundary.
    bool found = false;
    for (gpa a = 0xf0000; a < 0x100000; a += 16)
        found |= mem_load(&r->pc->m.mem, a, 4) == 0x5f4d535f;
    assert_true(found);
    // The kernel does not get this memory.
    struct boot_range map[BOOT_MAX_RANGES];
    unsigned n = pc_memory_map(r->pc, map);
    for (unsigned i = 0; i < n; i++)
        assert_true(map[i].type != BOOT_RANGE_RAM || map[i].base >= 0x100000 || map[i].base + map[i].size <= 0xf0000);
    for (unsigned i = 0; i < 2; i++) {
        u64 val;
        assert_true(msr_read(r->pc->m.vcpu[i], 0x2ff, &val));
        assert_int_equal(val, 0xc06);
    }
    rig_free(r);
}

static void ranges(void **state)
{
    struct rig *r = rig_new(64 * MIB, 1, "qemu64");

    (void)state;
    assert_int_equal(mem_load(&r->pc->m.mem, 0xc0000000, 4), 0xffffffff); // nothing is assigned
    install(r);
    assert_int_equal(r->dev.region[0].base, 0xc000);
    assert_int_equal(r->dev.region[1].base, 0xc0000000);
    assert_int_equal(r->dev.region[2].base, 0x800000000); // not below 4 GiB
    assert_int_equal(in(r, 0xc004, 2), 0x5a5a);
    assert_int_equal(r->last_off, 4);
    assert_int_equal(mem_load(&r->pc->m.mem, 0xc0000ffc, 4), 0x5a5a5a5a);
    assert_int_equal(r->last_off, 0xffc);
    assert_int_equal(mem_load(&r->pc->m.mem, 0x800123450, 4), 0x5a5a5a5a);
    assert_int_equal(r->last_off, 0x123450);
    // Onto RAM, and onto a device of the board: those win.
    pci_config_write(&r->dev, PCI_BAR0 + 4, 4, 0x100000);
    assert_int_equal(mem_load(&r->pc->m.mem, 0x100000, 4), 0);
    pci_config_write(&r->dev, PCI_BAR0, 4, 0x3e0);
    assert_int_equal(in(r, 0x3e0, 1), 0x5a);
    assert_int_equal(in(r, 0x3fd, 1), 0x60);
    pc_reset(r->pc);
    assert_int_equal(in(r, 0x3e0, 1), 0xff);
    install(r);
    assert_int_equal(in(r, 0xc004, 2), 0x5a5a);
    rig_free(r);
}

// A processor that cannot address a high window has none.
static void narrow(void **state)
{
    struct rig *r = rig_new(64 * MIB, 1, "486");

    (void)state;
    install(r);
    assert_null(r->pc->pci_window[1].bus);
    assert_false(r->dev.region[2].mapped);
    assert_true(r->dev.region[1].mapped);
    rig_free(r);
}

static void interrupts(void **state)
{
    struct rig *r = rig_new(64 * MIB, 1, "qemu64");
    struct pc *b = r->pc;

    (void)state;
    install(r);
    assert_int_equal(r->dev.config[PCI_INTERRUPT_LINE], 10); // slot 5: PIRQA
    assert_int_equal(in(r, 0x4d1, 1), 0x0e);                 // 9, 10 and 11 are level-triggered
    pci_intx(&r->dev, true);
    assert_true(b->ioapic.line[16]);
    assert_true(b->ioapic.line[10]);
    assert_int_equal(b->pic.chip[1].lines, 1 << 2);
    // A device of the board at the same interrupt.
    irq_set(pc_isa_irq(b, 10), true);
    pci_intx(&r->dev, false);
    assert_false(b->ioapic.line[16]);
    assert_true(b->ioapic.line[10]);
    irq_set(pc_isa_irq(b, 10), false);
    assert_false(b->ioapic.line[10]);
    // A message: vector 0x55 to processor 0.
    lapic_ops.write(&b->lapic[0], 0xf0, 4, 0x1ff);
    pci_config_write(&r->dev, PCI_COMMAND, 2, 6);
    pci_config_write(&r->dev, r->dev.msix.cap + 2u, 2, 0x8000);
    mem_store(&b->m.mem, 0xc0000000, 8, 0xfee00000);
    mem_store(&b->m.mem, 0xc0000008, 8, 0x55);
    pci_msix_notify(&r->dev, 0);
    assert_true(lapic_ops.read(&b->lapic[0], 0x220, 4) & 1u << 21); // IRR
    rig_free(r);
}

static void power(void **state)
{
    struct rig *r = rig_new(64 * MIB, 1, "qemu64");
    struct pc *b = r->pc;

    (void)state;
    assert_int_equal(in(r, 0x608, 4), 0xffffffff); // a ROM would place it
    install(r);
    r->host.now_ns += 1000000000;
    assert_int_equal(in(r, 0x608, 4), 3579545);
    out(r, 0xb2, 1, PIIX4_ACPI_ENABLE);
    assert_int_equal(in(r, 0x604, 2), 1);
    out(r, 0x602, 2, 0x100);
    assert_true(piix4_power_button(&b->pm));
    assert_true(b->ioapic.line[9]);
    out(r, 0x600, 2, 0x100);
    assert_false(b->ioapic.line[9]);
    out(r, 0x604, 2, 0x2001);
    assert_int_equal(b->m.stop_reason, VM_EXIT_POWEROFF);
    assert_int_equal(b->m.stop_code, 0);
    pc_reset(b);
    out(r, 0xcf9, 1, 2);
    assert_int_equal(b->m.stop_reason, -1);
    out(r, 0xcf9, 1, 6);
    assert_int_equal(b->m.stop_reason, VM_EXIT_RESET);
    rig_free(r);
}

static void firmware(void **state)
{
    static u8 bios[256 << 10];
    struct rig *r = rig_new(64 * MIB, 1, "qemu64");

    (void)state;
    pc_destroy(r->pc);
    r->o.bios = bios;
    r->o.bios_size = sizeof(bios);
    assert_int_equal(pc_create(&r->host.host, &r->o, &r->pc, &r->err), 0);
    assert_int_equal(install(r), 0); // its business
    assert_int_equal(in(r, 0x608, 4), 0xffffffff);
    // As it would do it.
    out(r, 0xcf8, 4, 0x80000b40);
    out(r, 0xcfc, 4, 0x601);
    out(r, 0xcf8, 4, 0x80000b80);
    out(r, 0xcfc, 1, 1);
    assert_int_equal(in(r, 0x604, 2), 0);
    rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables),     cmocka_unit_test(ranges), cmocka_unit_test(narrow),
        cmocka_unit_test(interrupts), cmocka_unit_test(power),  cmocka_unit_test(firmware),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
