// The DSDT: devices, their resources, how PCI interrupts are routed, and what to write to switch the machine off.
//
// Two ways of interrupts. While the operating system has not said that it uses the I/O APIC (_PIC), the pins of PCI slots
// lead to four link devices, which are the routing registers of the PIIX3. With the I/O APIC they are its inputs 16 to 19.

#include "board/acpi.h"
#include "board/aml.h"

#define SLOTS 32
#define PINS 4
#define GSI_PIRQA 16
#define LINK_IRQS (1u << 5 | 1u << 10 | 1u << 11)

static const char *const links[PINS] = {"\\_SB.LNKA", "\\_SB.LNKB", "\\_SB.LNKC", "\\_SB.LNKD"};
static const char *const routes[PINS] = {"\\_SB.PCI0.ISA.PRQA", "\\_SB.PCI0.ISA.PRQB", "\\_SB.PCI0.ISA.PRQC",
                                         "\\_SB.PCI0.ISA.PRQD"};

// The same turn as in the wiring: INTA of slot 1 is PIRQA.
static unsigned pirq(unsigned slot, unsigned pin)
{
    return (slot + 3 + pin) & 3;
}

static void route_table(struct aml *a, const char *name, bool apic)
{
    aml_name(a, name);
    aml_begin_package(a, SLOTS * PINS);
    for (unsigned slot = 0; slot < SLOTS; slot++)
        for (unsigned pin = 0; pin < PINS; pin++) {
            aml_begin_package(a, 4);
            aml_int(a, (u64)slot << 16 | 0xffff);
            aml_int(a, pin);
            if (apic) {
                aml_int(a, 0);
                aml_int(a, GSI_PIRQA + pirq(slot, pin));
            } else {
                aml_path(a, links[pirq(slot, pin)]);
                aml_int(a, 0);
            }
            aml_end(a);
        }
    aml_end(a);
}

static void routing(struct aml *a, const struct acpi_params *p)
{
    route_table(a, "PRTP", false);
    if (p->ioapic)
        route_table(a, "PRTA", true);
    aml_begin_method(a, "_PRT", 0, false);
    if (p->ioapic) {
        aml_begin_if(a);
        aml_path(a, "\\PICF");
        aml_op(a, AML_RETURN);
        aml_path(a, "PRTA");
        aml_end(a);
    }
    aml_op(a, AML_RETURN);
    aml_path(a, "PRTP");
    aml_end(a);
}

// op (source, operand, target)
static void binary(struct aml *a, enum aml_op op, const char *source, u64 operand)
{
    aml_op(a, op);
    aml_path(a, source);
    aml_int(a, operand);
}

static void link_status(struct aml *a, const char *route)
{
    aml_begin_method(a, "_STA", 0, false);
    aml_begin_if(a);
    binary(a, AML_AND, route, 0x80);
    aml_op(a, AML_ZERO); // no target
    aml_op(a, AML_RETURN);
    aml_int(a, 0x09); // there, and switched off
    aml_end(a);
    aml_op(a, AML_RETURN);
    aml_int(a, 0x0b);
    aml_end(a);
}

static void link_current(struct aml *a, const char *route)
{
    aml_begin_method(a, "_CRS", 0, true);
    aml_name(a, "BUF");
    aml_begin_resources(a);
    aml_res_irq_level_low(a, 1);
    aml_end(a);
    aml_op(a, AML_CREATE_WORD_FIELD); // the mask of interrupts in it
    aml_path(a, "BUF");
    aml_int(a, 1);
    aml_path(a, "IRQW");
    aml_op(a, AML_SHIFT_LEFT);
    aml_op(a, AML_ONE);
    binary(a, AML_AND, route, 0x0f);
    aml_op(a, AML_ZERO);
    aml_path(a, "IRQW");
    aml_op(a, AML_RETURN);
    aml_path(a, "BUF");
    aml_end(a);
}

