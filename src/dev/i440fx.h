// Intel 440FX host bridge (82441FX), PCI function 00:00.0: the memory controller as far as software looks at it. Facts from the
// 82441FX data sheet.
//
// PAM and SMRAM registers keep what is written and change nothing: what lies between 0xc0000 and 0xfffff is the board's.
#ifndef POGO_DEV_I440FX_H
#define POGO_DEV_I440FX_H

#include "dev/pci.h"

struct i440fx {
    struct pci_dev pci; // first
};

// Make the function and put it on the bus. Returns what pci_add() does.
int i440fx_init(struct i440fx *h, struct pci_bus *bus);

#endif
