// Intel 440FX host bridge (82441FX), PCI function 00:00.0: the memory controller as far as software looks at it. Facts from the
// 82441FX data sheet.
//
// The PAM registers say for each area between 0xc0000 and 0xfffff whether reads and writes go to RAM or to the bus, where the
// firmware's ROM is. The board maps them. SMRAM keeps what is written and changes nothing.
#ifndef POGO_DEV_I440FX_H
#define POGO_DEV_I440FX_H

#include "dev/pci.h"

#define I440FX_AREAS 13 // twelve of 16 KiB from 0xc0000 on, and the 64 KiB at 0xf0000
#define I440FX_AREA_BASE 0xc0000ull
#define I440FX_AREA_SIZE 0x4000ull
#define I440FX_LAST_AREA_SIZE 0x10000ull

struct i440fx {
    struct pci_dev pci; // first
    // Set before i440fx_init(). Areas by bits: those whose reads, and those whose writes, are RAM's from now on. NULL: nobody cares.
    void (*map)(void *sink, u32 reads, u32 writes);
    void *sink;
    bool all_ram; // after reset everything is RAM: there is no firmware that would set that up
};

// Make the function and put it on the bus, which calls map(). Returns what pci_add() does.
int i440fx_init(struct i440fx *h, struct pci_bus *bus);

#endif
