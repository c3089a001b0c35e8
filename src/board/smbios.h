// SMBIOS 2.8 structures: what the machine calls itself. DMTF DSP0134.
#ifndef POGO_BOARD_SMBIOS_H
#define POGO_BOARD_SMBIOS_H

#include "board/blob.h"

#define SMBIOS_ENTRY_SIZE 31
#define SMBIOS_ENTRY_ROOM 32

struct smbios_params {
    unsigned cpus; // processors, all in one package
    u32 signature; // CPUID leaf 1 EAX, and
    u32 features;  // EDX
    const char *cpu_vendor, *cpu_name;
    u64 ram_low, ram_high; // bytes below the PCI hole and from 4 GiB on
    u64 high_base;         // where the latter begin
    const char *version;
};

// Write the entry point (SMBIOS_ENTRY_SIZE bytes) and, SMBIOS_ENTRY_ROOM bytes from it, the structures. `base` is the guest-physical address of buf, a multiple of 16, below 1 MiB so that it is
// found. Returns the number of bytes used, or -ENOSPC.
long smbios_build(const struct smbios_params *p, u8 *buf, size_t size, u64 base);

#endif
