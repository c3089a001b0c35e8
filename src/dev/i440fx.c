// The host bridge is an identity and a few registers that firmware writes; see i440fx.h.

#include "dev/i440fx.h"

#define PMC_CONFIG 0x50
#define DRAM_CONTROL 0x57
#define PAM0 0x59 // seven registers, two areas each: bit 0 reads, bit 1 writes go to memory
#define DRAM_ROW_BOUNDARY 0x60
#define SMRAM 0x72

static const struct pci_dev_ops i440fx_ops = {.name = "i440FX"};

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
    for (unsigned i = 1; i < 7; i++)
        d->wmask[PAM0 + i] = 0xff;
    for (unsigned i = 0; i < 8; i++)
        d->wmask[DRAM_ROW_BOUNDARY + i] = 0xff;
    d->initial[SMRAM] = 0x02;
    d->wmask[SMRAM] = 0x78;
    return pci_add(bus, d, PCI_DEVFN(0, 0));
}
