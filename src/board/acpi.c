// The fixed tables. They are laid out one after the other in one block, the root pointer first; pointers are guest-physical
// addresses, known as soon as the table they point to has been begun.

#include "board/acpi.h"

#include <errno.h>

#define HEADER_SIZE 36
#define MAX_TABLES 8

#define GAS_MEMORY 0
#define GAS_IO 1

// Offsets and lengths within the PM block (PIIX4).
#define PM1_EVENT 0x00
#define PM1_CONTROL 0x04
#define PM_TIMER 0x08
#define GPE0 0x0c

struct tables {
    const struct acpi_params *p;
    struct blob out;
    u64 base;
    u64 listed[MAX_TABLES]; // what the root tables point to
    unsigned count;
};

static u64 here(const struct tables *t)
{
    return t->base + t->out.len;
}

static void put(struct tables *t, unsigned n, u64 val)
{
    blob_put(&t->out, n, val);
}

// Standard header, with the length and the checksum to come. Returns where it is.
static size_t begin(struct tables *t, const char *signature, u8 revision)
{
    size_t at;

    blob_align(&t->out, 8);
    at = t->out.len;
    blob_bytes(&t->out, signature, 4);
    put(t, 4, 0);
    put(t, 1, revision);
    put(t, 1, 0);
    blob_bytes(&t->out, "POGO  ", 6);
    blob_bytes(&t->out, "POGO", 4);
    blob_bytes(&t->out, signature, 4);
    put(t, 4, 1);
    blob_bytes(&t->out, "POGO", 4);
    put(t, 4, 1);
    return at;
}

static u64 end(struct tables *t, size_t at)
{
    size_t n = t->out.len - at;

    blob_patch(&t->out, at + 4, 4, n);
    blob_patch(&t->out, at + 9, 1, blob_checksum(&t->out, at, n));
    return t->base + at;
}

static void list(struct tables *t, u64 table)
{
    t->listed[t->count++] = table;
}

// Generic address structure. ACPI 6.4 5.2.3.2. `access` is 1 byte, 2 word, 3 dword.
static void put_gas(struct tables *t, u8 space, u8 bits, u8 access, u64 a)
{
    put(t, 1, a ? space : 0);
    put(t, 1, a ? bits : 0);
    put(t, 1, 0);
    put(t, 1, a ? access : 0);
    put(t, 8, a);
}

// Firmware ACPI control structure: no header, no checksum; aligned to 64.
static u64 facs(struct tables *t)
{
    u64 at;

    blob_align(&t->out, 64);
    at = here(t);
    blob_bytes(&t->out, "FACS", 4);
    put(t, 4, 64);
    blob_zero(&t->out, 24);
    put(t, 1, 2); // version
    blob_zero(&t->out, 31);
    return at;
}

static u64 dsdt(struct tables *t)
{
    size_t at = begin(t, "DSDT", 2); // 64-bit integers

    acpi_dsdt(t->p, &t->out);
    return end(t, at);
}

#define FADT_WBINVD (1u << 0)
#define FADT_PROC_C1 (1u << 2)
#define FADT_NO_SLEEP_BUTTON (1u << 5)
#define FADT_NO_FIXED_RTC (1u << 6)
#define FADT_RESET_REG (1u << 10)
#define FADT_PLATFORM_CLOCK (1u << 15)

#define BOOT_LEGACY_DEVICES 1u
#define BOOT_8042 2u
#define BOOT_NO_VGA 4u

// Fixed ACPI description table, revision 5.1. ACPI 6.4 5.2.9.
static void fadt(struct tables *t, u64 facs_at, u64 dsdt_at)
{
    const struct acpi_params *p = t->p;
    size_t at = begin(t, "FACP", 5);

    put(t, 4, facs_at);
    put(t, 4, dsdt_at);
    put(t, 1, 0);
    put(t, 1, 0); // preferred profile: unspecified
    put(t, 2, p->sci_irq);
    put(t, 4, p->apm_port);
    put(t, 1, p->acpi_enable);
    put(t, 1, p->acpi_disable);
    put(t, 2, 0);
    put(t, 4, p->pm_base + PM1_EVENT);
    put(t, 4, 0);
    put(t, 4, p->pm_base + PM1_CONTROL);
    put(t, 4, 0);
    put(t, 4, 0);
    put(t, 4, p->pm_base + PM_TIMER);
    put(t, 4, p->pm_base + GPE0);
    put(t, 4, 0);
    put(t, 1, 4); // lengths: PM1 event, control, PM2, timer, GPE0, GPE1
    put(t, 1, 2);
    put(t, 1, 0);
    put(t, 1, 4);
    put(t, 1, 4);
    blob_zero(&t->out, 3);
    put(t, 2, 0xfff); // C2 and C3 latencies: not supported
    put(t, 2, 0xfff);
    put(t, 2, 0); // cache flush parameters, duty cycle: not used
    put(t, 2, 0);
    put(t, 2, 0);
    put(t, 2, 0);    // day and month alarm: none
    put(t, 1, 0x32); // the RTC's century register
    put(t, 2, BOOT_LEGACY_DEVICES | (p->i8042 ? BOOT_8042 : 0) | (p->vga ? 0 : BOOT_NO_VGA));
    put(t, 1, 0);
    put(t, 4,
        FADT_WBINVD | FADT_PROC_C1 | FADT_NO_SLEEP_BUTTON | FADT_NO_FIXED_RTC | FADT_RESET_REG | FADT_PLATFORM_CLOCK);
    put_gas(t, GAS_IO, 8, 1, p->reset_port);
    put(t, 1, p->reset_value);
    put(t, 2, 0);
    put(t, 1, 1); // minor revision
    put(t, 8, 0); // the 32-bit field has the FACS
    put(t, 8, dsdt_at);
    put_gas(t, GAS_IO, 32, 2, p->pm_base + PM1_EVENT);
    put_gas(t, GAS_IO, 0, 0, 0);
    put_gas(t, GAS_IO, 16, 2, p->pm_base + PM1_CONTROL);
    put_gas(t, GAS_IO, 0, 0, 0);
    put_gas(t, GAS_IO, 0, 0, 0);
    put_gas(t, GAS_IO, 32, 3, p->pm_base + PM_TIMER);
    put_gas(t, GAS_IO, 32, 1, p->pm_base + GPE0);
    put_gas(t, GAS_IO, 0, 0, 0);
    put_gas(t, GAS_IO, 0, 0, 0); // sleep control and status: not hardware-reduced
    put_gas(t, GAS_IO, 0, 0, 0);
    list(t, end(t, at));
}

