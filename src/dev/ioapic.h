// The I/O APIC (82093AA): 24 interrupt inputs, each with an entry that says which processors get which vector. Inputs are
// asserted levels, whatever polarity the entry names: a wire of the board is what it means.
#ifndef POGO_DEV_IOAPIC_H
#define POGO_DEV_IOAPIC_H

#include "core/dev.h"

#define IOAPIC_BASE 0xfec00000ull
#define IOAPIC_SIZE 0x1000
#define IOAPIC_PINS 24

// An interrupt message on its way to the local APICs; also what a message-signalled interrupt becomes.
struct apic_message {
    u8 vector, mode; // mode: enum lapic_mode
    bool level, logical;
    u32 dest;
};

struct ioapic {
    u32 select; // register index
    u8 id;
    u64 entry[IOAPIC_PINS];
    bool line[IOAPIC_PINS]; // asserted now
    u64 count[IOAPIC_PINS]; // how often each has been, for the monitor

    // Links, kept over a reset.
    void (*deliver)(void *bus, const struct apic_message *m);
    void *bus;
};

extern const struct dev_ops ioapic_ops; // the page in memory

// State after RESET: everything masked. Lines keep their levels.
void ioapic_reset(struct ioapic *io);
// An irq_line's `set`: `sink` is the I/O APIC.
void ioapic_set_irq(void *sink, unsigned pin, bool level);
// A local APIC has ended a level-triggered interrupt with this vector.
void ioapic_eoi(struct ioapic *io, u8 vector);

#endif
