// ACPI tables of the board: what the operating system is told about it when there is no firmware. ACPI 6.4 chapter 5.2.
#ifndef POGO_BOARD_ACPI_H
#define POGO_BOARD_ACPI_H

#include "board/blob.h"

struct acpi_params {
    unsigned cpus;     // local APIC IDs 0 to cpus - 1
    u64 lapic, ioapic; // addresses; ioapic 0: there is none, and interrupts are the 8259's
    u64 hpet;          // address; 0: there is none
    u8 sci_irq;
    u16 pm_base;    // PIIX4 power management ports
    u16 smbus_base; // 0: none
    u16 apm_port;   // SMI command port, with the values that switch ACPI on and off
    u8 acpi_enable, acpi_disable;
    u16 reset_port;
    u8 reset_value;
    u8 slp_typ_s5;
    u64 mem_base, mem_end;     // window of the PCI bus below 4 GiB
    u64 mem64_base, mem64_end; // above; both 0: none
    u16 com[4];                // ports of the serial lines; 0: not there
    u8 com_irq[4];
    u16 fw_cfg;  // its first port; 0: there is none
    u16 pvpanic; // port of the panic device; 0: there is none
    bool i8042;  // keyboard controller
    bool vga;    // something answers at the legacy VGA addresses
};

// Write all tables. `base` is the guest-physical address of buf, a multiple of 64; the root pointer is what lies there. Returns the
// number of bytes used, or -ENOSPC. Above 4 GiB or without room for the bytes below it nothing works, so base + size <= 4 GiB.
long acpi_build(const struct acpi_params *p, u8 *buf, size_t size, u64 base);
// The body of the differentiated system description table, without header. Sets b->full when it does not fit.
void acpi_dsdt(const struct acpi_params *p, struct blob *b);

#endif
