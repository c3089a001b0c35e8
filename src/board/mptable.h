// Intel MultiProcessor Specification 1.4: processors and interrupt wiring for operating systems that do without ACPI.
#ifndef POGO_BOARD_MPTABLE_H
#define POGO_BOARD_MPTABLE_H

#include "board/blob.h"

struct mptable_params {
    unsigned cpus; // local APIC IDs 0 to cpus - 1, the first the bootstrap processor; fewer than 255
    u32 signature; // CPUID leaf 1 EAX, and
    u32 features;  // EDX
    u32 lapic, ioapic;
    u8 ioapic_id, gsi_pirqa; // the input that PIRQA is
};

// Write the floating pointer structure, and behind it the configuration table. `base` is the guest-physical address of buf, a multiple
// of 16, in one of the places where they are looked for. Returns the number of bytes used, or -ENOSPC.
long mptable_build(const struct mptable_params *p, u8 *buf, size_t size, u64 base);

#endif