#define MADT_LEVEL_LOW 0x000f

static void interrupt_override(struct tables *t, u8 irq, u32 gsi, u16 flags)
{
    put(t, 1, 2);
    put(t, 1, 10);
    put(t, 1, 0); // ISA
    put(t, 1, irq);
    put(t, 4, gsi);
    put(t, 2, flags);
}

// Interrupt controllers. ACPI 6.4 5.2.12.
static void madt(struct tables *t)
{
    const struct acpi_params *p = t->p;
    size_t at = begin(t, "APIC", 3);

    put(t, 4, p->lapic);
    put(t, 4, 1); // there are 8259s, too
    for (unsigned i = 0; i < p->cpus; i++) {
        put(t, 1, 0); // local APIC
        put(t, 1, 8);
        put(t, 1, i); // processor UID
        put(t, 1, i);
        put(t, 4, 1); // enabled
    }
    if (p->ioapic) {
        put(t, 1, 1);
        put(t, 1, 12);
        put(t, 2, 0); // ID
        put(t, 4, p->ioapic);
        put(t, 4, 0);                   // its first interrupt
        interrupt_override(t, 0, 2, 0); // the timer is at input 2, as on every PC
        interrupt_override(t, p->sci_irq, p->sci_irq, MADT_LEVEL_LOW);
    }
    put(t, 1, 4); // NMI of every processor: LINT1
    put(t, 1, 6);
    put(t, 1, 0xff);
    put(t, 2, 0);
    put(t, 1, 1);
    list(t, end(t, at));
}

// IA-PC HPET 1.0a 3.2.4.
static void hpet(struct tables *t)
{
    size_t at = begin(t, "HPET", 1);

    put(t, 4, 0x8086a201); // Intel, legacy replacement, 64-bit counter, three comparators, revision 1
    put_gas(t, GAS_MEMORY, 64, 0, t->p->hpet);
    put(t, 1, 0);
    put(t, 2, 100); // shortest period, in main counter ticks
    put(t, 1, 0);
    list(t, end(t, at));
}

// Windows ACPI emulated devices table: neither the RTC nor the PM timer needs workarounds.
static void waet(struct tables *t)
{
    size_t at = begin(t, "WAET", 1);

    put(t, 4, 3);
    list(t, end(t, at));
}

static u64 root_table(struct tables *t, const char *signature, unsigned width)
{
    size_t at = begin(t, signature, 1);

    for (unsigned i = 0; i < t->count; i++)
        put(t, width, t->listed[i]);
    return end(t, at);
}

#define ROOT_POINTER_SIZE 36

// Root system description pointer, revision 2. ACPI 6.4 5.2.5.3.
static void root_pointer(struct tables *t, u64 rsdt, u64 xsdt)
{
    struct blob b = {.buf = t->out.buf, .size = ROOT_POINTER_SIZE};

    blob_bytes(&b, "RSD PTR ", 8);
    blob_put(&b, 1, 0);
    blob_bytes(&b, "POGO  ", 6);
    blob_put(&b, 1, 2);
    blob_put(&b, 4, rsdt);
    blob_put(&b, 4, ROOT_POINTER_SIZE);
    blob_put(&b, 8, xsdt);
    blob_put(&b, 4, 0);
    blob_patch(&b, 8, 1, blob_checksum(&b, 0, 20));
    blob_patch(&b, 32, 1, blob_checksum(&b, 0, ROOT_POINTER_SIZE));
}

long acpi_build(const struct acpi_params *p, u8 *buf, size_t size, u64 base)
{
    struct tables t = {.p = p, .out = {.buf = buf, .size = size}, .base = base};
    u64 facs_at, dsdt_at, rsdt, xsdt;

    blob_zero(&t.out, ROOT_POINTER_SIZE);
    facs_at = facs(&t);
    dsdt_at = dsdt(&t);
    fadt(&t, facs_at, dsdt_at);
    madt(&t);
    if (p->hpet)
        hpet(&t);
    waet(&t);
    rsdt = root_table(&t, "RSDT", 4);
    xsdt = root_table(&t, "XSDT", 8);
    if (t.out.full)
        return -ENOSPC;
    root_pointer(&t, rsdt, xsdt);
    return (long)t.out.len;
}