static void link_set(struct aml *a, const char *route)
{
    aml_begin_method(a, "_SRS", 1, true);
    aml_op(a, AML_CREATE_WORD_FIELD);
    aml_op(a, AML_ARG0);
    aml_int(a, 1);
    aml_path(a, "IRQW");
    aml_op(a, AML_FIND_SET_RIGHT_BIT); // counts from 1
    aml_path(a, "IRQW");
    aml_op(a, AML_LOCAL0);
    aml_op(a, AML_DECREMENT);
    aml_op(a, AML_LOCAL0);
    aml_op(a, AML_STORE);
    aml_op(a, AML_LOCAL0);
    aml_path(a, route);
    aml_end(a);
}

static void link_device(struct aml *a, unsigned n)
{
    aml_begin_device(a, links[n] + strlen("\\_SB."));
    aml_name_eisa(a, "_HID", "PNP0C0F");
    aml_name_int(a, "_UID", n + 1);
    aml_name(a, "_PRS");
    aml_begin_resources(a);
    aml_res_irq_level_low(a, LINK_IRQS);
    aml_end(a);
    link_status(a, routes[n]);
    aml_begin_method(a, "_DIS", 0, false);
    binary(a, AML_OR, routes[n], 0x80);
    aml_path(a, routes[n]);
    aml_end(a);
    link_current(a, routes[n]);
    link_set(a, routes[n]);
    aml_end(a);
}

// A device of the board with up to two port ranges and an interrupt.
struct isa_row {
    const char *name, *id;
    u16 port[2];
    u8 len[2];
    u16 irqs;
};

static void isa_device(struct aml *a, const struct isa_row *r)
{
    aml_begin_device(a, r->name);
    aml_name_eisa(a, "_HID", r->id);
    aml_name(a, "_CRS");
    aml_begin_resources(a);
    for (unsigned i = 0; i < 2; i++)
        if (r->len[i])
            aml_res_io(a, r->port[i], r->len[i]);
    if (r->irqs)
        aml_res_irq(a, r->irqs);
    aml_end(a);
    aml_end(a);
}

static void serial_device(struct aml *a, unsigned n, u16 port, u8 irq)
{
    char name[] = "COM1";

    name[3] = (char)('1' + n);
    aml_begin_device(a, name);
    aml_name_eisa(a, "_HID", "PNP0501");
    aml_name_int(a, "_UID", n + 1);
    aml_name(a, "_CRS");
    aml_begin_resources(a);
    aml_res_io(a, port, 8);
    aml_res_irq(a, (u16)(1u << irq));
    aml_end(a);
    aml_end(a);
}

// A device that only virtual machines have.
static void qemu_device(struct aml *a, const char *name, const char *id, u16 port, u8 len)
{
    aml_begin_device(a, name);
    aml_name_string(a, "_HID", id);
    aml_name_int(a, "_STA", 0x0b); // works, and is not shown to the user
    aml_name(a, "_CRS");
    aml_begin_resources(a);
    aml_res_io(a, port, len);
    aml_end(a);
    aml_end(a);
}

static void isa_bridge(struct aml *a, const struct acpi_params *p)
{
    static const struct isa_row rows[] = {
        {"PIC", "PNP0000", {0x20, 0xa0}, {2, 2}, 1u << 2}, {"TIMR", "PNP0100", {0x40, 0}, {4, 0}, 1u << 0},
        {"SPKR", "PNP0800", {0x61, 0}, {1, 0}, 0},         {"RTC", "PNP0B00", {0x70, 0}, {2, 0}, 1u << 8},
        {"FPU", "PNP0C04", {0xf0, 0}, {2, 0}, 1u << 13},
    };
    static const struct isa_row keyboard[] = {
        {"KBD", "PNP0303", {0x60, 0x64}, {1, 1}, 1u << 1},
        {"MOU", "PNP0F13", {0, 0}, {0, 0}, 1u << 12},
    };

    aml_begin_device(a, "ISA");
    aml_name_int(a, "_ADR", 0x00010000);
    aml_pci_region(a, "P40C", 0x60, 4);
    aml_begin_byte_field(a, "P40C");
    for (unsigned i = 0; i < PINS; i++)
        aml_field(a, routes[i] + strlen("\\_SB.PCI0.ISA."), 8);
    aml_end(a);
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++)
        isa_device(a, &rows[i]);
    for (unsigned i = 0; p->i8042 && i < ARRAY_LEN(keyboard); i++)
        isa_device(a, &keyboard[i]);
    for (unsigned i = 0; i < ARRAY_LEN(p->com); i++)
        if (p->com[i])
            serial_device(a, i, p->com[i], p->com_irq[i]);
    if (p->pvpanic)
        qemu_device(a, "PEVT", "QEMU0001", p->pvpanic, 1);
    if (p->fw_cfg)
        qemu_device(a, "FWCF", "QEMU0002", p->fw_cfg, 12);
    aml_end(a);
}

