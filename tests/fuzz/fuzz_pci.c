// A hostile driver of the PCI bus: configuration writes, accesses to wherever ranges were put, interrupts and messages. The
// bus's maps must stay sorted and disjoint, the handlers see accesses that lie inside their regions and have a size they
// understand, and the interrupt lines agree with what the devices ask for.
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"
#include "dev/i440fx.h"
#include "dev/piix.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

#define DEVICES 3
#define PM_BASE 0x600

struct device {
    struct pci_dev pci;
    u64 size[PCI_BARS];
};

static struct {
    u64 now;
    struct host host;
    struct clock clock;
    struct pci_bus bus;
    struct pci_window window[2];
    struct i440fx host_bridge;
    struct piix3 isa;
    struct piix4_pm pm;
    struct device device[DEVICES];
    bool irq[16];
} r;

static u64 rig_now(void *host)
{
    (void)host;
    return r.now;
}

static const struct host_ops rig_host = {.now_ns = rig_now};

static void check(bool ok)
{
    if (!ok)
        abort();
}

// The instance of a region's handlers is its size.
static u64 region_read(void *dev, u64 off, unsigned size)
{
    check(size == 1 || size == 2 || size == 4);
    check(off < *(u64 *)dev && size <= *(u64 *)dev - off);
    return ~0ull - off;
}

static void region_write(void *dev, u64 off, unsigned size, u64 val)
{
    region_read(dev, off, size);
    check(size == 4 ? val <= 0xffffffff : val < 1ull << size * 8);
}

static const struct dev_ops region_ops = {.name = "region", .read = region_read, .write = region_write};
static const struct pci_dev_ops device_ops = {.name = "device"};

static void add_region(struct device *d, unsigned bar, enum pci_region_kind kind, u64 size)
{
    d->size[bar] = size;
    check(!pci_add_bar(&d->pci, bar, kind, size, &region_ops, &d->size[bar]));
}

static void on_irq(void *sink, unsigned n, bool level)
{
    (void)sink;
    check(r.irq[n] != level); // only changes are told
    r.irq[n] = level;
}

static void on_msi(void *sink, u64 addr, u32 data)
{
    (void)sink, (void)addr, (void)data;
}

static void on_power_off(void *sink, int status)
{
    (void)sink, (void)status;
}

static void build(void)
{
    static const struct pci_id id = {.vendor = 0x1af4, .device = 0x1042};

    r.host = (struct host){.ops = &rig_host};
    clock_init(&r.clock, &r.host);
    for (unsigned i = 0; i < 4; i++)
        r.bus.pirq[i] = (struct irq_line){piix3_set_pirq, &r.isa, i};
    for (unsigned i = 0; i < 16; i++)
        r.isa.isa[i] = (struct irq_line){on_irq, NULL, i};
    r.bus.msi = on_msi;
    pci_bus_init(&r.bus);
    r.window[0] = (struct pci_window){&r.bus, 0xc0000000};
    r.window[1] = (struct pci_window){&r.bus, 0x800000000};
    r.pm.sci = (struct irq_line){piix3_set_sci, &r.isa, 0};
    r.pm.clock = &r.clock;
    r.pm.power_off = on_power_off;
    check(!i440fx_init(&r.host_bridge, &r.bus) && !piix3_init(&r.isa, &r.bus) && !piix4_pm_init(&r.pm, &r.bus));
    for (unsigned i = 0; i < DEVICES; i++) {
        struct device *d = &r.device[i];
        pci_dev_init(&d->pci, &id, &device_ops, d);
        pci_set_pin(&d->pci, i + 1);
        add_region(d, 0, PCI_REGION_IO, 4u << i * 4);
        add_region(d, 1, PCI_REGION_MEM32, 4096);
        add_region(d, 2, PCI_REGION_MEM64, 16ull << i * 14);
        check(!pci_add_msix(&d->pci, i * 64 + (i == 0), 1, i * 8, 0xfc0));
        check(!pci_add(&r.bus, &d->pci, PCI_DEVFN_ANY));
    }
}

static void check_map(const struct pci_map *m)
{
    for (unsigned i = 0; i < m->count; i++) {
        const struct pci_range *a = &m->range[i];
        check(a->base <= a->last && a->dev->region[a->region].mapped);
        check(i == 0 || m->range[i - 1].last < a->base);
    }
}

static void check_lines(void)
{
    unsigned users[4] = {0};

    for (unsigned i = 0; i < DEVICES; i++) {
        const struct pci_dev *d = &r.device[i].pci;
        check(!d->pirq || d->intx);
        users[(PCI_SLOT(d->devfn) + 3 + i) & 3] += d->pirq;
    }
    for (unsigned i = 0; i < 4; i++)
        check(users[i] == r.bus.pirq_users[i] && (r.isa.pirq >> i & 1) == (users[i] != 0));
}

// One step of 8 bytes: what, size, address (16 bits), value (32 bits).
static void step(const u8 *d)
{
    unsigned size = 1u << (d[1] & 3), port_size = size > 4 ? 4 : size;
    struct pci_dev *dev = &r.device[d[1] >> 4 & 1 ? 0 : d[1] >> 5 & 1 ? 1 : 2].pci;
    u16 at = (u16)(d[2] | d[3] << 8);
    struct pci_window *w = &r.window[d[1] >> 2 & 1];
    u64 off;
    u32 val;

    memcpy(&val, d + 4, 4);
    off = val & 0x3ebfffff;
    if (d[1] & 0x40 && d[0] % 13 >= 4)
        at = (u16)(PM_BASE + (at & 0x13f)); // power management, SMBus
    switch (d[0] % 13) {
    case 0:
    case 1:
        pci_host_ops.write(&r.bus, 0, 4, 0x80000000 | (at & 0xff) | (d[3] & 7) << 11 | (d[3] & 0x38) << 5);
        pci_host_ops.write(&r.bus, 4 + (at & 3), port_size, val);
        break;
    case 2: pci_host_ops.read(&r.bus, at & 7, port_size); break;
    case 3: pci_host_ops.write(&r.bus, at & 7, port_size, val); break;
    case 4: pci_io_ops.read(&r.bus, at, port_size); break;
    case 5: pci_io_ops.write(&r.bus, at, port_size, val & (port_size == 4 ? ~0u : (1u << port_size * 8) - 1)); break;
    case 6: pci_mem_ops.read(w, off, size); break;
    case 7: pci_mem_ops.write(w, off, size, size == 8 ? (u64)val << 20 : val & ((1ull << size * 8) - 1)); break;
    case 8: pci_intx(dev, val & 1); break;
    case 9: pci_msix_notify(dev, at); break;
    case 10: pci_msix_clear(dev, at); break;
    case 11: piix4_apm_ops.write(&r.pm, at & 1, 1, val & 0xff); break;
    case 12:
        r.now += val;
        clock_run(&r.clock);
        break;
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    static bool built;

    if (!built)
        build();
    built = true;
    r.now = r.clock.offset_ns = 0;
    pci_bus_reset(&r.bus);
    piix4_pm_place(&r.pm, PM_BASE, PM_BASE + 0x100);
    for (size_t at = 0; at + 8 <= size; at += 8) {
        step(data + at);
        check_map(&r.bus.io);
        check_map(&r.bus.mem);
        check_lines();
    }
    return 0;
}
