// The host bridge is an identity, the PAM registers and a few others that firmware writes; see i440fx.h.

#include "dev/i440fx.h"

#include <stdio.h>

#define PMC_CONFIG 0x50
#define DRAM_CONTROL 0x57
#define PAM0 0x59 // seven registers, two areas each: bit 0 reads, bit 1 writes go to memory
#define DRAM_ROW_BOUNDARY 0x60
#define SMRAM 0x72

#define PAM_COUNT 7
#define PAM_READ 1u
#define PAM_WRITE 2u

// PAM0 has the 64 KiB at the end in its upper half; the others have two areas each, in ascending order from the lower half of PAM1.
static u8 area_bits(const u8 *pam, unsigned area)
{
    return area == I440FX_AREAS - 1 ? pam[0] >> 4 : pam[1 + area / 2] >> (area & 1) * 4;
}

static void map_areas(void *self)
{
    struct i440fx *h = self;
    u32 reads = 0, writes = 0;

    for (unsigned i = 0; i < I440FX_AREAS; i++) {
        u8 bits = area_bits(&h->pci.config[PAM0], i);
        reads |= bits & PAM_READ ? 1u << i : 0;
        writes |= bits & PAM_WRITE ? 1u << i : 0;
    }
    if (h->map)
        h->map(h->sink, reads, writes);
}

static void config_written(void *self, unsigned off, unsigned size)
{
    if (off < PAM0 + PAM_COUNT && off + size > PAM0)
        map_areas(self);
}

static void dump(void *self, char *buf, size_t size)
{
    const u8 *pam = &((struct i440fx *)self)->pci.config[PAM0];

    snprintf(buf, size, "pam %02x %02x %02x %02x %02x %02x %02x", pam[0], pam[1], pam[2], pam[3], pam[4], pam[5],
             pam[6]);
}

static const struct pci_dev_ops i440fx_ops = {
    .name = "i440FX", .reset = map_areas, .config_written = config_written, .dump = dump};

static const struct pci_id i440fx_id = {.vendor = 0x8086,
                                        .device = 0x1237,
                                        .subvendor = 0x1af4,
                                        .subdevice = 0x1100,
                                        .class_code = 0x060000,
                                        .revision = 0x02};

int i440fx_init(struct i440fx *h, struct pci_bus *bus)
{
    struct pci_dev *d = &h->pci;

    pci_dev_init(d, &i440fx_id, &i440fx_ops, h);
    d->initial[PCI_COMMAND] = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER; // hardwired
    d->wmask[PCI_COMMAND] = 0x40;
    d->initial[PCI_STATUS] = 0x80; // fast back-to-back
    d->initial[PCI_STATUS + 1] = 0x02;
    pci_put16(d->wmask, PMC_CONFIG, 0xffff);
    d->initial[DRAM_CONTROL] = 0x01;
    d->wmask[DRAM_CONTROL] = 0xff;
    d->wmask[PAM0] = 0xf0; // the low half is not used
    for (unsigned i = 1; i < PAM_COUNT; i++)
        d->wmask[PAM0 + i] = 0xff;
    for (unsigned i = 0; h->all_ram && i < PAM_COUNT; i++)
        d->initial[PAM0 + i] = 0x33 & d->wmask[PAM0 + i];
    for (unsigned i = 0; i < 8; i++)
        d->wmask[DRAM_ROW_BOUNDARY + i] = 0xff;
    d->initial[SMRAM] = 0x02;
    d->wmask[SMRAM] = 0x78;
    return pci_add(bus, d, PCI_DEVFN(0, 0));
}
