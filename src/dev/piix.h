// Intel PIIX3 ISA bridge (82371SB, PCI function 00:01.0) and PIIX4 power management (82371AB, 00:01.3): the interrupt router, and what
// ACPI's fixed hardware is made of. Facts from the 82371SB and 82371AB data sheets and ACPI 6.4 chapter 4.8.
#ifndef POGO_DEV_PIIX_H
#define POGO_DEV_PIIX_H

#include "core/clock.h"
#include "core/dev.h"
#include "dev/pci.h"

#define PIIX_SCI_IRQ 9

// The ISA bridge routes PIRQA..D to ISA interrupts as registers 0x60 to 0x63 say. The inputs are level-triggered and shared: an
// ISA interrupt is up while any of its sources is. The system control interrupt joins in as the fifth source. Firmware sets
// the ELCR bits of the interrupts it routes to; the 8259 has that register.
struct piix3 {
    struct pci_dev pci;        // first
    struct irq_line isa[16];   // to the interrupt controllers
    struct irq_line direct[4]; // PIRQA..D unrouted, for a controller with inputs of their own
    u8 pirq;                   // levels of PIRQA..D
    bool sci;
    u16 out; // levels of isa[]
};

// Make the function and put it on the bus; keeps isa and direct. Returns what pci_add() does.
int piix3_init(struct piix3 *p, struct pci_bus *bus);
// Sinks of irq_line: PIRQ n, and the SCI.
void piix3_set_pirq(void *dev, unsigned n, bool level);
void piix3_set_sci(void *dev, unsigned n, bool level);
// What firmware does: route PIRQA..D to these ISA interrupts.
void piix3_route(struct piix3 *p, const u8 irq[4]);

// Ports at the base that register 0x40 holds, while bit 0 of register 0x80 is set.
#define PIIX4_PM_PORTS 64
#define PIIX4_PM1_EVENT 0x00
#define PIIX4_PM1_CONTROL 0x04
#define PIIX4_PM_TIMER 0x08
#define PIIX4_GPE0 0x0c // status and enable, two bytes each
#define PIIX4_SMBUS_PORTS 16
// Values for the SMI command port that switch between ACPI and legacy power management.
#define PIIX4_APM_PORT 0xb2 // two ports
#define PIIX4_ACPI_ENABLE 0xf1
#define PIIX4_ACPI_DISABLE 0xf0
// SLP_TYP values.
#define PIIX4_SLP_S5 0
#define PIIX4_TIMER_HZ 3579545u

struct piix4_pm {
    struct pci_dev pci; // first
    struct irq_line sci;
    struct clock *clock;
    void (*power_off)(void *sink, int status);
    void *sink;

    u16 status, enable, control; // PM1
    u16 gpe_status, gpe_enable;
    u64 overflow; // timer value at which TMR_STS is set next, not truncated
    struct clock_timer timer;
    u8 apm[2]; // ports 0xb2, 0xb3
    u8 smbus[PIIX4_SMBUS_PORTS];
    u8 other[PIIX4_PM_PORTS]; // registers of the PM block that only keep what is written
};

extern const struct dev_ops piix4_apm_ops; // dev is the struct piix4_pm

// Make the function and put it on the bus; keeps sci, clock, power_off and sink. Returns what pci_add() and clock_add_timer()
// do.
int piix4_pm_init(struct piix4_pm *p, struct pci_bus *bus);
// What firmware does: place the ports and switch them on.
void piix4_pm_place(struct piix4_pm *p, u16 pm_base, u16 smbus_base);
// The power button was pressed. Returns false when the guest does not listen.
bool piix4_power_button(struct piix4_pm *p);

#endif