// Ports that belong to nobody's driver and must not be given away.
static void board_resources(struct aml *a, const struct acpi_params *p)
{
    aml_begin_device(a, "MBRD");
    aml_name_eisa(a, "_HID", "PNP0C02");
    aml_name(a, "_CRS");
    aml_begin_resources(a);
    aml_res_io(a, 0x80, 1);
    aml_res_io(a, 0x92, 1);
    aml_res_io(a, p->apm_port, 2);
    aml_res_io(a, 0x4d0, 2);
    aml_res_io(a, p->pm_base, 64);
    if (p->smbus_base)
        aml_res_io(a, p->smbus_base, 16);
    aml_end(a);
    aml_end(a);
}

static void pci_bridge(struct aml *a, const struct acpi_params *p)
{
    aml_begin_device(a, "PCI0");
    aml_name_eisa(a, "_HID", "PNP0A03");
    aml_name_int(a, "_UID", 0);
    aml_name_int(a, "_BBN", 0);
    aml_name(a, "_CRS");
    aml_begin_resources(a);
    aml_res_bus_numbers(a, 0, 0xff);
    aml_res_io(a, 0xcf8, 8);
    aml_res_io_window(a, 0, 0xcf7);
    aml_res_io_window(a, 0xd00, 0xffff);
    aml_res_memory_window(a, 0xa0000, 0xbffff, true);
    aml_res_memory_window(a, (u32)p->mem_base, (u32)(p->mem_end - 1), false);
    if (p->mem64_end > p->mem64_base)
        aml_res_memory64_window(a, p->mem64_base, p->mem64_end - 1);
    aml_end(a);
    routing(a, p);
    isa_bridge(a, p);
    board_resources(a, p);
    aml_end(a);
}

static void hpet_device(struct aml *a, const struct acpi_params *p)
{
    aml_begin_device(a, "HPET");
    aml_name_eisa(a, "_HID", "PNP0103");
    aml_name_int(a, "_UID", 0);
    aml_name(a, "_CRS");
    aml_begin_resources(a);
    aml_res_memory32(a, (u32)p->hpet, 0x400);
    aml_end(a);
    aml_end(a);
}

static void processor(struct aml *a, unsigned n)
{
    static const char hex[] = "0123456789ABCDEF";
    const char name[] = {'C', '0', hex[n >> 4 & 15], hex[n & 15], 0};

    aml_begin_device(a, name);
    aml_name_string(a, "_HID", "ACPI0007");
    aml_name_int(a, "_UID", n);
    aml_end(a);
}

static void interrupt_model(struct aml *a)
{
    aml_name_int(a, "PICF", 0);
    aml_begin_method(a, "_PIC", 1, false);
    aml_op(a, AML_STORE);
    aml_op(a, AML_ARG0);
    aml_path(a, "PICF");
    aml_end(a);
}

static void soft_off(struct aml *a, const struct acpi_params *p)
{
    aml_name(a, "_S5");
    aml_begin_package(a, 4);
    aml_int(a, p->slp_typ_s5);
    aml_int(a, p->slp_typ_s5);
    aml_int(a, 0);
    aml_int(a, 0);
    aml_end(a);
}

void acpi_dsdt(const struct acpi_params *p, struct blob *b)
{
    struct aml a = {.out = *b};

    interrupt_model(&a);
    soft_off(&a, p);
    aml_begin_scope(&a, "\\_SB");
    pci_bridge(&a, p);
    for (unsigned i = 0; i < PINS; i++)
        link_device(&a, i);
    if (p->hpet)
        hpet_device(&a, p);
    for (unsigned i = 0; i < p->cpus; i++)
        processor(&a, i);
    aml_end(&a);
    *b = a.out;
    b->full |= a.bad || a.depth;
}
