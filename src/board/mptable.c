// The two structures of the MP specification, chapter 4. Interrupts are as in the ACPI tables: those of ISA at the input of their
// number, but for the timer, which is at 2; those of PCI slots at four inputs from PIRQA's on.

#include "board/mptable.h"

#include <errno.h>

#define POINTER_SIZE 16
#define SPEC_REV 4
#define APIC_VERSION 0x14
#define IOAPIC_VERSION 0x11

enum { ENTRY_PROCESSOR, ENTRY_BUS, ENTRY_IOAPIC, ENTRY_IO_INTERRUPT, ENTRY_LOCAL_INTERRUPT };
enum { INT_VECTORED = 0, INT_NMI = 1, INT_EXTINT = 3 };
enum { BUS_PCI, BUS_ISA };

#define CPU_ENABLED 1u
#define CPU_BOOTSTRAP 2u
#define IOAPIC_ENABLED 1u
#define ALL_APICS 0xff
#define PCI_SLOTS 32
#define PCI_PINS 4
#define ISA_IRQS 16
#define ISA_CASCADE 2
#define TIMER_INPUT 2

static void processor(struct blob *b, const struct mptable_params *p, unsigned id)
{
    blob_put(b, 1, ENTRY_PROCESSOR);
    blob_put(b, 1, id);
    blob_put(b, 1, APIC_VERSION);
    blob_put(b, 1, CPU_ENABLED | (id ? 0 : CPU_BOOTSTRAP));
    blob_put(b, 4, p->signature);
    blob_put(b, 4, p->features);
    blob_zero(b, 8);
}

static void bus(struct blob *b, u8 id, const char *name)
{
    blob_put(b, 1, ENTRY_BUS);
    blob_put(b, 1, id);
    blob_bytes(b, name, 6);
}

static void ioapic(struct blob *b, const struct mptable_params *p)
{
    blob_put(b, 1, ENTRY_IOAPIC);
    blob_put(b, 1, p->ioapic_id);
    blob_put(b, 1, IOAPIC_VERSION);
    blob_put(b, 1, IOAPIC_ENABLED);
    blob_put(b, 4, p->ioapic);
}

// Polarity and trigger are those of the bus.
static void interrupt(struct blob *b, u8 entry, u8 type, u8 from_bus, u8 from_irq, u8 apic, u8 input)
{
    blob_put(b, 1, entry);
    blob_put(b, 1, type);
    blob_put(b, 2, 0);
    blob_put(b, 1, from_bus);
    blob_put(b, 1, from_irq);
    blob_put(b, 1, apic);
    blob_put(b, 1, input);
}

// Returns the number of entries.
static unsigned interrupts(struct blob *b, const struct mptable_params *p)
{
    unsigned n = 0;

    for (unsigned slot = 0; slot < PCI_SLOTS; slot++)
        for (unsigned pin = 0; pin < PCI_PINS; pin++, n++)
            interrupt(b, ENTRY_IO_INTERRUPT, INT_VECTORED, BUS_PCI, (u8)(slot << 2 | pin), p->ioapic_id,
                      (u8)(p->gsi_pirqa + ((slot + 3 + pin) & 3)));
    for (unsigned irq = 0; irq < ISA_IRQS; irq++) {
        if (irq == ISA_CASCADE)
            continue;
        interrupt(b, ENTRY_IO_INTERRUPT, INT_VECTORED, BUS_ISA, (u8)irq, p->ioapic_id, irq ? (u8)irq : TIMER_INPUT);
        n++;
    }
    interrupt(b, ENTRY_LOCAL_INTERRUPT, INT_EXTINT, BUS_ISA, 0, 0, 0); // the 8259's, at LINT0
    interrupt(b, ENTRY_LOCAL_INTERRUPT, INT_NMI, BUS_ISA, 0, ALL_APICS, 1);
    return n + 2;
}

static void header(struct blob *b, const struct mptable_params *p)
{
    blob_bytes(b, "PCMP", 4);
    blob_put(b, 2, 0); // length, to come
    blob_put(b, 1, SPEC_REV);
    blob_put(b, 1, 0); // checksum, to come
    blob_bytes(b, "POGO    ", 8);
    blob_bytes(b, "PC          ", 12);
    blob_zero(b, 6);   // no table of the maker's
    blob_put(b, 2, 0); // number of entries, to come
    blob_put(b, 4, p->lapic);
    blob_zero(b, 4); // no extension
}

static void pointer(struct blob *b, u64 base)
{
    blob_bytes(b, "_MP_", 4);
    blob_put(b, 4, base + POINTER_SIZE);
    blob_put(b, 1, POINTER_SIZE / 16);
    blob_put(b, 1, SPEC_REV);
    blob_put(b, 1, 0);
    blob_zero(b, 5); // there is a configuration table; interrupts come in virtual wire mode
    blob_patch(b, 10, 1, blob_checksum(b, 0, POINTER_SIZE));
}

long mptable_build(const struct mptable_params *p, u8 *buf, size_t size, u64 base)
{
    struct blob b = {.buf = buf, .size = size};
    const size_t at = POINTER_SIZE;
    unsigned entries = p->cpus + 3;

    pointer(&b, base);
    header(&b, p);
    for (unsigned i = 0; i < p->cpus; i++)
        processor(&b, p, i);
    bus(&b, BUS_PCI, "PCI   ");
    bus(&b, BUS_ISA, "ISA   ");
    ioapic(&b, p);
    entries += interrupts(&b, p);
    if (b.full)
        return -ENOSPC;
    blob_patch(&b, at + 4, 2, b.len - at);
    blob_patch(&b, at + 34, 2, entries);
    blob_patch(&b, at + 7, 1, blob_checksum(&b, at, b.len - at));
    return (long)b.len;
}
